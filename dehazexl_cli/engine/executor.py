"""Who computes the rows of a scene: this process, on one device or several; others keep the same promise."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dehazexl_cli.engine.group_state import GroupState
from dehazexl_cli.engine.patches import (
    PatchRow,
    Residual,
    apply_residual,
    extract_patches,
    rows_to_decode,
    rows_to_encode,
    to_device,
)
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.engine.threads import in_turn, prefetch
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import PatchBatch, Skips
from dehazexl_cli.raster.base import Pixels

SceneContext = Sequence[Tensor | None]  # what each group's patches learn of the scene; None: nothing


class EncodedRow(NamedTuple):
    """What a row of patches says of itself."""

    number: int
    empty: frozenset[int]  # patches that have no ground
    tokens: tuple[Tensor | None, ...]  # of each group: of the others [n, …] or their sum [1, …]; None of none


class RowExecutor(Protocol):
    """The three steps of a model for rows of patches; all give the same bits, whoever computes them.

    Close what `encode` and `decode` give before anything that they read from is closed.
    """

    has_context: bool  # whether patches learn of each other: else nothing is encoded beforehand

    def encode(self, rows: range) -> Generator[EncodedRow, None, None]:
        """Encode rows of patches, in order."""
        ...

    def apply_bottleneck(self, group: int, tokens: Tensor | None, empty: frozenset[int]) -> Tensor | None:
        """Let all patches of a group of bands see each other; None if there are none."""
        ...

    def decode(self, rows: range, context: SceneContext) -> Generator[Pixels, None, None]:
        """Finished rows of the result [count, height, width], for each row of patches in order."""
        ...


class PatchModel(Protocol):
    """A network on a device, as it is asked for batches of patches."""

    @property
    def device(self) -> torch.device | None: ...  # None: anywhere

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]: ...

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor: ...

    def decode(self, batch: PatchBatch, context: Tensor | None, skips: Skips) -> Tensor: ...


class HostBatch(NamedTuple):
    """A batch before it crosses to a device."""

    ids: tuple[int, ...]
    source: Pixels  # [b, bands, side, side]
    skips: Skips | None = None


class LocalExecutor:
    """Computes rows in this process, with a replica of the model on each device; see RowExecutor."""

    def __init__(
        self,
        scene: Scene,
        models: Sequence[PatchModel],
        run: RunContext,
        batch_size: int,
        has_context: bool = True,
    ) -> None:
        self.scene, self.run, self.has_context = scene, run, has_context
        self._models, self._batch_size = models, batch_size
        self._summed = run.models[0].token_reduction == "sum"
        self._groups = [GroupState(scene, group, run) for group in scene.groups]

    def encode(self, rows: range) -> Generator[EncodedRow, None, None]:
        """See RowExecutor.encode."""
        source = rows_to_encode(self.scene, self._summed, rows)
        with closing(prefetch(self.run.report.each_working("read", source))) as reading:
            for row in reading:
                yield EncodedRow(
                    row.number, row.empty, tuple(self._encode(group, row) for group in self._groups)
                )

    def _encode(self, group: GroupState, row: PatchRow) -> Tensor | None:
        """Tokens of a row's patches that have ground [n, …], or their sum [1, …]."""
        said: Tensor | None = None
        done, present = 0, self.scene.grid.cols - len(row.empty)
        for ids, tokens, skips in in_turn(
            self._models, partial(self._encode_batch, group), self._batches(group, row)
        ):
            if self.scene.wants(ids):
                group.keep(ids, skips)
            tokens = tokens.to(self.scene.device)
            if self._summed:
                total = tokens.sum(0, keepdim=True)
                said = total if said is None else said.add_(total)
            else:
                said = tokens.new_empty((present, *tokens.shape[1:])) if said is None else said
                said[done : done + len(ids)] = tokens
            done += len(ids)
            self.run.progress.advance(len(ids))
            del tokens, skips  # else they are kept while the next batch is encoded
        self.run.progress.advance(len(row.empty))
        return said

    def _encode_batch(
        self, group: GroupState, model: PatchModel, host_batch: HostBatch
    ) -> tuple[tuple[int, ...], Tensor, Skips]:
        batch = to_device(self.scene, group.group, host_batch.ids, host_batch.source, self._device_of(model))
        with self.run.report.working("encode"):
            return host_batch.ids, *model.encode(batch)

    def apply_bottleneck(self, group: int, tokens: Tensor | None, empty: frozenset[int]) -> Tensor | None:
        """See RowExecutor.apply_bottleneck."""
        if tokens is None:
            return None
        grid = replace(self.scene.grid, empty=empty)
        with self.run.report.working("bottleneck"):
            context = self._models[0].apply_bottleneck(tokens, grid, self.run.plan.seed)
        if not empty or self._summed:
            return context
        placed = context.new_zeros((1, len(grid), *context.shape[2:]))  # a patch is found by its number
        placed[:, grid.present] = context
        return placed

    def decode(self, rows: range, context: SceneContext) -> Generator[Pixels, None, None]:
        """See RowExecutor.decode."""
        scene, report = self.scene, self.run.report
        for group, each in zip(self._groups, context, strict=True):
            group.begin_decoding(scene, each)
        # What the row before leaves to the first is not known: it is decoded once more.
        first = max(scene.wanted_rows().start, rows.start - 1) if scene.grid.overlap else rows.start
        source = rows_to_decode(scene, range(first, rows.stop))
        with closing(prefetch(report.each_working("read", source))) as reading:
            for row, strip in reading:
                for group in self._groups:
                    self._decode(group, row, counts=row.number in rows)
                residuals = [
                    Residual(group.group, group.buffer.finish(row.number, strip.box))
                    for group in self._groups
                ]
                if row.number in rows:
                    yield apply_residual(scene, strip, residuals, report)
                del residuals  # else the next row is decoded while this one is still kept

    def _decode(self, group: GroupState, row: PatchRow, counts: bool) -> None:
        """Decode the patches of a row that reach into what is wanted."""
        self.run.progress.advance(len(row.empty) if counts else 0)
        wanted = self._wanted(group, row, counts)
        for batch, pixels in in_turn(self._models, partial(self._decode_batch, group), wanted):
            group.buffer.add(batch, pixels)
            del batch, pixels  # else they are kept while the next batch is decoded

    def _wanted(self, group: GroupState, row: PatchRow, counts: bool) -> Iterator[HostBatch]:
        for host_batch in self._batches(group, row):
            self.run.progress.advance(len(host_batch.ids) if counts else 0)
            if self.scene.wants(host_batch.ids):
                yield host_batch._replace(skips=group.take(host_batch.ids, self.scene.device))

    def _decode_batch(
        self, group: GroupState, model: PatchModel, host_batch: HostBatch
    ) -> tuple[PatchBatch, Tensor]:
        device = self._device_of(model)
        batch = to_device(self.scene, group.group, host_batch.ids, host_batch.source, device)
        with self.run.report.working("decode"):
            if host_batch.skips is None:
                skips = model.encode(batch)[1]
            else:
                skips = tuple(skip.to(device) for skip in host_batch.skips)
            return batch, model.decode(batch, group.context_on(device), skips)

    def _batches(self, group: GroupState, row: PatchRow) -> Iterator[HostBatch]:
        """The patches of a row that have ground, a group's bands."""
        for ids in self.scene.grid.batches_of_row(row.number, self._batch_size, row.empty):
            yield HostBatch(ids, extract_patches(self.scene, row, ids, self.scene.place(group.group)))

    def _device_of(self, model: PatchModel) -> torch.device:
        return model.device or self.scene.device
