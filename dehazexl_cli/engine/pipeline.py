"""The streaming loop: encode every patch, mix once, decode every patch, row by row from disk to disk."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dehazexl_cli.engine.blending import BlendBuffer, Residual, finished_rows
from dehazexl_cli.engine.device import to_unit
from dehazexl_cli.engine.executor import LocalExecutor
from dehazexl_cli.engine.fp32_fallback import Fp32Fallback
from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.memory import trim
from dehazexl_cli.engine.rows import OutputStrip, PatchRow, extract_patches, rows_to_decode, rows_to_encode
from dehazexl_cli.engine.run_checkpoint import RunCheckpoint
from dehazexl_cli.engine.run_context import RunContext, Tick, Watch, counting
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.engine.store import TokenStore
from dehazexl_cli.engine.team import SharedRows
from dehazexl_cli.engine.threads import BackgroundWriter, prefetch
from dehazexl_cli.models.base import PatchBatch, Skips
from dehazexl_cli.raster.base import Pixels, RasterWriter
from dehazexl_cli.report import Report


def dehaze_scene(scene: Scene, run_context: RunContext, writer: RasterWriter, layout: Layout) -> None:
    """Dehaze the wanted part of a scene into the writer; raises what reading, computing or writing raises."""
    report, watch = run_context.report, run_context.watch
    dtype = next(run_context.models[0].parameters()).dtype
    team = (
        None
        if run_context.team is None
        else SharedRows(run_context.team, scene, run_context.plan, dtype, report)
    )
    executor = LocalExecutor([Fp32Fallback(model, report) for model in run_context.models])
    states = [GroupState(scene, group, number, run_context) for number, group in enumerate(scene.groups)]
    with torch.inference_mode():
        with report.timed("encode"):
            encode_all(states, executor, run_context, team)
            trim()
        with report.timed("mix"):
            for number, state in enumerate(states):
                watch("mix", number, len(states))
                state.mix(executor.first)
            trim()
            watch("mix", len(states), len(states))
        tick = counting("decode", len(states) * len(scene.wanted_rows()) * scene.grid.cols, watch)

        with report.timed("decode"):
            if team is None:
                decode_rows(scene, run_context, writer, partial(decode_row, states, executor, tick))
            else:
                team.tell([state.told for state in states])
                write_rows(run_context, writer, lambda done: team.decoded(done, tick))
    with report.timed("finish"):
        watch("finish", 0, 1)
        writer.commit()
        watch("finish", 1, 1)


def decode_row(
    states: Sequence[GroupState],
    executor: LocalExecutor[Fp32Fallback],
    tick: Tick,
    row: PatchRow,
    finish: OutputStrip,
) -> list[Residual]:
    """Rewrite a row of patches, all lanes of it."""
    for state in states:
        state.decode(row, executor, tick)
    return [state.change(row, finish) for state in states]


class HostBatch(NamedTuple):
    """A batch before it crosses to a device."""

    ids: tuple[int, ...]
    source: Pixels  # [b, bands, side, side]
    skips: Skips | None = None


class GroupState:
    """One group of bands on its way: tokens and features, the mixed scene, the change."""

    def __init__(self, scene: Scene, group: Group, number: int, run_context: RunContext) -> None:
        plan, self._gather = run_context.plan, run_context.models[0].gather
        self.scene, self.group, self.number = scene, group, number
        self.store = TokenStore(len(scene.grid), self._gather, plan.skips, plan.kept, run_context.folder)
        self.buffer = BlendBuffer(scene, group)
        self._plan, self._journal, self._report = plan, run_context.checkpoint, run_context.report
        self._absent: frozenset[int] = frozenset()
        self._mixed: dict[torch.device, Tensor] = {}

    def encode(self, row: PatchRow, executor: LocalExecutor[Fp32Fallback], tick: Tick) -> Tensor | None:
        """Let every patch of a row that has ground say what it sees: their tokens, or the sum of these."""
        for ids, tokens, skips in executor.over(self._encoded, self._pieces(row)):
            wanted = skips if self.scene.wants(ids) else None
            self.store.put(ids, tokens.to(self.scene.device), wanted)
            tick(len(ids))
            del tokens, skips, wanted  # else they are kept while the next batch is encoded
        self._absent |= row.absent
        tick(len(row.absent))
        return self.store.end_row(self._present(row.number, row.absent))

    def restore(self, row: int, absent: frozenset[int], tokens: Tensor | None) -> None:
        """Take what `encode` gave elsewhere, row by row."""
        self._absent |= absent
        present = self._present(row, absent)
        if present and tokens is not None:
            self.store.put_back(present, tokens.to(self.scene.device))

    def _present(self, row: int, absent: frozenset[int]) -> list[int]:
        return [id for id in self.scene.grid.ids_of_row(row) if id not in absent]

    def mix(self, careful: Fp32Fallback) -> None:
        """Let all patches that have ground see each other; none may have."""
        tokens = self.store.tokens()
        if tokens is None and not self._journal.has_mixed(self.number):
            return

        def mix() -> Tensor:
            assert tokens is not None
            grid = replace(self.scene.grid, absent=self._absent)
            with self._report.working("mix"):
                mixed = careful.mix(tokens, grid, self._plan.seed)
            if not grid.absent or self._gather == "sum":
                return mixed
            placed = mixed.new_zeros((1, len(grid), *mixed.shape[2:]))  # decoding finds a patch by its number
            placed[:, grid.present] = mixed
            return placed

        device = self.scene.device
        self._mixed[device] = self._journal.mixed(self.number, mix, device)

    @property
    def told(self) -> Tensor | None:
        """What decoding needs to know of the whole scene, in the host's memory; None without ground."""
        mixed = self._mixed.get(self.scene.device)
        return None if mixed is None else mixed.cpu()

    @told.setter
    def told(self, mixed: Tensor | None) -> None:
        device = self.scene.device
        self._mixed = {} if mixed is None else {device: mixed.to(device)}

    def decode(self, row: PatchRow, executor: LocalExecutor[Fp32Fallback], tick: Tick) -> None:
        """Rewrite the patches of a row that reach into what is wanted."""
        tick(len(row.absent))
        for batch, pixels in executor.over(self._decoded, self._wanted(row, tick)):
            self.buffer.lay(batch, pixels)
            del batch, pixels  # else they are kept while the next batch is decoded

    def change(self, row: PatchRow, finish: OutputStrip) -> Residual:
        """What is to be changed in the rows that a decoded row of patches finishes."""
        return Residual(self.group, self.buffer.finish(row.number, finish.box))

    def _wanted(self, row: PatchRow, tick: Tick) -> Iterator[HostBatch]:
        for piece in self._pieces(row):
            tick(len(piece.ids))
            if self.scene.wants(piece.ids):
                yield piece._replace(skips=self.store.take(piece.ids, self.scene.device))

    def _pieces(self, row: PatchRow) -> Iterator[HostBatch]:
        return pieces(self.scene, self.group, row, self._plan.batch)

    def _encoded(self, careful: Fp32Fallback, piece: HostBatch) -> tuple[tuple[int, ...], Tensor, Skips]:
        batch = to_device(self.scene, self.group, piece, careful.device)
        with self._report.working("encode"):
            return piece.ids, *careful.encode(batch)

    def _decoded(self, careful: Fp32Fallback, piece: HostBatch) -> tuple[PatchBatch, Tensor]:
        batch = to_device(self.scene, self.group, piece, careful.device)
        with self._report.working("decode"):
            if piece.skips is None:
                skips = careful.encode(batch)[1]
            else:
                skips = tuple(skip.to(careful.device) for skip in piece.skips)
            return batch, careful.decode(batch, self._mixed_on(careful.device), skips)

    def _mixed_on(self, device: torch.device) -> Tensor:
        assert self._mixed, "a patch with ground was mixed with none"
        if device not in self._mixed:
            self._mixed[device] = self._mixed[self.scene.device].to(device)
        return self._mixed[device]


