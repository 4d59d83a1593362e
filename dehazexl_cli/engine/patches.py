"""Rows of patches: what the model is shown, what the output starts from, and what is added to it.

The change that patches make is gathered row by row, and added to the source's own numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.engine.haze import haze_plane
from dehazexl_cli.engine.nodata import Bools, empty_patches, gaps
from dehazexl_cli.engine.nodata_filling import fill_nodata
from dehazexl_cli.engine.scaling import Group, apply_change, as_units, normalize
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import COLOURS, PatchBatch, blend_weights
from dehazexl_cli.plan import FINISHED_ON_GPU
from dehazexl_cli.raster.base import Pixels, keep_off_nodata
from dehazexl_cli.report import Report

PIXELS_AT_ONCE = 2**16  # finished at a time on a CPU, so that what that needs stays in its cache


class PatchRow(NamedTuple):
    """One row of patches as read."""

    number: int
    view: Pixels  # [bands, rows, width] of all groups, without gaps; more rows than the band itself
    view_top: int
    empty: frozenset[int]  # patches that see no ground


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
        empty = frozenset() if summed else empty_patches(grid, number, valid)
        view = reader.read(box, scene.bands)
        if valid is not None:
            runs = [slice(0, grid.width)] if summed else gaps(grid, number, valid, empty)
            view = without_gaps(scene, view, valid, runs)
        yield PatchRow(number, view, box.top, empty)


def rows_to_decode(scene: Scene, numbers: range | None = None) -> Iterator[tuple[PatchRow, OutputStrip]]:
    """Rows of patches that reach into the wanted part, all or some, with what the output starts from."""
    grid, reader = scene.grid, scene.reader
    for number in scene.wanted_rows() if numbers is None else numbers:
        box = seen_rows(scene, number)
        valid = reader.valid(box, scene.bands)
        empty = empty_patches(grid, number, valid)
        pixels = reader.read(box, range(1, reader.info.count + 1))
        view = pixels[span([band - 1 for band in scene.bands])]
        if valid is not None:
            view = without_gaps(scene, view, valid, gaps(grid, number, valid, empty))
        finished = grid.band(number).within(scene.wanted)
        rows, cols = slices(finished.moved(-box.top, 0))
        strip = OutputStrip(finished, pixels[:, rows, cols], None if valid is None else valid[rows, cols])
        yield PatchRow(number, view, box.top, empty), strip


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
    pixels = normalize(torch.from_numpy(source).to(device, non_blocking=True), group.scaling(device))
    return PatchBatch(ids, scene.grid, pixels.expand(-1, 3, -1, -1))


class Residual(NamedTuple):
    """What a group's bands become more or less."""

    group: Group
    pixels: Tensor  # [3 or 1, height, width] of the rows in work; transmission last, where that is told

    def rows(self, part: slice) -> Residual:
        """The change of some of these rows."""
        return Residual(self.group, self.pixels[:, part])


class BlendBuffer:
    """The change that patches make to one row of patches, and what of it reaches into the next.

    With it, where the scene `tells_haze`, the transmission that the first group's patches tell.
    """

    def __init__(self, scene: Scene, group: Group) -> None:
        self.scene, self.group = scene, group
        self._tells_haze = scene.tells_haze and group == scene.groups[0]
        self._width = (scene.grid.cols - 1) * scene.grid.stride + scene.grid.patch
        self._change: Tensor | None = None  # of the row in work; none until something is laid
        self._rest: Tensor | None = None  # what the row before changes in it

    def add(self, batch: PatchBatch, pixels: Tensor) -> None:
        """Add decoded patches [b, 3 or 4, patch, patch], feathered where they overlap."""
        grid = self.scene.grid
        inner = slice(grid.halo, grid.halo + grid.patch)
        change = (pixels[:, :COLOURS] - batch.pixels[..., inner, inner]).to(self.scene.device)
        if len(self.group.bands) == 1:
            change = change.mean(1, keepdim=True)
        if self._tells_haze:
            change = torch.cat([change, pixels[:, COLOURS:].to(self.scene.device)], dim=1)
        laid = self._begun()
        for id, patch in zip(batch.ids, change, strict=True):
            left = grid.box(id).left
            weights = blend_weights(grid, id, patch) if grid.overlap else 1.0
            laid[:, :, left : left + grid.patch] += patch * weights

    def finish(self, row: int, wanted: Box) -> Tensor:
        """The change [channels, height, width] of the wanted part of the band that a row finishes."""
        band = self.scene.grid.band(row)
        top = wanted.top - band.top
        laid = self._begun()
        # Only what reaches into the next row is kept, so that there is never more than one.
        self._change = None
        self._rest = laid[:, band.height :].clone() if self.scene.grid.overlap else None
        return laid[:, top : top + wanted.height, wanted.left : wanted.right]

    def _begun(self) -> Tensor:
        """The change to the row in work, laid out if it was not yet."""
        if self._change is None:
            size = len(self.group.bands) + self._tells_haze, self.scene.grid.patch, self._width
            self._change = torch.zeros(size, device=self.scene.device)
            if self._rest is not None:
                self._change[:, : self._rest.shape[1]] = self._rest
        return self._change


