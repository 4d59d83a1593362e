"""Scenes that go through a network in single passes: tile by tile, as a whole, or as a smaller picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from dehazexl_cli.engine.blending import BlendBuffer, Residual
from dehazexl_cli.engine.device import to_unit
from dehazexl_cli.engine.downsampling import SinglePass, as_bands, colour_changes, downsample, upsample
from dehazexl_cli.engine.executor import LocalExecutor
from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.pipeline import HostBatch, decode_rows, dehaze_scene, pieces, to_device
from dehazexl_cli.engine.rows import OutputStrip, PatchRow, slices
from dehazexl_cli.engine.run_context import RunContext, counting
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.models.base import PatchBatch
from dehazexl_cli.raster.base import RasterWriter

Strategy = Callable[[Scene, RunContext, RasterWriter], None]


def strategy_for(layout: Layout) -> Strategy:
    """How a layout is run."""
    if layout.kind == "global":
        return partial(dehaze_scene, layout=layout)

    def once(scene: Scene, run_context: RunContext, writer: RasterWriter) -> None:
        overlap, plan, report = layout.inner.overlap, run_context.plan, run_context.report
        executor = LocalExecutor([SinglePass(model, overlap, plan, report) for model in run_context.models])
        with torch.inference_mode():
            if layout.kind == "tile":
                dehaze_tiles(scene, executor, run_context, writer)
            else:
                dehaze_picture(scene, layout, executor.first, run_context, writer)
        with run_context.report.timed("finish"):
            run_context.watch("finish", 0, 1)
            writer.commit()
            run_context.watch("finish", 1, 1)

    return once


def dehaze_tiles(
    scene: Scene, executor: LocalExecutor[SinglePass], run_context: RunContext, writer: RasterWriter
) -> None:
    """Each tile by itself, as if it were all there is."""
    tick = counting(
        "decode", len(scene.groups) * len(scene.wanted_rows()) * scene.grid.cols, run_context.watch
    )
    canvases = [BlendBuffer(scene, group) for group in scene.groups]

    def dehazed(run: SinglePass, piece: HostBatch, group: Group) -> tuple[PatchBatch, Tensor]:
        batch = to_device(scene, group, piece, run.device or scene.device)
        with run_context.report.working("decode"):
            return batch, dehazed_tile(batch, run)

    def wanted(row: PatchRow, group: Group) -> Iterator[HostBatch]:
        for piece in pieces(scene, group, row, 1):
            tick(1)
            if scene.wants(piece.ids):
                yield piece

    def lay(row: PatchRow, finish: OutputStrip) -> list[Residual]:
        for buffer in canvases:
            tick(len(row.absent))
            for laid in executor.over(partial(dehazed, group=buffer.group), wanted(row, buffer.group)):
                buffer.lay(*laid)
                del laid  # else it is kept while the next tile is dehazed
        return [Residual(buffer.group, buffer.finish(row.number, finish.box)) for buffer in canvases]

    with run_context.report.timed("decode"):
        decode_rows(scene, run_context, writer, lay)


def dehazed_tile(batch: PatchBatch, run: SinglePass) -> Tensor:
    """One tile [1, 3, tile, tile]; what overhangs the scene is not shown to the network and left as it is."""
    box = batch.grid.box(batch.ids[0])
    height, width = min(box.height, batch.grid.height - box.top), min(box.width, batch.grid.width - box.left)
    output = batch.pixels.clone()
    output[..., :height, :width] = run(batch.pixels[..., :height, :width])
    return output


def dehaze_picture(
    scene: Scene, layout: Layout, run: SinglePass, run_context: RunContext, writer: RasterWriter
) -> None:
    """The scene, or a smaller picture of it, in one pass; what that changed is brought back by rows."""
    report, watch = run_context.report, run_context.watch
    with report.timed("encode"):
        pictures = downsample(scene, layout.inner.height, layout.inner.width, run_context, "encode")
    raising = []
    with report.timed("mix"):
        for number, (group, picture) in enumerate(zip(scene.groups, pictures, strict=True)):
            watch("mix", number, len(pictures))
            with report.working("decode"):
                output = run_context.checkpoint.mixed(number, partial(run, picture), scene.device)
            raising.append(way_back(picture[0], output[0], layout, scene, group))
        watch("mix", len(pictures), len(pictures))
    tick = counting("decode", len(scene.wanted_rows()), watch)

    def lay(row: PatchRow, finish: OutputStrip) -> list[Residual]:
        tick(1)
        return [Residual(group, way(finish)) for group, way in zip(scene.groups, raising, strict=True)]

    with report.timed("decode"):
        decode_rows(scene, run_context, writer, lay)


def way_back(
    picture: Tensor, output: Tensor, layout: Layout, scene: Scene, group: Group
) -> Callable[[OutputStrip], Tensor]:
    """From rows of the scene to their change [3 or 1, h, w], by what a group's picture [3, h, w] became."""
    grid = scene.grid
    if layout.kind == "whole":
        change = as_bands(output - picture, group)
        return lambda finish: change[:, *slices(finish.box)]
    transforms = colour_changes(picture, output, group)

    def raised(finish: OutputStrip) -> Tensor:
        source = torch.from_numpy(finish.source[[b - 1 for b in group.bands]]).to(scene.device)
        hazy = to_unit(source, group.levels(scene.device))
        if layout.upsampling == "guided":
            factor, offset = upsample(transforms, finish.box, grid.height, grid.width).chunk(2)
            return torch.addcmul(offset, factor, hazy)
        return as_bands(upsample(output, finish.box, grid.height, grid.width), group) - hazy

    return raised