def pieces(scene: Scene, group: Group, row: PatchRow, size: int) -> Iterator[HostBatch]:
    """The patches of a row that have ground, a group's bands, at most `size` at a time."""
    for ids in scene.grid.batches_of_row(row.number, size, row.absent):
        yield HostBatch(ids, extract_patches(scene, row, ids, scene.place(group)))


def to_device(scene: Scene, group: Group, piece: HostBatch, device: torch.device) -> PatchBatch:
    """What a model is shown: pixels in [0, 1] on its device, which they reach as they are stored."""
    source = torch.from_numpy(piece.source).to(device, non_blocking=True)
    pixels = to_unit(source, group.levels(device))
    return PatchBatch(piece.ids, scene.grid, pixels.expand(-1, 3, -1, -1))


def encode_all(
    states: list[GroupState],
    executor: LocalExecutor[Fp32Fallback],
    run_context: RunContext,
    team: SharedRows | None,
) -> None:
    """First reading: every patch says what it sees, unless an earlier run has kept it."""
    scene, checkpoint, report = states[0].scene, run_context.checkpoint, run_context.report
    tick = counting("encode", len(states) * len(scene.grid), run_context.watch)
    if all(checkpoint.has_mixed(state.number) for state in states):
        return tick(len(states) * len(scene.grid))
    known = [checkpoint.encoded(state.number) for state in states]
    done = next(row for row in range(scene.grid.rows + 1) if any(row not in rows for rows in known))
    for number in range(done):
        for state in states:
            record = known[state.number][number]
            state.restore(number, frozenset(record["absent"]), checkpoint.tokens(record))
            tick(scene.grid.cols)
    rest = range(done, scene.grid.rows)
    if team is not None:
        with closing(team.encoded(rest, tick)) as encoded:
            for number, absent, tokens in encoded:
                for state, each in zip(states, tokens, strict=True):
                    state.restore(number, absent, each)
                    checkpoint.keep_tokens(state.number, number, each, absent)
        return
    summed = run_context.models[0].gather == "sum"
    with closing(prefetch(report.each_working("read", rows_to_encode(scene, summed, rest)))) as reading:
        for row in reading:
            for state in states:
                checkpoint.keep_tokens(
                    state.number, row.number, state.encode(row, executor, tick), row.absent
                )


