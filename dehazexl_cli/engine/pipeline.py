"""Run a scene: encode its rows, let all patches see each other once, decode its rows into a writer."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import Tensor

from dehazexl_cli.engine.executor import RowExecutor, SceneContext
from dehazexl_cli.engine.memory import trim
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.engine.threads import BackgroundWriter
from dehazexl_cli.raster.base import RasterWriter


def dehaze_scene(scene: Scene, executor: RowExecutor, run: RunContext, writer: RasterWriter) -> None:
    """Dehaze the wanted part of a scene into the writer; raises what reading, computing or writing raises."""
    report, progress = run.report, run.progress
    context: SceneContext = [None] * len(scene.groups)
    with torch.inference_mode():
        if executor.has_context:
            context = look_at_all(scene, executor, run)
        rows = scene.wanted_rows()
        progress.begin("decode", len(scene.groups) * len(rows) * scene.grid.cols)
        with (
            report.timed("decode"),
            BackgroundWriter(writer, report) as behind,
            closing(executor.decode(rows, context)) as strips,
        ):
            for strip in strips:
                if strip.size:
                    behind.save(strip)
    with report.timed("finish"):
        progress.begin("finish", 1)
        writer.commit()
        progress.advance(1)


def look_at_all(scene: Scene, executor: RowExecutor, run: RunContext) -> SceneContext:
    """What the bottleneck gives to all patches, for each group of bands."""
    report, progress, grid = run.report, run.progress, scene.grid
    summed = run.models[0].token_reduction == "sum"
    buffers = [TokenBuffer(len(grid), summed, scene.device) for _ in scene.groups]
    empty: frozenset[int] = frozenset()
    with report.timed("encode"):
        progress.begin("encode", len(scene.groups) * len(grid))
        with closing(executor.encode(range(grid.rows))) as rows:
            for row in rows:
                for buffer, tokens in zip(buffers, row.tokens, strict=True):
                    buffer.put(tokens)
                empty |= row.empty
                del row, tokens  # else they are kept while the next row is encoded
        trim()
    context: list[Tensor | None] = []
    with report.timed("bottleneck"):
        progress.begin("bottleneck", len(scene.groups))
        for group, buffer in enumerate(buffers):
            context.append(executor.apply_bottleneck(group, buffer.take(), empty))
            progress.advance(1)
        trim()
    return context


class TokenBuffer:
    """Tokens of all patches that have ground, in their order, or the sum of them, on the device."""

    def __init__(self, patches: int, summed: bool, device: torch.device) -> None:
        self._patches, self._summed, self._device = patches, summed, device
        self._tokens: Tensor | None = None
        self._count = 0

    def put(self, tokens: Tensor | None) -> None:
        """Take tokens of a row [n, …], or their sum [1, …]; None of none.

        Sums are added up row by row, so that it does not matter to a bit who has computed a row.
        """
        if tokens is None:
            return
        tokens = tokens.to(self._device)
        if self._summed:
            self._tokens = tokens if self._tokens is None else self._tokens + tokens
            return
        if self._tokens is None:
            self._tokens = tokens.new_empty((1, self._patches, *tokens.shape[1:]))
        self._tokens[0, self._count : self._count + len(tokens)] = tokens
        self._count += len(tokens)

    def take(self) -> Tensor | None:
        """Tokens [1, patches, …] or their sum [1, …]; None if there are none. The buffer lets go of them."""
        tokens, self._tokens = self._tokens, None
        return tokens if tokens is None or self._summed else tokens[:, : self._count]
