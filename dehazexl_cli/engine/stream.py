"""The streaming loop: encode every patch, mix once, decode every patch, row by row from disk to disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.engine.careful import Careful
from dehazexl_cli.engine.fill import fill_invalid
from dehazexl_cli.engine.pipes import Behind, ahead
from dehazexl_cli.engine.store import TokenStore
from dehazexl_cli.engine.transfer import to_source, to_unit
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import Batch, Dehazer, feather
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.base import Pixels, Radiometry, RasterReader, RasterWriter, keep_off_nodata
from dehazexl_cli.report import Report

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all


@dataclass(frozen=True)
class Scene:
    """A scene about to be dehazed, with everything about it decided."""

    reader: RasterReader
    grid: PatchGrid
    bands: tuple[int, ...]  # 1-based; three colours or one grey
    radiometry: Radiometry
    strength: float  # 0 leaves the scene as it is, 1 applies all of the model's change
    device: torch.device


class Row(NamedTuple):
    """One row of patches as read: what the model sees, and what the output starts from."""

    number: int
    view: Pixels  # [3 or 1, rows, width] the colour bands, without gaps; more rows than the band itself
    view_top: int
    source: Pixels | None  # [count, band height, width] all bands as they are; None while encoding
    valid: Pixels | None  # [band height, width]; None where all pixels are ground


def dehaze_scene(
    scene: Scene, model: Dehazer, plan: Plan, writer: RasterWriter, report: Report, watch: Watch
) -> None:
    """Dehaze the scene into the writer; raises whatever reading, computing or writing raises."""
    careful = Careful(model, report)
    with torch.inference_mode():
        store = TokenStore(len(scene.grid), model.gather, plan.skips)
        with report.timed("encode"):
            encode_all(scene, careful, plan, store, watch)
        with report.timed("mix"):
            watch("mix", 0, 1)
            mixed = careful.mix(store.tokens(), scene.grid, plan.seed)
            watch("mix", 1, 1)
        with report.timed("decode"), Behind(writer) as behind:
            decode_all(scene, careful, plan, store, mixed, behind, watch)
    with report.timed("finish"):
        watch("finish", 0, 1)
        writer.commit()
        watch("finish", 1, 1)


def encode_all(scene: Scene, careful: Careful, plan: Plan, store: TokenStore, watch: Watch) -> None:
    """First reading: every patch says what it sees."""
    done, total = 0, len(scene.grid)
    watch("encode", done, total)
    for row in ahead(read_rows(scene, whole=False)):
        for batch in batches(scene, row, plan.batch):
            store.put(batch.ids, *careful.encode(batch))
            done += len(batch.ids)
            watch("encode", done, total)


def decode_all(
    scene: Scene,
    careful: Careful,
    plan: Plan,
    store: TokenStore,
    mixed: Tensor,
    behind: Behind,
    watch: Watch,
) -> None:
    """Second reading: every patch is rewritten knowing the whole scene."""
    done, total = 0, len(scene.grid)
    watch("decode", done, total)
    canvas = Canvas(scene)
    for row in ahead(read_rows(scene, whole=True)):
        for batch in batches(scene, row, plan.batch):
            skips = store.take(batch.ids, scene.device)
            if skips is None:
                _, skips = careful.encode(batch)
            canvas.lay(batch, careful.decode(batch, mixed, skips))
            done += len(batch.ids)
            watch("decode", done, total)
        if row.valid is not None:
            careful.report.invalid_pixels += int((~row.valid).sum())
        behind.save(finished_rows(scene, row, canvas.finish(row.number)))


def read_rows(scene: Scene, whole: bool) -> Iterator[Row]:
    """Rows of patches from top to bottom; with all bands as they are, if `whole`."""
    grid, reader = scene.grid, scene.reader
    for number in range(grid.rows):
        band, seen = grid.band(number), grid.view_rows(number)
        box = Box(min(seen), 0, max(seen) + 1 - min(seen), grid.width)
        valid = reader.valid(box)
        inside = slice(band.top - box.top, band.bottom - box.top)
        if whole:
            pixels = reader.read(box, range(1, reader.info.count + 1))
            view = pixels[[b - 1 for b in scene.bands]]
            source = pixels[:, inside]
        else:
            view, source = reader.read(box, scene.bands), None
        if valid is not None:
            view = without_gaps(view, valid, scene.radiometry)
        yield Row(number, view, box.top, source, None if valid is None else valid[inside])


def without_gaps(view: Pixels, valid: Pixels, radiometry: Radiometry) -> Pixels:
    """The view with invalid pixels filled from valid neighbours, in the source's type."""
    if valid.all():
        return view
    middle = (radiometry.low + radiometry.high) / 2
    safe = np.where(valid[None], view, 0).astype(np.float32)
    return np.where(valid[None], view, fill_invalid(safe, valid, middle).astype(view.dtype))


