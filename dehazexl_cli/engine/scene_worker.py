"""A worker's side of a scene that is shared: it encodes and decodes the rows it is given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import processors, setting_for
from dehazexl_cli.engine.blending import BlendBuffer
from dehazexl_cli.engine.device import choose_device
from dehazexl_cli.engine.executor import LocalExecutor
from dehazexl_cli.engine.fp32_fallback import Fp32Fallback
from dehazexl_cli.engine.layout import row_bytes
from dehazexl_cli.engine.memory import measure_budget
from dehazexl_cli.engine.pipeline import GroupState, decode_row, output_strips
from dehazexl_cli.engine.rows import rows_to_encode
from dehazexl_cli.engine.run_checkpoint import RunCheckpoint
from dehazexl_cli.engine.run_context import RunContext
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.engine.team import MIXED, SceneSpec, Step, fetch, keep, name_of, packed
from dehazexl_cli.engine.threads import prefetch
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import Plan, PlanOverrides, candidate_plans, choose
from dehazexl_cli.raster.base import RasterReader
from dehazexl_cli.raster.views import WindowedReader
from dehazexl_cli.report import Report


class SceneWorker:
    """What a worker keeps of a scene between its bands: source, model, and the features of rows it encoded.

    Raises DeviceError where the device is not there, or memory too small for what was decided for all.
    """

    def __init__(
        self,
        brief: SceneSpec,
        reader: RasterReader,
        model: DehazeModel,
        options: EngineOptions,
    ) -> None:
        device = choose_device(brief.device)
        model.to(device=device, dtype=brief.dtype)
        self._folder, self._reader = brief.folder, reader
        self._scene = brief.scene(
            reader if brief.ground is None else WindowedReader(reader, brief.ground), device
        )
        self._report, self._threads = Report(), options.threads
        plan = plan_here(brief, self._scene, model, options)
        folder = Path(options.tmp_dir) if options.tmp_dir else None
        run_context = RunContext(
            plan, [model], self._report, lambda phase, done, total: None, RunCheckpoint(), folder
        )
        self._summed = model.gather == "sum"
        self._lanes = [
            GroupState(self._scene, group, number, run_context)
            for number, group in enumerate(self._scene.groups)
        ]
        self._crew = LocalExecutor([Fp32Fallback(model, self._report)])
        self._watch: Callable[[], None] = lambda: None
        self._knows_mixed = False

    def do(self, step: Step, band: range, watch: Callable[[], None]) -> Report:
        """Do a step for the rows of a band that are not done yet, and say how it went.

        `watch` is called between batches, and may raise to have the work left.
        """
        self._watch = watch
        done = (number for number in band if not (self._folder / name_of(step, number)).exists())
        rows = range(next(done, band.stop), band.stop)
        with processors(self._threads), torch.inference_mode():
            self._encode(rows) if step == "encode" else self._decode(rows)
        told = replace(self._report)
        self._report.busy_seconds, self._report.warnings = {}, []
        return told

    def close(self) -> None:
        """Let go of the source."""
        self._reader.close()

    def _encode(self, rows: range) -> None:
        source = rows_to_encode(self._scene, self._summed, rows)
        with closing(prefetch(self._report.each_working("read", source))) as reading:
            for row in reading:
                tokens = [state.encode(row, self._crew, self._tick) for state in self._lanes]
                on_host = [None if each is None else each.cpu() for each in tokens]
                self._keep("encode", row.number, {"absent": sorted(row.absent), "tokens": on_host})

    def _decode(self, rows: range) -> None:
        if not self._knows_mixed:
            for state, told in zip(self._lanes, fetch(self._folder / MIXED), strict=True):
                state.told = told
            self._knows_mixed = True
        for state in self._lanes:
            state.buffer = BlendBuffer(self._scene, state.group)
        laying = partial(decode_row, self._lanes, self._crew, self._tick)
        with closing(
            output_strips(self._scene, self._report, laying, slice(rows.start, rows.stop))
        ) as making:
            for number, made in zip(rows, making, strict=True):
                self._keep("decode", number, packed(made))

    def _keep(self, step: Step, number: int, what: dict[str, object]) -> None:
        keep(self._folder / name_of(step, number), what | {"counts": self._report.counts()})
        self._report.set_counts(dict.fromkeys(self._report.counts(), 0))

    def _tick(self, count: int) -> None:
        self._watch()


def plan_here(brief: SceneSpec, scene: Scene, model: DehazeModel, options: EngineOptions) -> Plan:
    """The plan of the team, with as many features kept here as there is room for: that changes no bit."""
    plan, grid, info = brief.plan, scene.grid, scene.reader.info
    budget = measure_budget([scene.device], options.max_ram, options.max_vram)
    setting = replace(
        setting_for(info, model, options, [scene.device], budget),
        band_bytes=(grid.patch + 2 * grid.halo) * row_bytes(info),
        wanted=(-(-grid.rows // brief.size), grid.cols),
    )
    wishes = PlanOverrides(options.wishes.skips, plan.batch, plan.seed is None, plan.seed or 0)
    # The leader mixes.
    footprint = model.footprint(brief.dtype).times(len(scene.groups)).without_mixing()
    plans = [
        each for each in candidate_plans(footprint, grid, setting, wishes) if each.queries == plan.queries
    ]
    return plans[choose(plans, budget)]
