"""Runs a model over a raster: decide, then stream; on lack of memory, the next plan of the ladder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from dehazexl_cli.engine.frame import Frame, Framed
from dehazexl_cli.engine.ground import find_ground
from dehazexl_cli.engine.modes import Layout, Mode, lay_out, plans_for
from dehazexl_cli.engine.once import strategy_for
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.engine.stream import Watch
from dehazexl_cli.engine.transfer import choose_device, choose_precision, measure_budget, precision_name
from dehazexl_cli.engine.values import choose_groups
from dehazexl_cli.errors import DeviceError, UsageError
from dehazexl_cli.grid import Box, Joints
from dehazexl_cli.models.base import Dehazer
from dehazexl_cli.plan import MemoryBudget, Plan, Wishes, choose
from dehazexl_cli.raster.base import RasterInfo, RasterReader, RasterWriter
from dehazexl_cli.raster.views import Part, Shared
from dehazexl_cli.report import Report, peak_host_bytes


@dataclass(frozen=True)
class Options:
    """What a user may decide about a run; the defaults adapt to the scene and the machine."""

    bands: tuple[int, ...] | None = None
    all_bands: bool = False  # dehaze the other bands too, in groups of three
    input_range: tuple[float, float] | None = None  # low and high, of all bands that are dehazed
    band_ranges: tuple[float, ...] | None = None  # instead: low and high of each of them, in their order
    window: Box | None = None  # what is written; all of the scene is looked at
    strength: float = 1.0
    device: str = "auto"
    precision: str = "auto"
    max_ram: int | None = None  # bytes
    max_vram: int | None = None  # bytes
    overlap: int | None = None  # pixels; None is the model's own choice
    wishes: Wishes = field(default_factory=Wishes)
    mode: Mode = field(default_factory=Mode)

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength} is out of range", "give a number from 0 to 1")


class Job(NamedTuple):
    """A scene with everything decided."""

    scene: Scene
    frame: Frame | None  # of what is written around the scene, if anything is
    layout: Layout
    dtype: torch.dtype
    plans: list[Plan]
    first: int  # index of the plan to begin with
    budget: MemoryBudget

    @property
    def plan(self) -> Plan:
        """The plan the run begins with."""
        return self.plans[self.first]


def prepare(reader: RasterReader, model: Dehazer, options: Options) -> Job:
    """Decide how to run; reads what is ground and a thinned sample of the scene at most."""
    device = choose_device(options.device)
    dtype = precision_for(model, options.precision, device)
    whole = Box(0, 0, reader.info.height, reader.info.width)
    target = options.window or whole
    ground = find_ground(reader) or whole
    framed = ground != whole or target != whole
    reader = Shared(reader) if framed else reader
    # Patches lie over the ground, so that they lie alike whatever border is around it.
    part = reader if ground == whole else Part(reader, ground)
    layout = lay_out(part.info, model, options.mode, choose_overlap(model, options.overlap))
    scene = Scene(
        part,
        layout.outer,
        choose_groups(part, options.bands, options.band_ranges or options.input_range, options.all_bands),
        options.strength,
        device,
        ground.within(target).moved(-ground.top, -ground.left),
    )
    row_bytes = ground.width * part.info.count * np.dtype(part.info.dtype).itemsize
    budget = measure_budget(device, options.max_ram, options.max_vram)
    footprint = model.footprint(dtype).times(len(scene.groups))
    plans = plans_for(layout, footprint, row_bytes, device.type == "cuda", options.wishes)
    frame = Frame(reader, target, ground.within(target)) if framed else None
    return Job(scene, frame, layout, dtype, plans, choose(plans, budget), budget)


def precision_for(model: Dehazer, wanted: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in; UsageError for half precision in a network that knows float32 only."""
    if model.streams:
        return choose_precision(wanted, device)
    if wanted not in ("auto", "fp32"):
        raise UsageError(f"--precision {wanted} is not possible with this model", "use fp32, or auto")
    return torch.float32


def joints_of(info: RasterInfo, model: Dehazer, options: Options) -> Joints:
    """Where a run would leave seams, if it left any."""
    return lay_out(info, model, options.mode, choose_overlap(model, options.overlap)).joints


