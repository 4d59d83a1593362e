"""Brings source numbers to the units that models see, 0 to 1, and a change in them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dehazexl_cli.raster.base import ValueRange

# Types whose every value float32 cannot hold are worked on in float64.
WIDE = {torch.uint32, torch.int32, torch.float64}
FARTHEST_FLOAT32 = 1e37  # a range; the distance between two numbers of a larger one may be infinite


class Scaling(Protocol):
    """Which source number is shown to the model as 0, and how many make up the way to 1.

    Numbers for all bands, or tensors [bands, 1, 1] that differ between them.
    """

    @property
    def low(self) -> float | Tensor: ...

    @property
    def scale(self) -> float | Tensor: ...


@dataclass(frozen=True)
class Group:
    """Bands that are shown to the model together: three colours, or one grey."""

    bands: tuple[int, ...]  # 1-based
    ranges: tuple[ValueRange, ...]  # of each band

    def scaling(self, device: torch.device) -> Scaling:
        """The ranges as the transfer to the device takes them."""
        if len(set(self.ranges)) == 1:
            return self.ranges[0]
        lows, scales = ([getattr(range, name) for range in self.ranges] for name in ("low", "scale"))
        wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no wider one
        return BandScaling(*(torch.tensor(x, dtype=wide, device=device) for x in (lows, scales)))


class BandScaling:
    """Levels that differ between bands: tensors [bands, 1, 1] beside pixels [..., bands, height, width]."""

    def __init__(self, low: Tensor, scale: Tensor) -> None:
        self.low, self.scale = low[:, None, None], scale[:, None, None]


def normalize(source: Tensor, scaling: Scaling) -> Tensor:
    """Source numbers -> float32 in [0, 1]; what lies outside the range is held at its ends."""
    return as_units(source, scaling).clamp(0, 1).float()


def as_units(source: Tensor, scaling: Scaling) -> Tensor:
    """Source numbers in units of the range; what lies outside it is below 0 or above 1."""
    return (source.to(arithmetic(source.dtype, scaling)) - scaling.low) / scaling.scale


def arithmetic(dtype: torch.dtype, scaling: Scaling) -> torch.dtype:
    """The type in which numbers of a range are computed with: float32 unless they would not fit."""
    far = isinstance(scaling.scale, float) and scaling.scale > FARTHEST_FLOAT32
    return torch.float64 if far or dtype in WIDE else torch.float32


def apply_change(source: Tensor, change: Tensor, scaling: Scaling, bits: int | None = None) -> Tensor:
    """Source numbers with a change, in units of [0, 1], added; rounded and held within the source's type.

    The change is added to the original number, so no change gives back every bit, and what lay outside
    the range of the model keeps its distance from it. `bits` are those in use, if fewer than the type has.
    """
    dtype = source.dtype
    wide = arithmetic(dtype, scaling)
    result = source.to(wide) + (change.to(wide) * scaling.scale).to(wide)
    if dtype.is_floating_point:
        return result.to(dtype)
    limits = torch.iinfo(dtype)
    top = limits.max if bits is None else min(limits.max, 2**bits - 1)
    return result.round().clamp(limits.min, top).to(dtype)
