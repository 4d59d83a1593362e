"""Runs a model over a raster: decide, then stream; on lack of memory, the next plan of the ladder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dehazexl_cli.config import EngineOptions, InferenceMode
from dehazexl_cli.engine.device import choose_devices, choose_precision, precision_name
from dehazexl_cli.engine.doubts import doubts_of
from dehazexl_cli.engine.fallback import (
    OutOfMemory,
    in_words,
    noticing_lack_of_memory,
    release,
    run_with_fallback,
)
from dehazexl_cli.engine.layout import (
    Layout,
    fallback_tiles,
    make_layout,
    plan_inputs,
    plans_for,
)
from dehazexl_cli.engine.memory import loading_bytes, measure_budget, process_bytes
from dehazexl_cli.engine.nodata import valid_bounds
from dehazexl_cli.engine.padding import Padding
from dehazexl_cli.engine.prepared import PreparedRun
from dehazexl_cli.engine.resume import Resume, opened
from dehazexl_cli.engine.run_context import RunContext, Watch
from dehazexl_cli.engine.scaling import choose_groups, is_stretched_unit
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.engine.team import WorkerPool, for_team
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.grid import Box, SeamLines
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import MemoryBudget, Plan, PlanInputs, PlanOverrides, choose, gigabytes
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.base import RasterInfo, RasterReader, RasterWriter
from dehazexl_cli.raster.views import LockedReader, WindowedReader
from dehazexl_cli.report import Report, peak_host_bytes

DISK_SHARE = 0.8  # of what is free where temporary files go


def prepare(reader: RasterReader, model: DehazeModel, options: EngineOptions) -> PreparedRun:
    """Decide how to run; reads what is ground and a thinned sample of the scene at most."""
    devices = choose_devices(options.device)
    dtype = precision_for(model, options.precision, devices[0])
    whole = Box(0, 0, reader.info.height, reader.info.width)
    target = options.window or whole
    bands = choose_bands(reader.info, options.bands, options.all_bands)
    ground = valid_bounds(reader, bands.dehazed) or whole
    framed = ground != whole or target != whole
    reader = LockedReader(reader) if framed else reader
    # Patches lie over the ground, so that they lie alike whatever border is around it.
    part = reader if ground == whole else WindowedReader(reader, ground)
    require_overlap(model, options.overlap)
    layout = make_layout(part.info, model, options.mode, options.overlap)
    scene = Scene(
        part,
        layout.outer,
        choose_groups(part, bands, options.band_ranges or options.input_range),
        options.strength,
        devices[0],
        ground.within(target).moved(-ground.top, -ground.left),
        None if ground == whole else ground,
    )
    budget = measure_budget(devices, options.max_ram, options.max_vram)
    setting = setting_for(reader.info, model, options, devices, budget)
    setting = replace(setting, groups=len(scene.groups))
    footprint = model.footprint(dtype).times(len(scene.groups))
    resorts = tuple(fallback_tiles(part.info, model, options.mode, options.overlap))
    plans = [
        plan
        for each in (layout, *resorts)
        for plan in plans_for(
            each, footprint, plan_inputs(each, part.info, setting, scene.wanted), options.wishes
        )
    ]
    first = choose(plans, budget)
    layout = next((each for each in resorts if each.outer.patch == plans[first].tile), layout)
    scene = replace(scene, grid=layout.outer)
    frame = Padding(reader, target, ground.within(target)) if framed else None
    notes = (*reader.info.notes, *bands.notes, *doubts_of(scene))
    return PreparedRun(scene, frame, layout, dtype, plans, first, budget, devices, resorts, notes)


def free_disk_bytes(folder: str) -> int:
    """Room on the disk of a folder; OutputError if there is none such."""
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(
            f"{folder}: nothing can be put there ({error.strerror})", "name another --tmp-dir"
        ) from error


def setting_for(
    info: RasterInfo,
    model: DehazeModel,
    options: EngineOptions,
    devices: Sequence[torch.device],
    budget: MemoryBudget,
) -> PlanInputs:
    """What a scene's files and this process take in memory, whatever the plan."""
    result = (
        info.height * info.width * info.count * np.dtype(info.dtype).itemsize if info.driver == "MEM" else 0
    )
    return PlanInputs(
        band_bytes=0,
        on_gpu=devices[0].type == "cuda",
        disk_bytes=0 if options.tmp_dir is None else int(DISK_SHARE * free_disk_bytes(options.tmp_dir)),
        process_bytes=process_bytes(model),
        loading_bytes=loading_bytes(model),
        cache_bytes=info.cache_bytes,
        held_bytes=result,
        replicas=len(devices),
        budget=budget,
    )


