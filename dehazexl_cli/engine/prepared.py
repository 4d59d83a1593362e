"""Decides everything about a scene before it is run: what is run, and the ways it can be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.device import choose_devices, choose_precision
from dehazexl_cli.engine.doubts import doubts_of
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
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.engine.value_ranges import choose_groups
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.grid import Box, SeamLines
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import MemoryBudget, Plan, PlanInputs, choose
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.base import RasterInfo, RasterReader
from dehazexl_cli.raster.views import LockedReader, WindowedReader

DISK_SHARE = 0.8  # of what is free where temporary files go


class PreparedRun(NamedTuple):
    """A scene with everything decided."""

    scene: Scene
    frame: Padding | None  # of what is written around the scene, if anything is
    layout: Layout  # of the plan to begin with
    dtype: torch.dtype
    plans: list[Plan]
    first: int  # index of the plan to begin with
    budget: MemoryBudget
    devices: list[torch.device]
    last_resorts: tuple[Layout, ...] = ()  # of plans that cut the scene into tiles
    notes: tuple[str, ...] = ()  # what a user should know of how the scene is taken

    @property
    def plan(self) -> Plan:
        """The plan the run begins with."""
        return self.plans[self.first]

    def layout_of(self, plan: Plan) -> Layout:
        """How the scene is laid out by a plan."""
        return next((layout for layout in self.last_resorts if layout.outer.patch == plan.tile), self.layout)

    def at(self, plan: Plan) -> tuple[Scene, Layout]:
        """The scene as a plan wants it cut, and the layout by which it does."""
        layout = self.layout_of(plan)
        tells_haze = self.scene.tells_haze and layout.kind == "global"
        return replace(self.scene, grid=layout.outer, tells_haze=tells_haze), layout

    def seam_lines_of(self, plan: Plan) -> SeamLines:
        """Where seams may be in what is written: patches begin at the corner of the ground."""
        seam_lines, frame, wanted = self.layout_of(plan).seam_lines, self.frame, self.scene.wanted
        if frame is None:
            return seam_lines
        return seam_lines._replace(
            top=frame.part.top - frame.target.top - wanted.top,
            left=frame.part.left - frame.target.left - wanted.left,
        )


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
        nodata_for_unseen(reader.info) if options.unseen == "nodata" else None,
        model.tells_haze and layout.kind == "global",
    )
    budget = measure_budget(devices, options.max_ram, options.max_vram)
    setting = setting_for(reader.info, model, options, devices, budget)
    setting = replace(setting, groups=len(scene.groups), tells_haze=scene.tells_haze)
    footprint = model.footprint(dtype).times(len(scene.groups))
    resorts = tuple(fallback_tiles(part.info, model, options.mode, options.overlap))
    plans = [
        plan
        for each in (layout, *resorts)
        for plan in plans_for(
            each, footprint, plan_inputs(each, part.info, setting, scene.wanted), options.overrides
        )
    ]
    first = choose(plans, budget)
    layout = next((each for each in resorts if each.outer.patch == plans[first].tile), layout)
    scene = replace(scene, grid=layout.outer)
    frame = Padding(reader, target, ground.within(target)) if framed else None
    notes = (*reader.info.notes, *bands.notes, *doubts_of(scene))
    return PreparedRun(scene, frame, layout, dtype, plans, first, budget, devices, resorts, notes)


def nodata_for_unseen(info: RasterInfo) -> float:
    """The value of pixels that are to be nodata; UsageError where the raster says none."""
    if info.nodata is None:
        raise UsageError(
            f"--unseen nodata is not possible: {info.name} says no nodata value",
            "set one first, for example: rio edit-info --nodata 0 IN",
        )
    return info.nodata


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
    if model.supports_streaming:
        return choose_precision(wanted, device)
    if wanted not in ("auto", "fp32"):
        raise UsageError(f"--precision {wanted} is not possible with this model", "use fp32, or auto")
    return torch.float32


def seam_lines_of(info: RasterInfo, model: DehazeModel, options: EngineOptions) -> SeamLines:
    """Where a run would leave seams, if it left any."""
    require_overlap(model, options.overlap)
    return make_layout(info, model, options.mode, options.overlap).seam_lines


def require_overlap(model: DehazeModel, wanted: int | None) -> None:
    """Raises UsageError if patches of this model cannot overlap as wanted; None leaves it to the model."""
    most = 0 if model.token_reduction == "sum" or not model.supports_streaming else model.patch // 2
    if wanted is not None and not 0 <= wanted <= most:
        raise UsageError(
            f"--overlap {wanted} is not possible with this model", f"use 0 to {most} pixels, or auto"
        )
