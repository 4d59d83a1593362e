"""Where the patches of a scene lie: integers only, no pixels.

Patches go in row order. A patch that overhangs the right or bottom edge sees the scene mirrored there,
so its content is plausible ground and never black; what is computed beyond the edge is thrown away.
Neighbours may overlap; `edge_weights` says how much each of two then counts, so that no edge shows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle of pixels; empty if a side is 0."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The first row below the box."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The first column to the right of the box."""
        return self.left + self.width

    @property
    def pixels(self) -> int:
        """How many pixels it holds."""
        return self.height * self.width

    def moved(self, down: int, right: int) -> Box:
        """The box elsewhere."""
        return Box(self.top + down, self.left + right, self.height, self.width)

    def within(self, other: Box) -> Box:
        """What both boxes share; an empty box if that is nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        height, width = min(self.bottom, other.bottom) - top, min(self.right, other.right) - left
        return Box(top, left, height, width) if min(height, width) > 0 else Box(top, left, 0, 0)


def strips(height: int, width: int, rows: int) -> Iterator[Box]:
    """Cut a scene into boxes of so many rows, the last of what is left."""
    for top in range(0, height, rows):
        yield Box(top, 0, min(rows, height - top), width)


def mirrored(start: int, stop: int, size: int) -> list[int]:
    """Indices start..stop-1 along an axis of `size` pixels, those outside folded back by reflection.

    The edge pixel itself is not repeated (… 2 1 0 1 2 …); one pixel repeats for ever.
    """
    period = max(1, 2 * size - 2)
    return [min(i % period, (period - i) % period) for i in range(start, stop)]


class SeamLines(NamedTuple):
    """Where patches or tiles meet along both axes, so that seams can be looked for there."""

    stride: float  # pixels from one patch to the next
    overlap: float  # pixels that neighbours share
    token_stride: float  # pixels from one token of the network to the next
    hard: bool = False  # the overlap is cut in its middle and not feathered
    top: int = 0  # where the first patch begins
    left: int = 0

    @property
    def shared(self) -> int:
        """Pixels to which both of two neighbours contribute."""
        return 0 if self.hard else round(self.overlap)

    def starts(self, size: int, begin: int = 0) -> list[int]:
        """Where along an axis of `size` pixels each patch but the first, at `begin`, begins to show."""
        count = max(1, math.ceil((size - begin - self.overlap) / self.stride))
        late = begin + (self.overlap // 2 if self.hard else 0)
        starts = (round(number * self.stride + late) for number in range(1, count))
        return [start for start in starts if start > 0]


def fitting_overlap(height: int, width: int, patch: int, most: int) -> int:
    """Of `most`, and seven and six eighths of it, the largest overlap that needs the fewest patches.

    With a fixed one, a scene that is a little too large for its last patch pays for a whole row of them: at
    4096 pixels 19 patches of 256 that share 32, but 18 that share 28. By eighths, so that the cells of 4
    pixels in which networks write lie alike in neighbours; else their bends show where an overlap ends.
    """
    overlaps = range(most, most * 3 // 4 - 1, -max(1, most // 8))
    return min(overlaps, key=lambda overlap: len(PatchGrid(height, width, patch, overlap=overlap)))


@dataclass(frozen=True)
class PatchGrid:
    """Square patches that cover a scene, row by row from its top left corner."""

    height: int  # of the scene, pixels
    width: int
    patch: int  # side of a patch, pixels
    halo: int = 0  # pixels a model sees around each patch beside the patch itself
    overlap: int = 0  # pixels that neighbouring patches share
    origin: tuple[int, int] = (0, 0)  # (top, left) of this scene in a larger one, for position codes
    empty: frozenset[int] = frozenset()  # patches without any ground: they are not encoded, mixed or decoded
    hard: bool = False  # overlaps are cut in their middle and not feathered

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.patch) < 1 or self.halo < 0:
            raise ValueError(f"no grid of {self.patch}-pixel patches on {self.height}x{self.width} pixels")
        if not 0 <= self.overlap <= self.patch // 2:
            raise ValueError(f"patches of {self.patch} pixels cannot overlap by {self.overlap}")

    @property
    def stride(self) -> int:
        """Pixels from one patch to the next."""
        return self.patch - self.overlap

    @property
    def rows(self) -> int:
        """Rows of patches."""
        return max(1, -(-(self.height - self.overlap) // self.stride))

    @property
    def cols(self) -> int:
        """Columns of patches."""
        return max(1, -(-(self.width - self.overlap) // self.stride))

    def __len__(self) -> int:
        return self.rows * self.cols

    @property
    def present(self) -> list[int]:
        """Patches with ground, in order; the tokens that are mixed are theirs."""
        return [id for id in range(len(self)) if id not in self.empty]

    def box(self, id: int) -> Box:
        """The patch's place in the scene; it may overhang the right and bottom edges."""
        row, col = divmod(id, self.cols)
        return Box(row * self.stride, col * self.stride, self.patch, self.patch)

    def count_overlapping(self, box: Box) -> tuple[int, int]:
        """How many rows and columns of patches reach into a box within the scene."""
        if not box.pixels:
            return 0, 0
        first = [max(0, (start - self.patch) // self.stride + 1) for start in (box.top, box.left)]
        rows = min(self.rows, -(-box.bottom // self.stride)) - first[0]
        cols = min(self.cols, -(-box.right // self.stride)) - first[1]
        return rows, cols

    def band(self, row: int) -> Box:
        """The part of the scene that is finished once this row of patches is done."""
        top = row * self.stride
        height = self.height - top if row == self.rows - 1 else self.stride
        return Box(top, 0, height, self.width)

    def view_rows(self, row: int) -> list[int]:
        """Scene rows that a row of patches sees, halo included, mirrored at the edges."""
        top = row * self.stride
        return mirrored(top - self.halo, top + self.patch + self.halo, self.height)

    def view_cols(self, col: int) -> list[int]:
        """Scene columns that a column of patches sees, halo included, mirrored at the edges."""
        left = col * self.stride
        return mirrored(left - self.halo, left + self.patch + self.halo, self.width)

    def edge_weights(self, number: int, count: int) -> list[float]:
        """How much each pixel along an axis of patch `number` of `count` counts in the result.

        Raised cosines where it overlaps a neighbour, or a step; the weights of both sum to one everywhere.
        """
        rise = [math.sin(math.pi / 2 * (i + 0.5) / self.overlap) ** 2 for i in range(self.overlap)]
        if self.hard:
            rise = [float(i >= self.overlap // 2) for i in range(self.overlap)]
        level = [1.0] * (self.patch - self.overlap)
        weights = (rise if number > 0 else [1.0] * self.overlap) + level
        if number < count - 1 and self.overlap:
            weights[-self.overlap :] = [1 - weight for weight in rise]
        return weights

    def ids_of_row(self, row: int) -> range:
        """Patches of one row from left to right."""
        return range(row * self.cols, (row + 1) * self.cols)

    def batches_of_row(self, row: int, size: int, empty: Collection[int] = ()) -> Iterator[tuple[int, ...]]:
        """Patches of one row from left to right but the absent, at most `size` at a time, evenly split."""
        ids = [id for id in self.ids_of_row(row) if id not in empty]
        parts = -(-len(ids) // size)
        for part in range(parts):
            yield tuple(ids[part * len(ids) // parts : (part + 1) * len(ids) // parts])
