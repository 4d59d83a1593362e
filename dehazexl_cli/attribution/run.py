"""Attribution maps of windows of a scene, in one mode or several, within the memory there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dehazexl_cli.attribution.gradient import Network
from dehazexl_cli.attribution.integrated_gradients import Attribution, attribute
from dehazexl_cli.attribution.paths import Blend, Path, Transmission, airlight_of
from dehazexl_cli.attribution.regions import ground_of, parts_of, require_alike, valid_of
from dehazexl_cli.attribution.scene import Detector
from dehazexl_cli.attribution.statistics import Spread, measure_spread
from dehazexl_cli.config import EngineOptions, InferenceMode
from dehazexl_cli.engine import OutOfMemory, PreparedRun, noticing_lack_of_memory, prepare, release
from dehazexl_cli.engine.device import precision_name
from dehazexl_cli.engine.nodata import around
from dehazexl_cli.engine.scaling import normalize
from dehazexl_cli.engine.scene import Watch
from dehazexl_cli.errors import DeviceError, InputError, UsageError
from dehazexl_cli.files import run_in_memory
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import PROCESS_BYTES, Footprint, Plan, PlanOverrides, choose
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.base import RasterReader
from dehazexl_cli.raster.memory import ArrayReader

MODES = ("global", "tile")
PATHS = ("blend", "transmission")
DETECTORS = ("sum", "mean")
SELF, BLACK = "self", "black"
CPU_BATCHES, GPU_BATCHES = (4, 2, 1), (16, 8, 4, 2, 1)
# What the way there and back needs, in terms of the way there alone: whatever a layer was given is kept.
PATCH_TIMES, BOTTLENECK_TIMES = 9, 9
AIRLIGHT_SIDE = 1024  # pixels of the thinned scene that the airlight is taken from


@dataclass(frozen=True)
class Question:
    """What is asked of a scene."""

    windows: tuple[Box, ...]
    modes: tuple[str, ...] = ("global",)
    baseline: str = SELF  # or "black", or a file of the scene without haze
    path: str = "blend"
    detector: str = "sum"
    steps: int | None = None  # None: as many as completeness takes
    tile: int | None = None  # side of the tile mode's tiles, pixels

    def __post_init__(self) -> None:
        for option, value, choices in (
            *(("--compare-modes", mode, MODES) for mode in self.modes),
            ("--path", self.path, PATHS),
            ("--detector", self.detector, DETECTORS),
        ):
            if value not in choices:
                raise UsageError(f"{option} {value} is not known", f"use one of: {', '.join(choices)}")
        if self.tile is not None and "tile" not in self.modes:
            raise UsageError("--tile has no meaning without mode tile", "add --compare-modes global,tile")

    def settings(self) -> dict[str, Any]:
        """What was asked but the default, as plain values."""
        plain, default = asdict(self), asdict(Question(self.windows))
        windows = [named(window) for window in self.windows]
        return {key: plain[key] for key in plain if plain[key] != default[key]} | {"windows": windows}

    def mode(self, name: str) -> InferenceMode:
        """A mode as the engine runs it."""

        return InferenceMode("tile", self.tile) if name == "tile" else InferenceMode("global")


class Answer(NamedTuple):
    """The map of a window in a mode, and what it says; boxes are of the whole raster."""

    window: Box
    near: Box  # around the patches that the window is restored from; may overhang
    mode: str
    attribution: Attribution  # its map is of the ground's box
    spread: Spread
    elsewhere: float  # share of what is attributed to filled pixels, which are no ground


@dataclass
class Explanation:
    """All answers, and how they were found."""

    answers: list[Answer]
    ground: Box  # that the maps cover
    valid: Tensor | None  # [height, width] bool of that box; None: all of it is ground
    facts: dict[str, Any]


def explain_scene(
    reader: RasterReader, model: DehazeModel, question: Question, options: EngineOptions, watch: Watch
) -> Explanation:
    """Answer for every window and mode.

    Raises InputError for a window without ground or a baseline that does not fit, DeviceError if there is
    not enough memory, UsageError for a model that sees no scene as a whole.
    """

    if not model.supports_streaming:
        raise UsageError("a generic network has no steps to go back through", "use another --model")
    jobs = [prepare(reader, model, replace(options, mode=question.mode(mode))) for mode in question.modes]
    model = model.to(device=jobs[0].scene.device, dtype=jobs[0].dtype)
    ground, valid = ground_of(jobs[0]), valid_of(jobs[0].scene)
    seconds: dict[str, float] = {}
    clear = clear_scene(reader, model, question.baseline, jobs[0], options, watch, seconds)
    try:
        path = path_of(question.path, jobs[0])
        explanation = Explanation([], ground, valid, how(jobs[0], question, path) | {"seconds": seconds})
        for mode, job in zip(question.modes, jobs, strict=True):
            began = time.perf_counter()
            plan, found = maps_of(job, clear, model, question, path, valid, told(mode, watch))
            seconds[mode] = round(time.perf_counter() - began, 2)
            explanation.facts["plan"][mode] = plan.to_dict()
            explanation.answers += answers(job, mode, model, question.windows, found, valid)
    finally:
        if clear is not None:
            clear.close()
    return explanation


def told(mode: str, watch: Watch) -> Callable[[int, int], None]:
    """How far the maps of a mode are, for the watch."""
    return lambda done, total: watch(f"explain {mode}", done, total)


def clear_scene(
    reader: RasterReader,
    model: DehazeModel,
    baseline: str,
    job: PreparedRun,
    options: EngineOptions,
    watch: Watch,
    seconds: dict[str, float],
) -> RasterReader | None:
    """The scene without haze: a file, or what the model makes of it; None is black."""

    if baseline == BLACK:
        return None
    if baseline != SELF:
        clear = open_reader(baseline)
        try:
            require_alike(reader, clear, job.scene.bands)
        except BaseException:
            clear.close()
            raise
        return clear
    began = time.perf_counter()
    exactly = replace(options, overrides=PlanOverrides(exact_attention=True))
    pixels, _ = run_in_memory(reader, model, exactly, watch=watch)
    seconds[SELF] = round(time.perf_counter() - began, 2)
    info = reader.info
    return ArrayReader(pixels, True, info.nodata, info.alpha, f"{info.name}, dehazed")


def path_of(name: str, job: PreparedRun) -> Path:
    """The way from clear to hazy."""

    if name == "blend":
        return Blend()
    group = job.scene.groups[0]
    sample = torch.from_numpy(job.scene.reader.sample(group.bands, AIRLIGHT_SIDE))
    pixels = normalize(sample[:, None], group.scaling(torch.device("cpu")))[:, 0]
    return Transmission(airlight_of(pixels.expand(3, -1)))


def maps_of(
    job: PreparedRun,
    clear: RasterReader | None,
    model: DehazeModel,
    question: Question,
    path: Path,
    valid: Tensor | None,
    watch: Callable[[int, int], None],
) -> tuple[Plan, list[Attribution]]:
    """Maps of the ground for every window, within the memory there is, and the plan that held."""

    detectors = [detector_of(window, question.detector, job, valid) for window in question.windows]
    plans = plans_for(job, model, question, clear is not None)
    ground, device = ground_of(job), job.scene.device
    for plan in plans[choose(plans, job.budget) :]:
        try:
            with noticing_lack_of_memory():
                parts = parts_of(job, clear, model, detectors)
                network = Network(model, device, plan.batch)
                size = ground.height, ground.width
                return plan, attribute(network, parts, path, size, question.steps, watch)
        except OutOfMemory as error:
            release(device)
            failure = error
    raise DeviceError(
        f"memory ran out with one patch at a time ({failure})",
        "explain a smaller part of the scene, choose a smaller model, or use a machine with more memory",
    ) from failure


def detector_of(window: Box, kind: str, job: PreparedRun, valid: Tensor | None) -> Detector:
    """What is asked of a window, on the ground; InputError if it has none."""

    ground = ground_of(job)
    box = window.within(ground).moved(-ground.top, -ground.left)
    on_ground = None if valid is None else valid[box.top : box.bottom, box.left : box.right]
    if not box.pixels or (on_ground is not None and not on_ground.any()):
        raise InputError(
            f"the window {named(window)} of {job.scene.reader.info.name} has no ground",
            "name a window with pixels that are not nodata",
        )
    return Detector.of(box, kind, on_ground)


def named(window: Box) -> str:
    """A window as it is written on the command line."""
    return f"{window.left},{window.top},{window.width},{window.height}"


def plans_for(job: PreparedRun, model: DehazeModel, question: Question, has_clear: bool) -> list[Plan]:
    """Every way to go there and back, best first, with the memory it is expected to need."""
    grid, on_gpu = job.layout.inner, job.scene.device.type == "cuda"
    info = job.scene.reader.info
    pixels, windows = info.height * info.width, len(question.windows)
    colours = len(job.scene.groups[0].bands) * 4
    # Both scenes, which rows of patches see twice where they overlap; the finished maps and those in work.
    scenes = (1 + has_clear) * colours * pixels * job.scene.grid.patch // job.scene.grid.stride
    maps = (len(question.modes) + 2) * windows * 4 * pixels
    source = pixels * info.count * 4 if question.baseline == SELF else 0
    host = PROCESS_BYTES + scenes + max(maps, 3 * 8 * pixels) + source
    plans = []
    for batch in GPU_BATCHES if on_gpu else CPU_BATCHES:
        network = network_bytes(model.footprint(job.dtype), grid, batch, windows)
        plans.append(
            Plan("recompute", batch, None, host if on_gpu else host + network, network if on_gpu else 0)
        )
    return plans


def network_bytes(footprint: Footprint, grid: PatchGrid, batch: int, windows: int) -> int:
    """What weights, tokens and all that is kept for the way back take."""
    tokens = (2 + windows) * footprint.token_bytes * len(grid)
    in_bottleneck = BOTTLENECK_TIMES * footprint.bottleneck_bytes * len(grid)
    return footprint.weight_bytes + tokens + in_bottleneck + PATCH_TIMES * footprint.work_bytes * batch


def answers(
    job: PreparedRun,
    mode: str,
    model: DehazeModel,
    windows: Sequence[Box],
    found: Sequence[Attribution],
    valid: Tensor | None,
) -> list[Answer]:
    """Maps with what they say."""

    ground, made = ground_of(job), []
    for window, attribution in zip(windows, found, strict=True):
        inner = window.within(ground).moved(-ground.top, -ground.left)
        near = restored_from(job, model, inner)
        spread = measure_spread(attribution.map, inner, near, valid)
        elsewhere = 0.0
        if valid is not None:
            amount = attribution.map.abs()
            elsewhere = float(amount[~valid].double().sum() / amount.double().sum().clamp(min=1e-300))
        made.append(Answer(window, near.moved(ground.top, ground.left), mode, attribution, spread, elsewhere))
    return made


def restored_from(job: PreparedRun, model: DehazeModel, window: Box) -> Box:
    """The box around those patches that the global mode restores a window from; for other modes too."""

    info = job.scene.reader.info
    grid = PatchGrid(info.height, info.width, model.patch, model.halo, job.layout.inner.overlap)
    return reduce(around, (box for box in map(grid.box, range(len(grid))) if box.within(window).pixels))


def how(job: PreparedRun, question: Question, path: Path) -> dict[str, Any]:
    """How the maps were made, as plain values."""

    shown = job.scene.groups[0]
    facts = {
        "bands": list(shown.bands),
        "range": [shown.ranges[0].low, shown.ranges[0].high],
        "range_source": shown.ranges[0].source,
        "baseline": question.baseline,
        "path": question.path,
        "detector": question.detector,
        "attention": "exact",
        "device": str(job.scene.device),
        "precision": precision_name(job.dtype),
        "overlap": job.layout.inner.overlap,
        "plan": {},
    }
    airlight = getattr(path, "airlight", None)
    return facts if airlight is None else facts | {"airlight": [round(x, 4) for x in airlight.tolist()]}


def open_baseline(baseline: str) -> None:
    """Raises InputError, before any work, for a file that cannot be read."""

    if baseline not in (SELF, BLACK):
        with closing(open_reader(baseline)):
            pass
