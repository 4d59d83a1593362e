"""Reads a scene by rows of patches: what the model is shown, and what the output starts from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dehazexl_cli.engine.device import to_unit
from dehazexl_cli.engine.nodata import Bools, empty_patches, gaps
from dehazexl_cli.engine.nodata_filling import fill_nodata
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import PatchBatch
from dehazexl_cli.raster.base import Pixels


class PatchRow(NamedTuple):
    """One row of patches as read."""

    number: int
    view: Pixels  # [bands, rows, width] of all groups, without gaps; more rows than the band itself
    view_top: int
    absent: frozenset[int]  # patches that see no ground


class OutputStrip(NamedTuple):
    """What of a row of patches is written: the wanted part of the band that it finishes."""

    box: Box
    source: Pixels  # [count, height, width] all bands as they are
    valid: Bools | None  # [height, width]; None where all pixels are ground


def rows_to_encode(scene: Scene, summed: bool, numbers: range | None = None) -> Iterator[PatchRow]:
    """All rows of patches from top to bottom, or those of these numbers.

    Where a model sums up its patches, `summed`, one without ground must not leave a dark hole in the sum:
    none is absent then, and all are filled.
    """
    grid, reader = scene.grid, scene.reader
    for number in range(grid.rows) if numbers is None else numbers:
        box = seen_rows(scene, number)
        valid = reader.valid(box, scene.bands)
        absent = frozenset() if summed else empty_patches(grid, number, valid)
        view = reader.read(box, scene.bands)
        if valid is not None:
            runs = [slice(0, grid.width)] if summed else gaps(grid, number, valid, absent)
            view = without_gaps(scene, view, valid, runs)
        yield PatchRow(number, view, box.top, absent)


def rows_to_decode(scene: Scene, numbers: range | None = None) -> Iterator[tuple[PatchRow, OutputStrip]]:
    """Rows of patches that reach into the wanted part, all or some, with what the output starts from."""
    grid, reader = scene.grid, scene.reader
    for number in scene.wanted_rows() if numbers is None else numbers:
        box = seen_rows(scene, number)
        valid = reader.valid(box, scene.bands)
        absent = empty_patches(grid, number, valid)
        pixels = reader.read(box, range(1, reader.info.count + 1))
        view = pixels[span([band - 1 for band in scene.bands])]
        if valid is not None:
            view = without_gaps(scene, view, valid, gaps(grid, number, valid, absent))
        finished = grid.band(number).within(scene.wanted)
        rows, cols = slices(finished.moved(-box.top, 0))
        finish = OutputStrip(finished, pixels[:, rows, cols], None if valid is None else valid[rows, cols])
        yield PatchRow(number, view, box.top, absent), finish


def seen_rows(scene: Scene, number: int) -> Box:
    """The rows of the scene that a row of patches sees."""
    seen = scene.grid.view_rows(number)
    return Box(min(seen), 0, max(seen) + 1 - min(seen), scene.grid.width)


def slices(box: Box) -> tuple[slice, slice]:
    """Rows and columns of a box; none of an empty one."""
    return slice(box.top, box.bottom) if box.pixels else slice(0), slice(box.left, box.right)


def without_gaps(scene: Scene, view: Pixels, valid: Bools, runs: Sequence[slice]) -> Pixels:
    """The view with invalid pixels filled from valid neighbours, in the source's type, within the runs.

    Patches that look outside these columns see no ground at all, or no gap.
    """
    view = view.copy()
    for run in runs:
        view[..., run] = fill_nodata(view[..., run], valid[:, run], lambda: scene.mean)
    return view


def span(indices: Sequence[int]) -> slice | Sequence[int]:
    """Indices as a slice where they run on, which spares a copy of the pixels."""
    run = range(indices[0], indices[-1] + 1)
    return slice(run.start, run.stop) if list(indices) == list(run) else indices


def extract_patches(scene: Scene, row: PatchRow, ids: Sequence[int], bands: slice) -> Pixels:
    """Patches [b, bands, side, side] of a row, halo and mirrored overhang included."""
    grid = scene.grid
    strip = row.view[bands, span([y - row.view_top for y in grid.view_rows(row.number)])]
    return np.stack([strip[:, :, span(grid.view_cols(id % grid.cols))] for id in ids])


def to_device(
    scene: Scene, group: Group, ids: tuple[int, ...], source: Pixels, device: torch.device
) -> PatchBatch:
    """What a model is shown: pixels in [0, 1] on its device, which they reach as they are stored."""
    pixels = to_unit(torch.from_numpy(source).to(device, non_blocking=True), group.levels(device))
    return PatchBatch(ids, scene.grid, pixels.expand(-1, 3, -1, -1))