def choose_overlap(model: Dehazer, wanted: int | None) -> int:
    """The model's own overlap, or the one wanted; UsageError if the model cannot have it."""
    if wanted is None:
        return model.overlap
    most = 0 if model.gather == "sum" or not model.streams else model.patch // 2
    if not 0 <= wanted <= most:
        raise UsageError(
            f"--overlap {wanted} is not possible with this model", f"use 0 to {most} pixels, or auto"
        )
    return wanted


def run(
    reader: RasterReader,
    make_writer: Callable[[], RasterWriter],
    model: Dehazer,
    options: Options,
    watch: Watch | None = None,
) -> Report:
    """Dehaze a raster into a new one and say how it went.

    `make_writer` is called once per attempt; the file appears when the last row is written. Raises a
    DehazeError of the kind that fits, and leaves no output, if anything goes wrong.
    """
    report = Report()
    with report.timed("prepare"):
        job = prepare(reader, model, options)
        model = model.to(device=job.scene.device, dtype=job.dtype)
    describe(report, job, options)
    for index in range(job.first, len(job.plans)):
        plan = job.plans[index]
        report.plan = plan.to_dict() | job.layout.facts
        start_counting(report, job)
        try:
            attempt(job, model, plan, make_writer, report, watch or (lambda phase, done, total: None))
            break
        except OutOfMemory as error:
            release(job.scene.device)
            if index + 1 == len(job.plans):
                raise DeviceError(
                    f"memory ran out with the smallest plan ({error})",
                    "close other programs, choose a smaller model, or use a machine with more memory",
                ) from error
            following = job.plans[index + 1]
            report.fallbacks.append(
                f"out of memory with skips on {plan.skips}, batch {plan.batch}; "
                f"went on with skips on {following.skips}, batch {following.batch}"
            )
    report.peak_host_bytes = peak_host_bytes()
    if job.scene.device.type == "cuda":
        report.peak_device_bytes = torch.cuda.max_memory_allocated(job.scene.device)
    return report


def start_counting(report: Report, job: Job) -> None:
    """Set counts to where they stand before an attempt: there may have been one before."""
    report.clipped_values = report.outside_range = 0
    # What is written around the ground is none.
    report.invalid_pixels = job.frame.target.pixels - job.frame.part.pixels if job.frame else 0


def attempt(
    job: Job,
    model: Dehazer,
    plan: Plan,
    make_writer: Callable[[], RasterWriter],
    report: Report,
    watch: Watch,
) -> None:
    """Run the scene by one plan; OutOfMemory if it needs more than there is."""
    with make_writer() as writer, noticing_lack_of_memory():
        framed = Framed(writer, job.frame) if job.frame else writer
        strategy_for(job.layout)(job.scene, model, plan, framed, report, watch)


class OutOfMemory(Exception):
    """An allocation failed, on whatever device, under whatever name the library gives it."""


ALLOCATION = re.compile(
    r"can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC", re.IGNORECASE
)


@contextmanager
def noticing_lack_of_memory() -> Iterator[None]:
    """Turn every library's way to say that memory ran out into OutOfMemory."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(str(error).splitlines()[0] if str(error) else "no memory") from error
    except RuntimeError as error:
        if not ALLOCATION.search(str(error)):
            raise
        raise OutOfMemory(str(error).splitlines()[0]) from error


def release(device: torch.device) -> None:
    """Hand cached memory back before the next attempt."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def describe(report: Report, job: Job, options: Options) -> None:
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
    report.mode = job.layout.kind
    report.overlap = job.layout.inner.overlap
    report.joints = placed(job)._asdict()
    report.device = str(job.scene.device)
    report.precision = precision_name(job.dtype)
    for note in info.notes:
        report.warn(note)


def placed(job: Job) -> Joints:
    """Where seams may be in what is written: patches begin at the corner of the ground."""
    joints, frame, wanted = job.layout.joints, job.frame, job.scene.wanted
    if frame is None:
        return joints
    return joints._replace(
        top=frame.part.top - frame.target.top - wanted.top,
        left=frame.part.left - frame.target.left - wanted.left,
    )


def describe_group(group: Group) -> dict[str, Any]:
    """Bands that were shown to the model together, and the source values that were its 0 and 1."""
    return {"bands": group.bands, "ranges": [(range.low, range.high) for range in group.ranges]}


__all__ = ["Job", "Mode", "Options", "Plan", "Wishes", "joints_of", "precision_for", "prepare", "run"]
