"""Where a raster has any ground: patches are laid over that part only, and those without any are left out.

So a border of nodata, however wide, changes nothing and costs nothing: patches lie as they would without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.raster.base import RasterReader

STRIP_ROWS = 256  # read at a time
Bools = NDArray[np.bool_]


def valid_bounds(reader: RasterReader, bands: Sequence[int]) -> Box | None:
    """The smallest box that holds all pixels that are ground by these bands; None if there are none.

    Where a raster is valid up to its edges, only its first and its last rows are looked at.
    """
    info = reader.info
    found: Box | None = None

    def look(top: int) -> bool:
        """Look at the strip that begins there; whether it has ground."""
        nonlocal found
        strip = Box(top, 0, min(STRIP_ROWS, info.height - top), info.width)
        ground = ground_of(reader, strip, bands)
        found = ground if found is None else found if ground is None else around(found, ground)
        return ground is not None

    tops = range(0, info.height, STRIP_ROWS)  # of strips that are still to be looked at
    for end in (0, -1):
        while tops:
            top, tops = tops[end], tops[1:] if end == 0 else tops[:-1]
            if look(top):
                break
    for top in tops:
        if found is not None and found.width == info.width:
            break
        look(top)
    return found


def ground_of(reader: RasterReader, strip: Box, bands: Sequence[int]) -> Box | None:
    """The smallest box that holds all ground of a strip; None if it has none."""
    valid = reader.valid(strip, bands)
    if valid is None:
        return strip
    if not valid.any():
        return None
    (top, bottom), (left, right) = (ends(np.asarray(valid.any(axis=axis))) for axis in (1, 0))
    return Box(strip.top + top, strip.left + left, bottom - top, right - left)


def around(one: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    top, left = min(one.top, other.top), min(one.left, other.left)
    bottom, right = max(one.bottom, other.bottom), max(one.right, other.right)
    return Box(top, left, bottom - top, right - left)


def ends(marks: Bools) -> tuple[int, int]:
    """Index of the first mark, and of the last plus one."""
    return int(marks.argmax()), len(marks) - int(marks[::-1].argmax())


def strips(height: int, width: int, top: int = 0) -> Iterator[Box]:
    """Boxes of a few rows that cover `height` rows from `top` on."""
    for start in range(top, top + height, STRIP_ROWS):
        yield Box(start, 0, min(STRIP_ROWS, top + height - start), width)


def empty_patches(grid: PatchGrid, row: int, valid: Bools | None) -> frozenset[int]:
    """Patches of a row that see no ground; `valid` [rows, width] is of the rows that they see."""
    if valid is None:
        return frozenset()
    ground = np.asarray(valid.any(axis=0))
    ids = grid.ids_of_row(row)
    return frozenset(id for id in ids if not ground[grid.view_cols(id % grid.cols)].any())


def gaps(grid: PatchGrid, row: int, valid: Bools, empty: frozenset[int]) -> list[slice]:
    """Columns in which a row of patches needs filling, in runs that also hold the ground beside it."""
    whole = np.asarray(valid.all(axis=0))
    needing = [
        id % grid.cols
        for id in grid.ids_of_row(row)
        if id not in empty and not whole[grid.view_cols(id % grid.cols)].all()
    ]
    runs: list[slice] = []
    for first, last in runs_of(needing):
        start = min(grid.view_cols(max(0, first - 1)))
        stop = max(grid.view_cols(min(grid.cols - 1, last + 1))) + 1
        if runs and start < runs[-1].stop:
            start = runs.pop().start
        runs.append(slice(start, stop))
    return runs


def runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive ascending numbers."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return list(zip(starts, ends, strict=True))
