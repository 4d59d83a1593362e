"""The streaming loop: encode every patch, mix once, decode every patch, row by row from disk to disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dehazexl_cli.engine.canvas import Canvas, finished_rows
from dehazexl_cli.engine.careful import Careful
from dehazexl_cli.engine.pipes import Behind, ahead
from dehazexl_cli.engine.rows import Finish, Row, cut, rows_to_decode, rows_to_encode
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.engine.store import TokenStore
from dehazexl_cli.engine.transfer import to_unit
from dehazexl_cli.models.base import Batch, Dehazer
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.base import RasterWriter
from dehazexl_cli.report import Report

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all
Tick = Callable[[int], None]  # patches done since the last time


def dehaze_scene(
    scene: Scene, model: Dehazer, plan: Plan, writer: RasterWriter, report: Report, watch: Watch
) -> None:
    """Dehaze the wanted part of a scene into the writer; raises what reading, computing or writing raises."""
    careful = Careful(model, report)
    lanes = [Lane(scene, group, model, plan) for group in scene.groups]
    with torch.inference_mode():
        with report.timed("encode"):
            encode_all(scene, lanes, careful, plan, watch)
        with report.timed("mix"):
            for number, lane in enumerate(lanes):
                watch("mix", number, len(lanes))
                lane.mix(careful, plan.seed)
            watch("mix", len(lanes), len(lanes))
        with report.timed("decode"), Behind(writer) as behind:
            decode_all(scene, lanes, careful, plan, behind, watch)
    with report.timed("finish"):
        watch("finish", 0, 1)
        writer.commit()
        watch("finish", 1, 1)


class Lane:
    """One group of bands on its way: tokens and features, the mixed scene, the change."""

    def __init__(self, scene: Scene, group: Group, model: Dehazer, plan: Plan) -> None:
        self.scene, self.group = scene, group
        self.store = TokenStore(len(scene.grid), model.gather, plan.skips)
        self.canvas = Canvas(scene, group)
        self._absent: frozenset[int] = frozenset()
        self._mixed: Tensor | None = None

    def encode(self, row: Row, careful: Careful, size: int, tick: Tick) -> None:
        """Let every patch of a row that has ground say what it sees."""
        for batch in batches(self.scene, self.group, row, size):
            tokens, skips = careful.encode(batch)
            self.store.put(batch.ids, tokens, skips if self.scene.wants(batch.ids) else None)
            tick(len(batch.ids))
        self._absent |= row.absent
        tick(len(row.absent))

    def mix(self, careful: Careful, seed: int | None) -> None:
        """Let all patches that have ground see each other; none may have."""
        tokens = self.store.tokens()
        if tokens is None:
            return
        grid = replace(self.scene.grid, absent=self._absent)
        self._mixed = mixed = careful.mix(tokens, grid, seed)
        if grid.absent and self.store.gather == "stack":  # decoding finds a patch by its number
            self._mixed = mixed.new_zeros((1, len(grid), *mixed.shape[2:]))
            self._mixed[:, grid.present] = mixed

    def decode(self, row: Row, careful: Careful, size: int, tick: Tick) -> None:
        """Rewrite the patches of a row that reach into what is wanted."""
        tick(len(row.absent))
        for batch in batches(self.scene, self.group, row, size):
            tick(len(batch.ids))
            if not self.scene.wants(batch.ids):
                continue
            skips = self.store.take(batch.ids, self.scene.device)
            if skips is None:
                _, skips = careful.encode(batch)
            assert self._mixed is not None, "a patch with ground was mixed with none"
            self.canvas.lay(batch, careful.decode(batch, self._mixed, skips))


def batches(scene: Scene, group: Group, row: Row, size: int) -> Iterator[Batch]:
    """Batches of the patches of a row that have ground, a group's bands, on the device."""
    for ids in scene.grid.batches_of_row(row.number, size, row.absent):
        source = torch.from_numpy(cut(scene, row, ids, scene.place(group)))
        source = source.to(scene.device, non_blocking=True)
        pixels = to_unit(source, group.levels(scene.device))
        yield Batch(ids, scene.grid, pixels.expand(-1, 3, -1, -1))


def encode_all(scene: Scene, lanes: list[Lane], careful: Careful, plan: Plan, watch: Watch) -> None:
    """First reading: every patch says what it sees."""
    tick = counting("encode", len(lanes) * len(scene.grid), watch)
    for row in ahead(rows_to_encode(scene, careful.model.gather == "sum")):
        for lane in lanes:
            lane.encode(row, careful, plan.batch, tick)


def decode_all(
    scene: Scene, lanes: list[Lane], careful: Careful, plan: Plan, behind: Behind, watch: Watch
) -> None:
    """Second reading: every patch is rewritten knowing the whole scene."""
    tick = counting("decode", len(lanes) * len(scene.wanted_rows()) * scene.grid.cols, watch)
    for row, finish in ahead(rows_to_decode(scene)):
        for lane in lanes:
            lane.decode(row, careful, plan.batch, tick)
        changes = [(lane.group, lane.canvas.finish(row.number, finish.box)) for lane in lanes]
        save(scene, finish, changes, behind, careful.report)
        del changes  # else the next row is laid while this one is still kept


def save(
    scene: Scene, finish: Finish, changes: Sequence[tuple[Group, Tensor]], behind: Behind, report: Report
) -> None:
    """Hand the rows on, changed, if any are wanted, and count what is no ground."""
    if finish.source.size:
        behind.save(finished_rows(scene, finish, changes, report))
    if finish.valid is not None:
        report.invalid_pixels += int((~finish.valid).sum())


def counting(phase: str, total: int, watch: Watch) -> Tick:
    """A function that counts patches and tells the watch."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if total:  # there is nothing to do for a part without ground
            watch(phase, done, total)

    tick(0)
    return tick
