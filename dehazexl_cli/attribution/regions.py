"""A scene and its clear form, read as a network sees them in a mode, for the attribution map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from dehazexl_cli.attribution.scene import Detector, Part, Sight
from dehazexl_cli.engine import PreparedRun
from dehazexl_cli.engine.nodata import around, strips
from dehazexl_cli.engine.patches import PatchRow, rows_to_decode, rows_to_encode
from dehazexl_cli.engine.scaling import normalize
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.errors import InputError
from dehazexl_cli.evaluation import require_one_size
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel, blend_weights
from dehazexl_cli.raster.base import Pixels, RasterReader
from dehazexl_cli.raster.views import WindowedReader, sample_by_rows


class Covered:
    """A scene with another of its size laid over it: its ground, the other's pixels where that has some too.

    Where the other has none, both show the same, so that nothing can be attributed to these pixels.
    """

    def __init__(self, scene: RasterReader, cover: RasterReader) -> None:
        self.scene, self.cover, self.info = scene, cover, scene.info

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene; see RasterReader.read."""
        pixels, known = self.cover.read(box, bands), self.cover.valid(box, bands)
        if known is not None:
            pixels[:, ~known] = self.scene.read(box, bands)[:, ~known]
        return pixels

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground in the scene; see RasterReader.valid."""
        return self.scene.valid(box, bands)

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of valid pixels; see RasterReader.sample."""

        return sample_by_rows(self, bands, side)

    def close(self) -> None:
        """Both stay with their owners."""


def require_alike(scene: RasterReader, clear: RasterReader, bands: Sequence[int]) -> None:
    """Raises InputError unless the clear scene has the size, type and bands of the hazy one."""

    require_one_size(scene.info, clear.info)
    if clear.info.dtype != scene.info.dtype:
        raise InputError(
            f"{clear.info.name} has pixels of {clear.info.dtype}, {scene.info.name} of {scene.info.dtype}",
            "give a clear scene of the same type and range",
        )
    if max(bands) > clear.info.count:
        raise InputError(
            f"{clear.info.name} has no band {max(bands)}, which {scene.info.name} is dehazed by",
            "give a clear scene with the same bands",
        )


def ground_of(job: PreparedRun) -> Box:
    """The part of the raster that has ground; patches lie over it."""
    info = job.scene.reader.info
    return job.frame.part if job.frame else Box(0, 0, info.height, info.width)


def valid_of(scene: Scene) -> Tensor | None:
    """Which pixels of a scene are ground, [height, width] bool; None if all are."""

    info, found = scene.reader.info, None
    for strip in strips(info.height, info.width):
        valid = scene.reader.valid(strip, scene.bands)
        if valid is not None:
            found = torch.ones(info.height, info.width, dtype=torch.bool) if found is None else found
            found[strip.top : strip.bottom] = torch.from_numpy(valid)
    return found


def parts_of(
    job: PreparedRun, clear: RasterReader | None, model: DehazeModel, detectors: Sequence[Detector]
) -> list[Part]:
    """What the network sees, hazy and clear, and where the windows lie in it; `clear` None is black.

    Detectors are in coordinates of the ground, and so is what is returned.
    """
    scenes = [job.scene]
    if clear is not None:
        part = WindowedReader(clear, ground_of(job)) if job.frame else clear
        scenes.append(replace(job.scene, reader=Covered(job.scene.reader, part)))
    if job.layout.kind == "tile":
        return tiles_of(scenes, job.layout.inner.overlap, model, detectors)
    return [whole_of(scenes, model, detectors)]


def whole_of(scenes: Sequence[Scene], model: DehazeModel, detectors: Sequence[Detector]) -> Part:
    """All patches of the scene, which see each other."""

    seen: list[list[Tensor]] = []
    empty: frozenset[int] = frozenset()
    for scene in scenes:
        seen.append([])
        for row in rows_to_encode(scene, model.token_reduction == "sum"):
            seen[-1].append(shown(scene, row))
            empty |= row.empty
    grid = scenes[0].grid
    sight = Sight(grid, seen[0], seen[1] if len(seen) > 1 else black(seen[0]), empty)
    return Part(sight, Box(0, 0, grid.height, grid.width), dict(enumerate(detectors)))


def tiles_of(
    scenes: Sequence[Scene], overlap: int, model: DehazeModel, detectors: Sequence[Detector]
) -> list[Part]:
    """Those tiles that the windows are restored from; none knows of another."""

    wanted = reduce(around, (detector.box for detector in detectors))
    scenes = [replace(scene, wanted=wanted) for scene in scenes]
    parts = []
    for rows in zip(*map(rows_to_decode, scenes), strict=True):
        hazy, *clear = [(row, shown(scene, row)) for scene, (row, _) in zip(scenes, rows, strict=True)]
        for id in scenes[0].grid.ids_of_row(hazy[0].number):
            if id not in hazy[0].empty:
                images = [tile(scenes[0].grid, id, *each) for each in (hazy, *clear)]
                parts.append(tile_part(scenes[0].grid, id, images, model, overlap, detectors))
    return [part for part in parts if part.detectors]


def tile(grid: PatchGrid, id: int, row: PatchRow, pixels: Tensor) -> Tensor:
    """The pixels of a tile [bands, height, width] without what overhangs the scene."""
    box = inside(grid, id)
    return pixels[:, box.top - row.view_top : box.bottom - row.view_top, box.left : box.right]


def tile_part(
    outer: PatchGrid,
    id: int,
    images: Sequence[Tensor],
    model: DehazeModel,
    overlap: int,
    detectors: Sequence[Detector],
) -> Part:
    """A tile as a scene of its own, hazy and, if given, clear; windows count there as much as it does."""

    box = inside(outer, id)
    grid = PatchGrid(box.height, box.width, model.patch, model.halo, overlap)
    hazy, clear = images[0], images[1] if len(images) > 1 else black(images[:1])[0]
    mine = {}
    for number, detector in enumerate(detectors):
        part = detector.within(box)
        if part.box.pixels:
            rows, cols = slice(part.box.top, part.box.bottom), slice(part.box.left, part.box.right)
            mine[number] = Detector(part.box, part.weights * blend_weights(outer, id, hazy)[rows, cols])
    return Part(Sight.of(hazy, clear, grid), box, mine)


def inside(grid: PatchGrid, id: int) -> Box:
    """What of a patch lies in the scene."""
    return grid.box(id).within(Box(0, 0, grid.height, grid.width))


def shown(scene: Scene, row: PatchRow) -> Tensor:
    """A row of patches as the network is shown it: [3 or 1, rows, width] in [0, 1], on the host."""

    return normalize(torch.from_numpy(row.view), scene.groups[0].scaling(torch.device("cpu")))


def black(images: Sequence[Tensor]) -> list[Tensor]:
    """Black images of the same sizes, which take no memory."""
    return [image.new_zeros(1).expand_as(image) for image in images]