Lay = Callable[[PatchRow, OutputStrip], list[Residual]]
Made = Generator[Pixels, None, None]  # rows of the result


def decode_rows(scene: Scene, run_context: RunContext, writer: RasterWriter, decode_row: Lay) -> None:
    """Second reading: every row is rewritten by `decode_row`, unless an earlier run has kept it."""
    write_rows(
        run_context,
        writer,
        lambda done: output_strips(scene, run_context.report, decode_row, slice(done, None)),
    )


def write_rows(run_context: RunContext, writer: RasterWriter, made: Callable[[int], Made]) -> None:
    """Write what an earlier run has kept of the result, and the rows that are `made` after so many."""
    report, checkpoint = run_context.report, run_context.checkpoint
    with BackgroundWriter(writer, report) as behind:
        saved_strips(checkpoint, behind, report)
        with closing(made(len(checkpoint.finished()))) as making:
            for rows in making:
                checkpoint.keep_rows(rows, report.counts())
                if rows.size:
                    behind.save(rows)


def output_strips(scene: Scene, report: Report, decode_row: Lay, turns: slice) -> Made:
    """The result's rows, for each of some rows of patches; `turns` counts among those that are wanted."""
    # What the row before leaves to the first is not known: it is laid once more.
    first = max(0, turns.start - 1) if scene.grid.overlap else turns.start
    reading = prefetch(report.each_working("read", rows_to_decode(scene, slice(first, turns.stop))))
    with closing(reading):
        for number, (row, finish) in enumerate(reading, start=first):
            changes = decode_row(row, finish)
            if number >= turns.start:
                yield apply_residual(scene, finish, changes, report)
            del changes  # else the next row is laid while this one is still kept


def saved_strips(checkpoint: RunCheckpoint, behind: BackgroundWriter, report: Report) -> None:
    """Write the rows that an earlier run has finished, and count what it has counted."""
    for record in checkpoint.finished():
        rows = checkpoint.rows(record)
        if rows.size:
            behind.save(rows)
        report.set_counts(record["counts"])


def apply_residual(scene: Scene, finish: OutputStrip, changes: Sequence[Residual], report: Report) -> Pixels:
    """The rows, changed, if any are wanted; counts what is no ground."""
    rows = finish.source[:, :0]
    if finish.source.size:
        with report.working("convert"):
            rows = finished_rows(scene, finish, changes, report)
    if finish.valid is not None:
        report.invalid_pixels += int((~finish.valid).sum())
    return rows


__all__ = ["Watch", "counting", "decode_rows", "dehaze_scene", "pieces", "to_device"]
