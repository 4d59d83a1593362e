"""Scenes that go through a network in single passes: tile by tile, as a whole, or as a smaller picture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dehazexl_cli.engine.canvas import Canvas
from dehazexl_cli.engine.careful import finite
from dehazexl_cli.engine.crew import Crew
from dehazexl_cli.engine.errand import Errand, counting
from dehazexl_cli.engine.modes import Layout
from dehazexl_cli.engine.pipes import ahead
from dehazexl_cli.engine.rows import Finish, Row, rows_to_encode, slices
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.engine.stream import Change, Piece, decode_rows, dehaze_scene, pieces, shown
from dehazexl_cli.engine.transfer import to_unit
from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import Batch, Dehazer, compose
from dehazexl_cli.raster.base import RasterWriter

Strategy = Callable[[Scene, Errand, RasterWriter], None]

GUIDE_RADIUS = 4  # pixels of the small picture that share a colour transform
GUIDE_EPSILON = 1e-5  # of squared pixels: where a picture varies less, it guides nothing


def strategy_for(layout: Layout) -> Strategy:
    """How a layout is run."""
    if layout.kind == "global":
        return dehaze_scene

    def once(scene: Scene, errand: Errand, writer: RasterWriter) -> None:
        crew = Crew([OnePass(model, layout, errand) for model in errand.models])
        with torch.inference_mode():
            if layout.kind == "tile":
                dehaze_tiles(scene, crew, errand, writer)
            else:
                dehaze_picture(scene, crew.first, errand, writer)
        with errand.report.timed("finish"):
            errand.watch("finish", 0, 1)
            writer.commit()
            errand.watch("finish", 1, 1)

    return once


class OnePass:
    """A network that is shown an image as a whole; checks what comes out."""

    def __init__(self, model: Dehazer, layout: Layout, errand: Errand) -> None:
        self.model, self.layout = model, layout
        self.plan, self.report = errand.plan, errand.report

    @property
    def device(self) -> torch.device | None:
        """Where the network is; None if it has no weights and is anywhere."""
        first = next(self.model.parameters(), None)
        return None if first is None else first.device

    def __call__(self, image: Tensor) -> Tensor:
        """[1, 3, h, w] in [0, 1] -> the same, dehazed, not clamped; finite."""
        output = self._through(self.model, image)
        if finite(output):
            return output
        self.report.count_redone()
        output = self._through(copy.deepcopy(self.model).float(), image)
        if not finite(output):
            self.report.warn("the model gave no number for some pixels; they were left as they were")
        return torch.where(torch.isfinite(output), output, image)

    def _through(self, model: Dehazer, image: Tensor) -> Tensor:
        if not model.streams:
            return model(image)
        return compose(
            model,
            image,
            seed=self.plan.seed,
            batch_size=self.plan.batch,
            overlap=self.layout.inner.overlap,
        )


def dehaze_tiles(scene: Scene, crew: Crew[OnePass], errand: Errand, writer: RasterWriter) -> None:
    """Each tile by itself, as if it were all there is."""
    tick = counting("decode", len(scene.groups) * len(scene.wanted_rows()) * scene.grid.cols, errand.watch)
    canvases = [Canvas(scene, group) for group in scene.groups]

    def dehazed(run: OnePass, piece: Piece, group: Group) -> tuple[Batch, Tensor]:
        batch = shown(scene, group, piece, run.device or scene.device)
        with errand.report.working("decode"):
            return batch, dehazed_tile(batch, run)

    def wanted(row: Row, group: Group) -> Iterator[Piece]:
        for piece in pieces(scene, group, row, 1):
            tick(1)
            if scene.wants(piece.ids):
                yield piece

    def lay(row: Row, finish: Finish) -> list[Change]:
        for canvas in canvases:
            tick(len(row.absent))
            for laid in crew.over(partial(dehazed, group=canvas.group), wanted(row, canvas.group)):
                canvas.lay(*laid)
        return [(canvas.group, canvas.finish(row.number, finish.box)) for canvas in canvases]

    with errand.report.timed("decode"):
        decode_rows(scene, errand, writer, lay)


def dehazed_tile(batch: Batch, run: OnePass) -> Tensor:
    """One tile [1, 3, tile, tile]; what overhangs the scene is not shown to the network and left as it is."""
    box = batch.grid.box(batch.ids[0])
    height, width = min(box.height, batch.grid.height - box.top), min(box.width, batch.grid.width - box.left)
    output = batch.pixels.clone()
    output[..., :height, :width] = run(batch.pixels[..., :height, :width])
    return output


def dehaze_picture(scene: Scene, run: OnePass, errand: Errand, writer: RasterWriter) -> None:
    """The scene, or a smaller picture of it, in one pass; what that changed is brought back by rows."""
    report, watch = errand.report, errand.watch
    with report.timed("encode"):
        watch("encode", 0, scene.grid.rows)
        pictures = reduced(scene, run.layout.inner.height, run.layout.inner.width, errand)
    raising = []
    with report.timed("mix"):
        for number, (group, picture) in enumerate(zip(scene.groups, pictures, strict=True)):
            watch("mix", number, len(pictures))
            with report.working("decode"):
                output = errand.journal.mixed(number, partial(run, picture), scene.device)
            raising.append(way_back(picture[0], output[0], run.layout, scene, group))
        watch("mix", len(pictures), len(pictures))
    tick = counting("decode", len(scene.wanted_rows()), watch)

    def lay(row: Row, finish: Finish) -> list[Change]:
        tick(1)
        return [(group, way(finish)) for group, way in zip(scene.groups, raising, strict=True)]

    with report.timed("decode"):
        decode_rows(scene, errand, writer, lay)


def reduced(scene: Scene, height: int, width: int, errand: Errand) -> list[Tensor]:
    """Each group in [0, 1] on the device, averaged down to [1, 3, height, width]; its gaps are filled."""
    grid = scene.grid
    totals = [torch.zeros(len(group.bands), height, width, device=scene.device) for group in scene.groups]
    with closing(ahead(errand.report.each_working("read", rows_to_encode(scene, summed=True)))) as reading:
        for row in reading:
            band = grid.band(row.number)
            rows = row.view[:, band.top - row.view_top : band.bottom - row.view_top]
            for group, total in zip(scene.groups, totals, strict=True):
                source = torch.from_numpy(rows[scene.place(group)]).to(scene.device)
                pixels = to_unit(source, group.levels(scene.device))
                if (height, width) == (grid.height, grid.width):
                    total[:, band.top : band.bottom] = pixels
                else:
                    add_rows(total, narrowed(pixels, width), band.top, grid.height)
            errand.watch("encode", row.number + 1, grid.rows)
    return [total.expand(3, -1, -1)[None] for total in totals]


def narrowed(pixels: Tensor, width: int) -> Tensor:
    """[bands, rows, w] averaged along the rows to [bands, rows, width], pixels on an edge shared by area."""
    sums = F.pad(pixels.double().cumsum(2), (1, 0))
    edges = torch.linspace(0, pixels.shape[2], width + 1, dtype=torch.float64, device=pixels.device)
    before = edges.floor().long().clamp(max=pixels.shape[2] - 1)
    at = sums[:, :, before] + (edges - before) * pixels[:, :, before]
    return (at.diff(dim=2) * (width / pixels.shape[2])).float()


def add_rows(total: Tensor, rows: Tensor, top: int, scene_height: int) -> None:
    """Add what scene rows [bands, n, width] from `top` on make up of averages [bands, height, width]."""
    step = scene_height / total.shape[1]
    first, last = int(top / step), min(total.shape[1], int((top + rows.shape[1]) / step) + 1)
    begins = torch.arange(first, last, device=rows.device)[:, None] * step
    places = top + torch.arange(rows.shape[1], device=rows.device)[None]
    shares = (torch.minimum(begins + step, places + 1) - torch.maximum(begins, places)).clamp(min=0)
    total[:, first:last] += (shares / step) @ rows


def way_back(
    picture: Tensor, output: Tensor, layout: Layout, scene: Scene, group: Group
) -> Callable[[Finish], Tensor]:
    """From rows of the scene to their change [3 or 1, h, w], by what a group's picture [3, h, w] became."""
    grid = scene.grid
    if layout.kind == "whole":
        change = as_bands(output - picture, group)
        return lambda finish: change[:, *slices(finish.box)]
    factor, offset = guide(picture, output) if layout.upsampling == "guided" else (None, output)

    def raised(finish: Finish) -> Tensor:
        box = finish.box
        source = torch.from_numpy(finish.source[[b - 1 for b in group.bands]]).to(scene.device)
        hazy = to_unit(source, group.levels(scene.device)).expand(3, -1, -1)
        clear = lifted(offset, box, grid.height, grid.width)
        if factor is not None:
            clear = clear + lifted(factor, box, grid.height, grid.width) * hazy
        return as_bands(clear - hazy, group)

    return raised