def batches(scene: Scene, row: Row, size: int) -> Iterator[Batch]:
    """Batches of one row of patches, on the device."""
    grid = scene.grid
    rows = span([y - row.view_top for y in grid.view_rows(row.number)])
    strip = row.view[:, rows]
    for ids in grid.batches_of_row(row.number, size):
        patches = np.stack([strip[:, :, span(grid.view_cols(id % grid.cols))] for id in ids])
        source = torch.from_numpy(patches).to(scene.device, non_blocking=True)
        yield Batch(ids, grid, to_unit(source, scene.radiometry).expand(-1, 3, -1, -1))


def span(indices: Sequence[int]) -> slice | Sequence[int]:
    """Indices as a slice where they run on, which spares a copy of the pixels."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if last - first == len(indices) - 1 else indices


class Canvas:
    """The change that patches make to one row of patches, and what of it reaches into the next."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._width = (scene.grid.cols - 1) * scene.grid.stride + scene.grid.patch
        self._change = self._blank(scene.grid.patch)

    def lay(self, batch: Batch, pixels: Tensor) -> None:
        """Add dehazed patches [b, 3, patch, patch], feathered where they overlap."""
        grid = self.scene.grid
        inner = slice(grid.halo, grid.halo + grid.patch)
        change = pixels - batch.pixels[..., inner, inner]
        if len(self.scene.bands) == 1:
            change = change.mean(1, keepdim=True)
        for id, patch in zip(batch.ids, change, strict=True):
            left = grid.box(id).left
            weights = feather(grid, id, patch) if grid.overlap else 1.0
            self._change[:, :, left : left + grid.patch] += patch * weights

    def finish(self, row: int) -> Tensor:
        """The change [3 or 1, height, width] of the band that this row of patches finishes."""
        band = self.scene.grid.band(row)
        done, rest = self._change[:, : band.height, : band.width], self._change[:, band.height :]
        self._change = self._blank(self.scene.grid.patch)
        self._change[:, : rest.shape[1]] = rest
        return done

    def _blank(self, height: int) -> Tensor:
        return torch.zeros(len(self.scene.bands), height, self._width, device=self.scene.device)


def finished_rows(scene: Scene, row: Row, change: Tensor) -> Pixels:
    """Output rows [count, height, width]: the source's, with the change added to the colour bands.

    The model's result is held within its range only here, so that overlapping patches blend as they are.
    """
    assert row.source is not None
    out = row.source.copy()
    indices = [band - 1 for band in scene.bands]
    colours = torch.from_numpy(row.source[indices]).to(scene.device, non_blocking=True)
    hazy = to_unit(colours, scene.radiometry)
    change = ((hazy + change).clamp(0, 1) - hazy) * scene.strength
    dehazed = to_source(colours, change, scene.radiometry).cpu().numpy()
    for index, values in zip(indices, dehazed, strict=True):
        keep_off_nodata(values, row.source[index], scene.reader.info.nodata)
        out[index] = values
    if row.valid is not None:
        np.copyto(out, row.source, where=~row.valid)
    return out
