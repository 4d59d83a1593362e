"""What training minimises: errors of pixels, their spectrum, and means; steps between patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = 3
CELL = 32  # pixels per side of what counts as a place's brightness
LEAST = 1e-4  # added to the root mean square, as roots of nothing have no slope


@dataclass(frozen=True)
class Loss:
    """The root mean square error of colours [b, 3, height, width], plus weighted terms.

    Its logarithm is the PSNR. Images under dense haze have many times the error of others; with a knee, the
    logarithm gives each image a say by its share, as the mean of their PSNR does.
    """

    frequency: float = 0.05  # weight of the error of the 2-D spectrum
    cells: float = 0.3  # weight of the error of means of CELL x CELL pixels: a scene's brightness is hardest
    seam: float = 0.0  # weight of steps in the error where patches meet
    haze: float = 0.2  # weight of the error of transmission, of networks that tell it
    knee: float = 0.1  # from which error on it counts by its logarithm only; 0: all count as they are

    def __call__(
        self, output: Tensor, clear: Tensor, patch: int, transmission: Tensor | None = None
    ) -> Tensor:
        """The loss of outputs [b, 3 or 4, height, width] made of `patch`-pixel patches."""
        error = output[:, :COLOURS].float() - clear.float()
        loss = (error.square().mean((1, 2, 3)) + LEAST**2).sqrt()
        if self.frequency:
            loss = loss + self.frequency * spectrum_error(error)
        if self.cells:
            loss = loss + self.cells * F.avg_pool2d(error, min(CELL, *error.shape[2:])).abs().mean((1, 2, 3))
        if self.seam and max(error.shape[2:]) > patch:
            loss = loss + self.seam * seam_error(error, patch)
        if self.knee:
            loss = self.knee * torch.log1p(loss / self.knee)
        loss = loss.mean()
        if self.haze and transmission is not None and output.shape[1] > COLOURS:
            loss = loss + self.haze * transmission_error(output[:, COLOURS:].float(), transmission)
        return loss


def transmission_error(told: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of transmission where the true one is known, which is NaN elsewhere."""
    known = true.isfinite()
    # NaN times nothing is NaN, in gradients too.
    error = torch.where(known, told - torch.where(known, true, 0), 0).abs()
    return error.sum() / known.sum().clamp(min=1)


def spectrum_error(error: Tensor) -> Tensor:
    """Mean absolute real and imaginary part of each error's Fourier coefficients [b], as published.

    Coefficients are scaled by 1/sqrt(pixels), so that the term means the same at every crop size.
    """
    return torch.view_as_real(torch.fft.rfft2(error, norm="ortho")).abs().mean((1, 2, 3, 4))


def seam_error(error: Tensor, patch: int) -> Tensor:
    """Mean step of each error [b] from one patch to the next; where the error is smooth there is none."""
    down = error[:, :, patch::patch] - error[:, :, patch - 1 : -1 : patch]
    right = error[:, :, :, patch::patch] - error[:, :, :, patch - 1 : -1 : patch]
    return torch.cat([down.flatten(1), right.flatten(1)], dim=1).abs().mean(1)
