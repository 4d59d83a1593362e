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
from dehazexl_cli.models.base import Batch, Dehazer
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


class Load(NamedTuple):
    """A batch on the device, and its pixels in source numbers."""

    batch: Batch
    source: Tensor  # [b, 3 or 1, side, side] in the source's type


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
        for load in loads(scene, row, plan.batch):
            store.put(load.batch.ids, *careful.encode(load.batch))
            done += len(load.batch.ids)
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
    for row in ahead(read_rows(scene, whole=True)):
        assert row.source is not None
        out = row.source.copy()
        for load in loads(scene, row, plan.batch):
            skips = store.take(load.batch.ids, scene.device)
            if skips is None:
                _, skips = careful.encode(load.batch)
            place(out, scene, load, careful.decode(load.batch, mixed, skips))
            done += len(load.batch.ids)
            watch("decode", done, total)
        for index in (band - 1 for band in scene.bands):
            keep_off_nodata(out[index], row.source[index], scene.reader.info.nodata)
        if row.valid is not None:
            np.copyto(out, row.source, where=~row.valid)
        behind.save(out)


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


def loads(scene: Scene, row: Row, size: int) -> Iterator[Load]:
    """Batches of one row of patches, on the device."""
    grid = scene.grid
    rows = span([y - row.view_top for y in grid.view_rows(row.number)])
    strip = row.view[:, rows]
    for ids in grid.batches_of_row(row.number, size):
        patches = np.stack([strip[:, :, span(grid.view_cols(id % grid.cols))] for id in ids])
        source = torch.from_numpy(patches).to(scene.device, non_blocking=True)
        pixels = to_unit(source, scene.radiometry)
        yield Load(Batch(ids, grid, pixels.expand(-1, 3, -1, -1)), source)


def span(indices: Sequence[int]) -> slice | Sequence[int]:
    """Indices as a slice where they run on, which spares a copy of the pixels."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if last - first == len(indices) - 1 else indices


def place(out: Pixels, scene: Scene, load: Load, pixels: Tensor) -> None:
    """Put dehazed patches [b, 3, patch, patch] into the output rows [count, height, width]."""
    grid = scene.grid
    inner = slice(grid.halo, grid.halo + grid.patch)
    hazy = load.batch.pixels[..., inner, inner]
    change = (pixels.clamp(0, 1) - hazy) * scene.strength
    if len(scene.bands) == 1:
        change = change.mean(1, keepdim=True)
    dehazed = to_source(load.source[..., inner, inner], change, scene.radiometry).cpu().numpy()
    height = out.shape[1]
    for id, patch in zip(load.batch.ids, dehazed, strict=True):
        left = grid.box(id).left
        width = min(grid.patch, grid.width - left)
        for band, values in zip(scene.bands, patch, strict=True):
            out[band - 1, :, left : left + width] = values[:height, :width]
