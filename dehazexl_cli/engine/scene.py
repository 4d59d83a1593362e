"""A scene about to be dehazed, with everything about it decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from dehazexl_cli.engine.device import Scaling
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.raster.base import Pixels, RasterReader, ValueRange

GROUND_SIDE = 256  # of the thinned view that the scene's mean colour is taken from


@dataclass(frozen=True)
class Group:
    """Bands that are shown to the model together: three colours, or one grey."""

    bands: tuple[int, ...]  # 1-based
    ranges: tuple[ValueRange, ...]  # of each band

    def levels(self, device: torch.device) -> Scaling:
        """The ranges as the transfer to the device takes them."""
        if len(set(self.ranges)) == 1:
            return self.ranges[0]
        lows, scales = ([getattr(range, name) for range in self.ranges] for name in ("low", "scale"))
        wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no wider one
        return BandScaling(*(torch.tensor(x, dtype=wide, device=device) for x in (lows, scales)))


class BandScaling:
    """Levels that differ between bands: tensors [bands, 1, 1] beside pixels [..., bands, height, width]."""

    def __init__(self, low: torch.Tensor, scale: torch.Tensor) -> None:
        self.low, self.scale = low[:, None, None], scale[:, None, None]


@dataclass(frozen=True)
class Scene:
    """That part of a raster which has ground, and what is to be done with it."""

    reader: RasterReader
    grid: PatchGrid
    groups: tuple[Group, ...]  # each is dehazed by itself
    strength: float  # 0 leaves the scene as it is, 1 applies all of the model's change
    device: torch.device
    wanted: Box  # the part of the scene that is written; all of it is looked at
    ground: Box | None = None  # where the scene lies in its raster; None: it is all of it

    @property
    def bands(self) -> tuple[int, ...]:
        """The bands of all groups, 1-based, in the order in which they are read."""
        return tuple(band for group in self.groups for band in group.bands)

    def place(self, group: Group) -> slice:
        """Where the bands of a group lie among those of all groups."""
        first = sum(len(other.bands) for other in self.groups[: self.groups.index(group)])
        return slice(first, first + len(group.bands))

    @cached_property
    def mean(self) -> Pixels:
        """The mean of each band [bands] over valid pixels; zero if there are none."""
        sample = self.reader.sample(self.bands, GROUND_SIDE)
        return sample.mean(axis=1) if sample.size else np.zeros(len(self.bands))

    def wants(self, ids: Sequence[int]) -> bool:
        """Whether any of these patches reaches into the wanted part.

        A batch is decoded whole or not at all, as for the whole scene: then it gives the same bits.
        """
        return any(self.grid.box(id).within(self.wanted).pixels for id in ids)

    def wanted_rows(self) -> range:
        """The rows of patches that reach into the wanted part."""
        rows = [row for row in range(self.grid.rows) if self.wants(self.grid.ids_of_row(row))]
        return range(rows[0], rows[-1] + 1) if rows else range(0)
