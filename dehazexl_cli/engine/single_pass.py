"""Networks that are shown an image in one pass: a tile, the scene, or a smaller picture of it."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from dehazexl_cli.engine.downsampling import add_band, as_bands, colour_changes, upsample
from dehazexl_cli.engine.executor import EncodedRow, LocalExecutor, RowExecutor, SceneContext
from dehazexl_cli.engine.fp32_fallback import Fp32Fallback, finite
from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.patches import (
    OutputStrip,
    Residual,
    apply_residual,
    rows_to_decode,
    rows_to_encode,
    slices,
)
from dehazexl_cli.engine.scaling import Group, normalize
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.engine.threads import prefetch
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import COLOURS, DehazeModel, PatchBatch, Skips, forward_in_memory
from dehazexl_cli.raster.base import Pixels


def executor_for(scene: Scene, layout: Layout, run: RunContext) -> RowExecutor:
    """Who computes the rows of a scene that is laid out so, in this process."""
    if layout.kind == "global":
        models = [Fp32Fallback(model, run.report) for model in run.models]
        return LocalExecutor(scene, models, run, run.plan.batch)
    passes = [SinglePass(model, layout.inner.overlap, run) for model in run.models]
    if layout.kind == "tile":
        return LocalExecutor(scene, list(map(TileModel, passes)), run, 1, has_context=False)
    return PictureExecutor(scene, layout, passes[0], run)


class SinglePass:
    """A network that is shown an image as a whole; checks what comes out."""

    def __init__(self, model: DehazeModel, overlap: int, run: RunContext) -> None:
        self.model, self.overlap, self.run = model, overlap, run

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
        report = self.run.report
        report.count_redone()
        output = self._through(copy.deepcopy(self.model).float(), image)
        if not finite(output):
            report.warn("the model gave no number for some pixels; they were left as they were")
        return torch.where(torch.isfinite(output), output, image)

    def _through(self, model: DehazeModel, image: Tensor) -> Tensor:
        if not model.supports_streaming:
            return model(image)
        plan = self.run.plan
        return forward_in_memory(model, image, seed=plan.seed, batch_size=plan.batch, overlap=self.overlap)[
            :, :COLOURS
        ]


class TileModel:
    """A network whose patches are tiles: each is all that it sees, so there is nothing to encode."""

    def __init__(self, show: SinglePass) -> None:
        self._show = show

    @property
    def device(self) -> torch.device | None:
        """See SinglePass.device."""
        return self._show.device

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        """No tokens and no features."""
        return batch.pixels.new_empty((len(batch.ids), 0)), ()

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        """Tiles learn nothing of each other."""
        raise NotImplementedError

    def decode(self, batch: PatchBatch, context: Tensor | None, skips: Skips) -> Tensor:
        """One tile [1, 3, tile, tile]; what overhangs the scene is not shown and left as it is."""
        box, grid = batch.grid.box(batch.ids[0]), batch.grid
        height, width = min(box.height, grid.height - box.top), min(box.width, grid.width - box.left)
        output = batch.pixels.clone()
        output[..., :height, :width] = self._show(batch.pixels[..., :height, :width])
        return output


class PictureExecutor:
    """Shows a network the scene, or a smaller picture of it, and brings back what that changed by rows.

    The context of a group of bands is what brings it back: the change itself [3 or 1, h, w], or how colours
    change, or what they became, in the picture. See RowExecutor.
    """

    has_context = True

    def __init__(self, scene: Scene, layout: Layout, show: SinglePass, run: RunContext) -> None:
        self._scene, self._layout, self._show, self._run = scene, layout, show, run
        self._pictures: list[Tensor] = []  # of each group [1, 3, h, w] in [0, 1]

    def encode(self, rows: range) -> Generator[EncodedRow, None, None]:
        """Average each group down to a picture, its gaps filled; no row says anything by itself."""
        scene, inner, report = self._scene, self._layout.inner, self._run.report
        # Sums along rows take float64, which Apple's GPUs do not have.
        device = torch.device("cpu") if scene.device.type == "mps" else scene.device
        totals = [
            torch.zeros(len(group.bands), inner.height, inner.width, device=device) for group in scene.groups
        ]
        source = rows_to_encode(scene, summed=True, numbers=rows)
        with closing(prefetch(report.each_working("read", source))) as reading:
            for row in reading:
                band = scene.grid.band(row.number)
                pixels = row.view[:, band.top - row.view_top : band.bottom - row.view_top]
                for group, total in zip(scene.groups, totals, strict=True):
                    part = pixels[scene.place(group)]
                    add_band(total, part, group.scaling(device), band.top, scene.grid)
                self._run.progress.advance(len(scene.groups) * scene.grid.cols)
        self._pictures = [total.to(scene.device).expand(3, -1, -1)[None] for total in totals]
        yield from ()

    def apply_bottleneck(self, group: int, tokens: Tensor | None, empty: frozenset[int]) -> Tensor | None:
        """Show the network a group's picture; see RowExecutor.apply_bottleneck."""
        picture, bands = self._pictures[group], self._scene.groups[group]
        with self._run.report.working("decode"):
            output = self._show(picture)
        if self._layout.kind == "whole":
            return as_bands(output[0] - picture[0], bands)
        if self._layout.upsampling == "guided":
            return colour_changes(picture[0], output[0], bands)
        return output[0]

    def decode(self, rows: range, context: SceneContext) -> Generator[Pixels, None, None]:
        """See RowExecutor.decode."""
        self._pictures.clear()
        scene, report = self._scene, self._run.report
        with closing(prefetch(report.each_working("read", rows_to_decode(scene, rows)))) as reading:
            for _, strip in reading:
                self._run.progress.advance(len(scene.groups) * scene.grid.cols)
                yield apply_residual(scene, strip, self._residuals(strip, context), report)

    def _residuals(self, strip: OutputStrip, context: SceneContext) -> Sequence[Residual]:
        return [
            Residual(group, self._change(strip, group, each))
            for group, each in zip(self._scene.groups, context, strict=True)
            if each is not None
        ]

    def _change(self, strip: OutputStrip, group: Group, context: Tensor) -> Tensor:
        """The change [3 or 1, h, w] of some rows of the scene."""
        grid, device = self._scene.grid, self._scene.device
        if self._layout.kind == "whole":
            return context[:, *slices(strip.box)]
        source = torch.from_numpy(strip.source[[band - 1 for band in group.bands]]).to(device)
        hazy = normalize(source, group.scaling(device))
        raised = upsample(context, strip.box, grid.height, grid.width)
        if self._layout.upsampling == "guided":
            factor, offset = raised.chunk(2)
            return torch.addcmul(offset, factor, hazy)
        return as_bands(raised, group) - hazy
