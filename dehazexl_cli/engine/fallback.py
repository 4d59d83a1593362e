"""Attempts at a scene: on lack of memory, whatever ran short and under whatever name, the next plan."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from dehazexl_cli.engine.executor import RowExecutor
from dehazexl_cli.engine.haze import HazeWriter
from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.padding import PaddingWriter
from dehazexl_cli.engine.pipeline import dehaze_scene
from dehazexl_cli.engine.prepared import PreparedRun
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.engine.skip_cache import DiskFull
from dehazexl_cli.errors import DeviceError, is_lack_of_memory
from dehazexl_cli.plan import Plan, next_smaller
from dehazexl_cli.raster.base import RasterWriter
from dehazexl_cli.report import Report


class OutOfMemory(Exception):
    """An allocation failed, on whatever device, under whatever name the library gives it."""


DOING = {
    "encode": "encoding",
    "bottleneck": "letting all patches see each other",
    "decode": "decoding",
    "finish": "finishing",
}
WAITING = {"device": "on the device", "host": "in memory", "disk": "on disk"}


def run_with_fallback(
    job: PreparedRun,
    run: RunContext,
    make_executor: Callable[[Scene, Layout, RunContext], RowExecutor],
    make_writer: Callable[[], RasterWriter],
    make_map: Callable[[], RasterWriter] | None = None,
) -> None:
    """Run the scene by the plan of `run`, and where memory runs out by those that follow it.

    Executor and writers are made anew for each attempt. Raises DeviceError where no plan is left.
    """
    report, index = run.report, job.plans.index(run.plan)
    while True:
        plan = job.plans[index]
        start_counting(report, job)
        try:
            return attempt(job, replace(run, plan=plan), make_executor, make_writer, make_map)
        except OutOfMemory as error:
            full = isinstance(error.__cause__, DiskFull)
            phase = run.progress.phase
            later = next_smaller(job.plans, index, "disk" if full else phase)
            if later is None:
                raise DeviceError(
                    f"memory ran out with the smallest plan ({error})",
                    "close other programs, choose a smaller model, or use a machine with more memory",
                ) from error
            lacking = "room on disk" if full else "memory"
            report.fallbacks.append(
                f"out of {lacking} while {DOING[phase]} with {in_words(plan)}; "
                f"went on with {in_words(job.plans[later])}"
            )
            index = later
        release(job.scene.device)  # not before the error is gone: its frames hold the attempt's tensors


def attempt(
    job: PreparedRun,
    run: RunContext,
    make_executor: Callable[[Scene, Layout, RunContext], RowExecutor],
    make_writer: Callable[[], RasterWriter],
    make_map: Callable[[], RasterWriter] | None = None,
) -> None:
    """Run the scene by one plan; OutOfMemory if it needs more than there is."""
    scene, layout = job.at(run.plan)
    for model in run.models:
        model.query_chunk = run.plan.query_chunk
    executor = make_executor(scene, layout, run)
    with ExitStack() as files:
        writer = files.enter_context(make_writer())
        if scene.tells_haze:
            haze_map = files.enter_context(make_map()) if make_map else None
            writer = HazeWriter(writer, haze_map, run.report, scene)
        framed = PaddingWriter(writer, job.frame, scene.tells_haze) if job.frame else writer
        with noticing_lack_of_memory():
            dehaze_scene(scene, executor, run, framed)


def start_counting(report: Report, job: PreparedRun) -> None:
    """Set counts to where they stand before an attempt: there may have been one before."""
    report.clipped_values = report.outside_range = 0
    # What is written around the ground is none.
    report.invalid_pixels = job.frame.target.pixels - job.frame.part.pixels if job.frame else 0


@contextmanager
def noticing_lack_of_memory() -> Iterator[None]:
    """Turn every library's way to say that memory ran out into OutOfMemory."""
    try:
        yield
    except Exception as error:
        if not (isinstance(error, DiskFull) or is_lack_of_memory(error)):
            raise
        raise OutOfMemory(str(error).splitlines()[0] if str(error) else "no memory") from error


def release(device: torch.device) -> None:
    """Free what the last attempt held, in cycles of frames too, and hand cached memory back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_words(plan: Plan) -> str:
    """A plan as a person would tell it from its neighbours."""
    if plan.tile:
        return f"tiles of {plan.tile} pixels, {plan.batch} patches at a time"
    attending = (
        f"exact attention by {plan.query_chunk} tokens" if plan.query_chunk else f"{plan.attention} attention"
    )
    if plan.skips == "recompute":
        features = "features computed again"
    else:
        some = "" if plan.cached_patches is None else f" of {plan.cached_patches} patches"
        features = f"features{some} {WAITING[plan.skips]}"
    return f"{features}, {attending}, {plan.batch} patches at a time"