def apply_residual(scene: Scene, strip: OutputStrip, changes: Sequence[Residual], report: Report) -> Pixels:
    """The rows, changed, if any are wanted; counts what is no ground.

    Where the scene `tells_haze` a last band says how much light gets through; see `haze_plane`.
    """
    rows = strip.source[:, :0]
    if strip.source.size:
        with report.working("convert"):
            rows = finished_rows(scene, strip, changes, report)
            if scene.tells_haze:
                plane = haze_plane(changes[0].pixels[-1], strip.valid)
                rows = np.concatenate([rows, plane[None].astype(rows.dtype)])
    if strip.valid is not None:
        report.invalid_pixels += int((~strip.valid).sum())
    return rows


def finished_rows(scene: Scene, strip: OutputStrip, changes: Sequence[Residual], report: Report) -> Pixels:
    """Output rows [count, height, width]: the source's, with each group's change added to its bands.

    The model's result is held within its range only here, so that overlapping patches blend as they are.
    """
    out = strip.source.copy()
    _, height, width = out.shape
    pixels_at_once = FINISHED_ON_GPU if scene.device.type == "cuda" else PIXELS_AT_ONCE
    at_once = max(1, pixels_at_once // max(1, width))
    for top in range(0, height, at_once):
        rows = slice(top, top + at_once)
        valid = None if strip.valid is None else strip.valid[rows]
        for change in changes:
            dehaze(scene, change.rows(rows), strip.source[:, rows], valid, out[:, rows], report)
    if strip.valid is not None:
        np.copyto(out, strip.source, where=~strip.valid)
    return out


def dehaze(
    scene: Scene,
    change: Residual,
    source: Pixels,
    valid: Bools | None,
    out: Pixels,
    report: Report,
) -> None:
    """Put one group's bands of some rows, with their change, into `out`, and count what left its range."""
    info, group = scene.reader.info, change.group
    indices = [band - 1 for band in group.bands]
    colours = torch.from_numpy(source[indices]).to(scene.device, non_blocking=True)
    scaling = group.scaling(scene.device)
    shown = as_units(colours, scaling)
    hazy = shown.clamp(0, 1).float()
    result = hazy + change.pixels[: len(indices)]
    ground = None if valid is None else torch.from_numpy(valid).to(scene.device)
    report.outside_range += count_outside(shown, ground)
    report.clipped_values += count_outside(result, ground)
    less_haze = (result.clamp(0, 1) - hazy) * scene.strength
    dehazed = apply_change(colours, less_haze, scaling, info.bits).cpu().numpy()
    for index, values in zip(indices, dehazed, strict=True):
        keep_off_nodata(values, source[index], info.nodata)
        out[index] = values


def count_outside(values: Tensor, ground: Tensor | None) -> int:
    """How many values [bands, height, width] of ground are below 0 or above 1."""
    outside = (values < 0) | (values > 1)
    return int((outside if ground is None else outside & ground).sum())
