"""A worker's side of a scene that is shared: it encodes and decodes the rows it is given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from dehazexl_cli.cluster.scene import CONTEXT, SceneSpec, Step, fetch, keep, name_of, packed
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.device import choose_device
from dehazexl_cli.engine.executor import LocalExecutor, SceneContext
from dehazexl_cli.engine.fp32_fallback import Fp32Fallback
from dehazexl_cli.engine.layout import row_bytes
from dehazexl_cli.engine.memory import measure_budget
from dehazexl_cli.engine.prepared import setting_for
from dehazexl_cli.engine.run import processors
from dehazexl_cli.engine.scene import Progress, RunContext, Scene
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
        self, spec: SceneSpec, reader: RasterReader, model: DehazeModel, options: EngineOptions
    ) -> None:
        self._device = device = choose_device(spec.device)
        model.to(device=device, dtype=spec.dtype)
        self._folder, self._reader = spec.folder, reader
        scene = spec.scene(reader if spec.ground is None else WindowedReader(reader, spec.ground), device)
        self._report, self._threads = Report(), options.threads
        self._watch: Callable[[], None] = lambda: None
        self._progress = Progress(lambda phase, done, total: self._watch())
        plan = plan_here(spec, scene, model, options)
        folder = Path(options.tmp_dir) if options.tmp_dir else None
        run = RunContext(plan, [model], self._report, self._progress, folder)
        self._executor = LocalExecutor(scene, [Fp32Fallback(model, self._report)], run, plan.batch)
        self._context: SceneContext | None = None

    def do(self, step: Step, band: range, watch: Callable[[], None]) -> Report:
        """Do a step for the rows of a band that are not done yet, and say how it went.

        `watch` is called between batches, and may raise to have the work left.
        """
        self._watch = watch
        done = (number for number in band if not (self._folder / name_of(step, number)).exists())
        rows = range(next(done, band.stop), band.stop)
        self._progress.begin(step, len(rows))
        with processors(self._threads), torch.inference_mode():
            self._encode(rows) if step == "encode" else self._decode(rows)
        told = replace(self._report)
        self._report.busy_seconds, self._report.warnings = {}, []
        return told

    def close(self) -> None:
        """Let go of the source."""
        self._reader.close()

    def _encode(self, rows: range) -> None:
        with closing(self._executor.encode(rows)) as encoded:
            for row in encoded:
                on_host = [None if each is None else each.cpu() for each in row.tokens]
                self._keep("encode", row.number, {"empty": sorted(row.empty), "tokens": on_host})

    def _decode(self, rows: range) -> None:
        if self._context is None:
            found = fetch(self._folder / CONTEXT)
            self._context = [None if each is None else each.to(self._device) for each in found]
        with closing(self._executor.decode(rows, self._context)) as strips:
            for number, strip in zip(rows, strips, strict=True):
                self._keep("decode", number, packed(strip))

    def _keep(self, step: Step, number: int, what: dict[str, object]) -> None:
        keep(self._folder / name_of(step, number), what | {"counts": self._report.counts()})
        self._report.set_counts(dict.fromkeys(self._report.counts(), 0))


def plan_here(spec: SceneSpec, scene: Scene, model: DehazeModel, options: EngineOptions) -> Plan:
    """The plan of all workers, with as many features kept here as there is room for: that changes no bit."""
    plan, grid, info = spec.plan, scene.grid, scene.reader.info
    budget = measure_budget([scene.device], options.max_ram, options.max_vram)
    setting = replace(
        setting_for(info, model, options, [scene.device], budget),
        band_bytes=(grid.patch + 2 * grid.halo) * row_bytes(info),
        wanted=(-(-grid.rows // spec.size), grid.cols),
    )
    overrides = PlanOverrides(options.overrides.skips, plan.batch, plan.seed is None, plan.seed or 0)
    # The leader mixes.
    footprint = model.footprint(spec.dtype).times(len(scene.groups)).without_bottleneck()
    plans = [
        each
        for each in candidate_plans(footprint, grid, setting, overrides)
        if each.query_chunk == plan.query_chunk
    ]
    return plans[choose(plans, budget)]