def precision_for(model: DehazeModel, wanted: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in; UsageError for half precision in a network that knows float32 only."""
    if model.streams:
        return choose_precision(wanted, device)
    if wanted not in ("auto", "fp32"):
        raise UsageError(f"--precision {wanted} is not possible with this model", "use fp32, or auto")
    return torch.float32


def joints_of(info: RasterInfo, model: DehazeModel, options: EngineOptions) -> SeamLines:
    """Where a run would leave seams, if it left any."""
    require_overlap(model, options.overlap)
    return make_layout(info, model, options.mode, options.overlap).joints


def require_overlap(model: DehazeModel, wanted: int | None) -> None:
    """Raises UsageError if patches of this model cannot overlap as wanted; None leaves it to the model."""
    most = 0 if model.gather == "sum" or not model.streams else model.patch // 2
    if wanted is not None and not 0 <= wanted <= most:
        raise UsageError(
            f"--overlap {wanted} is not possible with this model", f"use 0 to {most} pixels, or auto"
        )


def run(
    reader: RasterReader,
    make_writer: Callable[[], RasterWriter],
    model: DehazeModel,
    options: EngineOptions,
    watch: Watch | None = None,
    resume: Resume | None = None,
    team: WorkerPool | None = None,
) -> Report:
    """Dehaze a raster into a new one and say how it went.

    `make_writer` is called once per attempt; the file appears when the last row is written. With `resume`,
    what is done survives the process, and a later run goes on from there. With a `team`, its workers encode
    and decode, to the same bytes by the same plan, and this process mixes and writes. Raises a DehazeError
    of the kind that fits, and leaves no output, if anything goes wrong.
    """
    report = Report()
    if team is not None:
        options = for_team(options, model)
    with processors(options.threads):
        with report.timed("prepare"):
            job = prepare(reader, model, options)
            models = replicas(model, job)
        describe(report, job, options)
        if job.first and job.plan.tile and not job.plans[0].tile:
            report.fallbacks.append(told_of_tiles(job))
        checkpoint, plan = opened(resume, job, options, report)
        folder = Path(options.tmp_dir) if options.tmp_dir else None
        run_context = RunContext(
            plan, models, report, watch or (lambda phase, done, total: None), checkpoint, folder, team
        )
        try:
            run_with_fallback(
                job, run_context, make_writer, lambda plan: describe_plan(report, job, plan, team)
            )
        finally:
            checkpoint.close()
        checkpoint.discard()
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


def told_of_tiles(job: PreparedRun) -> str:
    """Why a scene is cut into tiles, in a sentence."""
    best = min(plan.host_bytes + plan.device_bytes for plan in job.plans if not plan.tile)
    return (
        f"the scene as one needs {gigabytes(best)} of memory, more than may be used; "
        f"went on with {in_words(job.plan)}"
    )


def describe(report: Report, job: PreparedRun, options: EngineOptions) -> None:
    """Write what was decided into the report."""
    info, first = job.scene.reader.info, job.scene.groups[0]
    target = job.frame.target if job.frame else Box(0, 0, info.height, info.width)
    report.input = info.name
    report.height, report.width = target.height, target.width
    report.count, report.dtype = info.count, info.dtype
    report.bands = first.bands
    report.low, report.high = first.ranges[0].low, first.ranges[0].high
    report.range_source = first.ranges[0].source
    report.groups = [describe_group(group) for group in job.scene.groups]
    report.strength = options.strength
    report.device = ",".join(map(str, job.devices))
    report.precision = precision_name(job.dtype)
    for note in job.notes:
        report.warn(note)
    if options.band_ranges is None and is_stretched_unit(info, first):
        report.notes.append(
            f"the floats, of 0 to 1, are shown to the model from 0 to {report.high:.3g} as black to white; "
            "--input-range dtype shows them as they are, as it does bytes"
        )


def describe_plan(report: Report, job: PreparedRun, plan: Plan, team: WorkerPool | None = None) -> None:
    """Write into the report by which plan a scene is run."""
    layout = job.layout_of(plan)
    report.plan = plan.to_dict() | layout.facts | ({} if team is None else {"workers": team.size})
    report.mode = layout.kind
    report.overlap = layout.inner.overlap
    report.joints = job.joints_of(plan)._asdict()


def describe_group(group: Group) -> dict[str, Any]:
    """Bands that were shown to the model together, and the source values that were its 0 and 1."""
    return {"bands": group.bands, "ranges": [(range.low, range.high) for range in group.ranges]}


__all__ = [
    "InferenceMode",
    "Layout",
    "OutOfMemory",
    "Plan",
    "PlanOverrides",
    "PreparedRun",
    "Resume",
    "joints_of",
    "noticing_lack_of_memory",
    "precision_for",
    "prepare",
    "release",
    "run",
]