def as_bands(change: Tensor, group: Group) -> Tensor:
    """The change of three colours as that of a group's bands."""
    return change.mean(0, keepdim=True) if len(group.bands) == 1 else change


def guide(picture: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Factors and offsets [3, h, w] by which each place of the picture becomes the output, smooth in place.

    The guided filter (He, Sun, Tang 2013), guided colour by colour; the coefficients are applied at full
    size as He and Sun propose (Fast Guided Filter, 2015), so that edges of the ground stay sharp.
    """
    mean_in, mean_out = spread(picture), spread(output)
    covariance = spread(picture * output) - mean_in * mean_out
    variance = spread(picture * picture) - mean_in**2
    factor = covariance / (variance + GUIDE_EPSILON)
    return spread(factor), spread(mean_out - factor * mean_in)


def spread(x: Tensor) -> Tensor:
    """Means over the squares around each place."""
    return F.avg_pool2d(x, 2 * GUIDE_RADIUS + 1, 1, GUIDE_RADIUS, count_include_pad=False)


def lifted(small: Tensor, box: Box, height: int, width: int) -> Tensor:
    """A box [bands, h, w] of a small picture enlarged, by lines, to height x width."""
    down, right = between(small.shape[1], height, small), between(small.shape[2], width, small)
    rows, cols = slices(box)
    first, second, share = (part[rows] for part in down)
    lines = small[:, first].lerp(small[:, second], share[:, None])
    first, second, share = (part[cols] for part in right)
    return lines[:, :, first].lerp(lines[:, :, second], share)


def between(small: int, large: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `large` places the two of `small` it lies between, and how near to the second, [large]."""
    places = (torch.arange(large, dtype=torch.float64, device=like.device) + 0.5) * (small / large) - 0.5
    places = places.clamp(0, small - 1)
    first = places.floor().long()
    return first, (first + 1).clamp(max=small - 1), (places - first).to(like.dtype)
