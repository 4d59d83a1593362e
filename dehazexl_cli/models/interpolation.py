"""Linear interpolation along an axis as weights to multiply with, several times faster than F.interpolate."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_weights(places: Tensor, size: int) -> Tensor:
    """Weights [..., size] that read an axis of `size` cells at fractional places [...], held at its ends."""
    places = places.clamp(0, size - 1)
    return (1 - (places[..., None] - torch.arange(size, device=places.device)).abs()).clamp(min=0)


def bilinear_weights(size: int, cells: int, margin: int = 0) -> Tensor:
    """Weights [size, cells + 2·margin] that raise an axis of cells to `size`.

    With a margin there are further cells on either side; without one, the ends are held level.
    """
    # On the CPU, also of a network without numbers: as "meta", they would load torch's compiler, 80 MB.
    at = torch.arange(size, device="cpu")
    return linear_weights((at + 0.5) * cells / size - 0.5 + margin, cells + 2 * margin)
