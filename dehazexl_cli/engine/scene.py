"""A scene about to be dehazed, with everything about it decided, and how that is done this time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dehazexl_cli.engine.scaling import Group
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.base import Pixels, RasterReader
from dehazexl_cli.report import Report

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all

GROUND_SIDE = 256  # of the thinned view that the scene's mean colour is taken from


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
    unseen: float | None = None  # what pixels under closed cloud become; None: they stay as they are
    tells_haze: bool = False  # whether rows of the result have one band more: how much light gets through

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


class Progress:
    """Counts the patches of a phase and tells a watch, which may raise to have the run end."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch or (lambda phase, done, total: None)
        self.phase = "encode"
        self._done = self._total = 0

    def begin(self, phase: str, total: int) -> None:
        """Begin a phase of so many patches."""
        self.phase, self._done, self._total = phase, 0, total
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count patches that are done."""
        self._done += count
        if self._total:  # there is nothing to do for a part without ground
            self._watch(self.phase, self._done, self._total)


@dataclass(frozen=True)
class RunContext:
    """One attempt at a scene."""

    plan: Plan
    models: Sequence[DehazeModel]  # replicas, each on its device; the first sees all patches
    report: Report
    progress: Progress
    folder: Path | None = None  # where what finds no room in memory may be put
