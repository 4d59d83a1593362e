"""Whether patches or tiles can be told apart in what was changed: the seam score.

Second differences of the change (output minus input, so that the ground itself does not count) are taken
across the lines where patches meet, and across lines elsewhere; the score is the quotient of their mean
sizes. Lines elsewhere lie whole tokens away from a patch line: what a network does in the rhythm of its own
cells is then the same on both sides of the quotient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dehazexl_cli.grid import Box, SeamLines
from dehazexl_cli.raster.base import Pixels

FINE, BROAD = 1, 16  # pixels from the middle of a second difference to its ends
BESIDE = 2  # pixels on either side of a line whose mean colours tell the height of a seam
STRETCH = 256  # pixels along a line that are judged together
REACH = 16  # how far from a line its own pixels lie: the larger of BROAD and 2 * BESIDE
LEVELS = 255.0  # in which heights are told, of the whole range


class Seam(NamedTuple):
    """A stretch of a line where patches meet."""

    box: Box  # the pixels on either side of the line, in the scene
    height: float  # how much the change jumps there beyond its own slope, in levels of 255


@dataclass(frozen=True)
class Seams:
    """What was found at the lines; 1 is perfect for every quotient, nan where nothing could be measured."""

    score: float  # second differences of neighbouring pixels, at lines over elsewhere
    broad: float  # the same over 16 pixels to either side, which a feathered edge does not escape
    error: float  # difference from the reference, beside lines over elsewhere; nan without a reference
    stretches: tuple[Seam, ...]  # highest first


@dataclass
class Sums:
    """Sums of a measure at lines and elsewhere, and over how many values."""

    totals: list[float] = field(default_factory=lambda: [0.0, 0.0])
    counts: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, values: Pixels, counted: Pixels, elsewhere: Pixels) -> None:
        """Values [n, places], which of them count, and which of the places lie elsewhere."""
        for group, wanted in enumerate((~elsewhere, elsewhere)):
            self.totals[group] += float((values * counted)[:, wanted].sum(dtype=np.float64))
            self.counts[group] += float(counted[:, wanted].sum())

    @property
    def quotient(self) -> float:
        """The mean at lines over the mean elsewhere."""
        if not all(self.counts):
            return math.nan
        at, off = (total / count for total, count in zip(self.totals, self.counts, strict=True))
        if off == 0:
            return 1.0 if at == 0 else math.inf
        return at / off


class SeamMeter:
    """Measures seams of a scene whose rows come from top to bottom."""

    def __init__(self, height: int, width: int, bands: int, seam_lines: SeamLines) -> None:
        self._fine, self._broad, self._error = Sums(), Sums(), Sums()
        self._across = Lines(seam_lines, (width, seam_lines.left), height, bands)  # vertical lines
        self._down = Lines(seam_lines, (height, seam_lines.top), width, bands)
        self._top = 0
        self._held: tuple[Pixels, Pixels, Pixels | None] | None = None  # rows that later ones need

    def add(
        self, before: Pixels, after: Pixels, valid: Pixels | None, reference: Pixels | None = None
    ) -> None:
        """The next rows [bands, rows, width] in [0, 1], and which of their pixels count [rows, width]."""
        change = after.astype(np.float32) - before.astype(np.float32)
        ground = np.ones(change.shape[1:], bool) if valid is None else valid
        change = np.where(ground, change, 0)
        error = None if reference is None else abs(after - reference).mean(axis=0)
        self._measure(self._across, change, ground, error, 0, self._top)
        held = self._held
        if held is not None:
            change = np.concatenate([held[0], change], axis=1)
            ground = np.concatenate([held[1], ground])
            error = None if error is None or held[2] is None else np.concatenate([held[2], error])
        self._top += before.shape[1]
        turned = None if error is None else error.T
        first = self._top - change.shape[1]
        self._measure(self._down, change.swapaxes(1, 2), ground.T, turned, first, 0)
        keep = slice(-2 * REACH, None)
        self._held = change[:, keep], ground[keep], None if error is None else error[keep]

    @property
    def seams(self) -> Seams:
        """What the rows so far gave."""
        stretches = [*self._across.stretches(upright=True), *self._down.stretches(upright=False)]
        stretches.sort(key=lambda seam: -seam.height)
        return Seams(self._fine.quotient, self._broad.quotient, self._error.quotient, tuple(stretches))

    def _measure(
        self, lines: Lines, change: Pixels, ground: Pixels, error: Pixels | None, first: int, along: int
    ) -> None:
        """A block [bands, along, across] whose places across begin at `first`; none is taken twice."""
        inside = slice(first + REACH, first + change.shape[2] - REACH)
        places, elsewhere = lines.places(inside)
        local = places - first
        if len(local):
            for span, sums in ((FINE, self._fine), (BROAD, self._broad)):
                bend = change[:, :, local - span] - 2 * change[:, :, local] + change[:, :, local + span]
                counted = ground[:, local - span] & ground[:, local] & ground[:, local + span]
                sums.add(abs(bend).mean(axis=0), counted, elsewhere)
            if error is not None:
                self._error.add(error[:, local], ground[:, local], elsewhere)
        lines.add_sides(change, ground, first, inside, along)


class Lines:
    """The lines along one axis, and mean colours beside each stretch of them."""

    def __init__(self, seam_lines: SeamLines, axis: tuple[int, int], length: int, bands: int) -> None:
        starts = np.array(seam_lines.starts(*axis), np.int64)
        self._edges = np.unique(np.concatenate([starts, starts + seam_lines.shared]))
        off = elsewhere(seam_lines, *axis)
        self._places = np.sort(np.concatenate([self._edges - 1, self._edges, off]))
        self._elsewhere = np.isin(self._places, off)
        self._length = length
        stretches = -(-length // STRETCH)
        # Two strips of pixels before each line, two behind it, from far before to far behind.
        self._sums = np.zeros((4, len(self._edges), bands, stretches))
        self._counts = np.zeros((4, len(self._edges), stretches))

    def places(self, inside: slice) -> tuple[Pixels, Pixels]:
        """Places to be measured in a range, and which of them lie elsewhere than at a line."""
        chosen = (self._places >= inside.start) & (self._places < inside.stop)
        return self._places[chosen], self._elsewhere[chosen]

    def add_sides(self, change: Pixels, ground: Pixels, first: int, inside: slice, along: int) -> None:
        """Sum up the colours beside the lines, over places across that lie in the range."""
        cuts = [at for at in range(change.shape[1]) if at == 0 or (along + at) % STRETCH == 0]
        stretches = slice(along // STRETCH, along // STRETCH + len(cuts))
        for number, edge in enumerate(self._edges):
            for side in range(4):
                begin = edge + (side - 2) * BESIDE
                low, high = max(begin, inside.start), min(begin + BESIDE, inside.stop)
                if low >= high:
                    continue
                strip = slice(low - first, high - first)
                total = change[:, :, strip].sum(axis=2)
                self._sums[side, number, :, stretches] += np.add.reduceat(total, cuts, axis=1)
                counted = ground[:, strip].sum(axis=1, dtype=np.int64)
                self._counts[side, number, stretches] += np.add.reduceat(counted, cuts)

    def stretches(self, upright: bool) -> list[Seam]:
        """Every stretch with enough ground on both sides, as it lies in the scene."""
        heights = self._heights()
        found = []
        for number, edge in enumerate(self._edges.tolist()):
            for stretch in np.flatnonzero(np.isfinite(heights[number])).tolist():
                along = stretch * STRETCH
                length = min(STRETCH, self._length - along)
                box = Box(along, edge - 1, length, 2) if upright else Box(edge - 1, along, 2, length)
                found.append(Seam(box, float(heights[number, stretch])))
        return found

    def _heights(self) -> Pixels:
        """Jump of the change beyond its slope on either side [lines, stretches]; nan for lack of ground."""
        enough = (self._counts >= BESIDE * STRETCH // 8).all(axis=0)
        means = self._sums / np.maximum(self._counts, 1)[:, :, None]
        slope = ((means[1] - means[0]) + (means[3] - means[2])) / 2
        jump = means[2] - means[1] - slope
        heights: Pixels = np.where(enough, LEVELS * np.sqrt(np.square(jump).mean(axis=1)), np.nan)
        return heights


def elsewhere(seam_lines: SeamLines, size: int, begin: int) -> Pixels:
    """Places that lie whole tokens away from a line, and out of the reach of any; sorted, each once."""
    steps = np.arange(1, int(seam_lines.stride / seam_lines.token_stride) + 1) * seam_lines.token_stride
    starts = np.array(seam_lines.starts(size, begin))
    shifted = np.round(starts[:, None] + steps).astype(np.int64).ravel()
    places = np.unique(np.concatenate([shifted - 1, shifted]))
    near = np.zeros(size + 2, bool)
    for start in starts:
        near[max(0, start - REACH - 2) : start + seam_lines.shared + REACH + 2] = True
    places = places[(places > 0) & (places < size)]
    return np.asarray(places[~near[places]])
