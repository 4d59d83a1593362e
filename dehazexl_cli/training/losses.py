"""What training minimises: the mean absolute error of pixels, and of their 2-D spectrum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def restoration_loss(output: Tensor, clear: Tensor, frequency_weight: float) -> Tensor:
    """L1 of images [b, 3, height, width] plus the weighted L1 of their Fourier coefficients.

    The second term is the published code's (real and imaginary parts); coefficients are scaled by
    1/sqrt(pixels), so that the weight means the same at every crop size.
    """
    loss = F.l1_loss(output, clear)
    if not frequency_weight:
        return loss
    error = torch.view_as_real(torch.fft.rfft2(output.float() - clear.float(), norm="ortho"))
    return loss + frequency_weight * error.abs().mean()
