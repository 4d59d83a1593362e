"""Runs a model over a raster: decide, then stream; on lack of memory, the next smaller plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.describing import describe, describe_plan, told_of_tiles
from dehazexl_cli.engine.executor import RowExecutor
from dehazexl_cli.engine.fallback import run_with_fallback
from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.prepared import PreparedRun, prepare
from dehazexl_cli.engine.resume import Resume, resumption
from dehazexl_cli.engine.scene import Progress, RunContext, Scene, Watch
from dehazexl_cli.engine.single_pass import executor_for
from dehazexl_cli.errors import UsageError
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.raster.base import RasterReader, RasterWriter
from dehazexl_cli.report import Report, peak_host_bytes

Distribute = Callable[[Scene, RunContext, RowExecutor], RowExecutor]


def run(
    reader: RasterReader,
    make_writer: Callable[[], RasterWriter],
    model: DehazeModel,
    options: EngineOptions,
    watch: Watch | None = None,
    resume: Resume | None = None,
    distribute: Distribute | None = None,
    make_map: Callable[[], RasterWriter] | None = None,
) -> Report:
    """Dehaze a raster into a new one and say how it went.

    `make_writer` is called once per attempt; the file appears when the last row is written. With `resume`,
    what is done survives the process, and a later run goes on from there. `distribute` makes of the executor
    that would compute rows here one that has others compute them, to the same bytes by the same plan.
    `make_map` is asked for a writer of how much light gets through, in per cent; see `engine.haze`.
    Raises a DehazeError of the kind that fits, and leaves no output, if anything goes wrong.
    """
    report = Report()
    with processors(options.threads):
        with report.timed("prepare"):
            job = prepare(reader, model, options)
            if distribute is not None:  # workers send rows of the result alone
                job = job._replace(scene=replace(job.scene, tells_haze=False))
            if make_map is not None:
                job = require_haze_told(job, "a haze map")
            if job.scene.unseen is not None:
                job = require_haze_told(job, "--unseen nodata")
            models = replicas(model, job)
        describe(report, job, options)
        if job.first and job.plan.tile and not job.plans[0].tile:
            report.fallbacks.append(told_of_tiles(job))
        with resumption(resume, job, options, report) as resuming:

            def make_executor(scene: Scene, layout: Layout, attempt: RunContext) -> RowExecutor:
                describe_plan(report, job, attempt.plan)
                executor = executor_for(scene, layout, attempt)
                if distribute is not None:
                    executor = distribute(scene, attempt, executor)
                return resuming.over(executor, scene, attempt)

            folder = Path(options.tmp_dir) if options.tmp_dir else None
            first = RunContext(resuming.plan, models, report, Progress(watch), folder)
            run_with_fallback(job, first, make_executor, make_writer, make_map)
    report.peak_host_bytes = peak_host_bytes()
    if job.scene.device.type == "cuda":
        report.peak_device_bytes = max(torch.cuda.max_memory_allocated(device) for device in job.devices)
    return report


@contextmanager
def processors(threads: int | None) -> Iterator[None]:
    """Compute on so many threads meanwhile; None is what torch takes."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def replicas(model: DehazeModel, job: PreparedRun) -> list[DehazeModel]:
    """The model on every device, in the job's precision; the first is the model itself."""
    model.to(dtype=job.dtype)  # before there are copies, which half precision makes half as large
    others = [copy.deepcopy(model) for _ in job.devices[1:]]
    return [each.to(device=device) for each, device in zip([model, *others], job.devices, strict=True)]


def require_haze_told(job: PreparedRun, wanted: str) -> PreparedRun:
    """Keep to plans by which the haze is told, as what is wanted needs it; UsageError if there are none."""
    if not job.scene.tells_haze or job.plan.tile:
        raise UsageError(
            f"{wanted} is not possible with this model, mode or memory",
            "use dehazexl-s in mode global, without --dask; more --max-ram where the scene is cut into tiles",
        )
    return job._replace(plans=[plan for plan in job.plans if not plan.tile])
