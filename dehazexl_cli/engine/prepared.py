"""A scene with everything decided: what is run, and the ways it can be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from dehazexl_cli.engine.layout import InferenceMode, Layout
from dehazexl_cli.engine.padding import Padding
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box, SeamLines
from dehazexl_cli.plan import MemoryBudget, Plan, PlanOverrides

# Options that say where, how fast and in how much room a result is made, and not what it is.
OF_THE_MACHINE = frozenset({"device", "max_ram", "max_vram", "threads", "tmp_dir"})


@dataclass(frozen=True)
class Options:
    """What a user may decide about a run; the defaults adapt to the scene and the machine."""

    bands: tuple[int, ...] | None = None
    all_bands: bool = False  # dehaze the other bands too, in groups of three
    input_range: tuple[float, float] | None = None  # low and high, of all bands that are dehazed
    # Instead: low and high of each of them, in their order; or "dtype" or "percentiles".
    band_ranges: tuple[float, ...] | str | None = None
    window: Box | None = None  # what is written; all of the scene is looked at
    strength: float = 1.0
    device: str = "auto"  # or several, like cuda:0,cuda:1
    precision: str = "auto"
    max_ram: int | None = None  # bytes
    max_vram: int | None = None  # bytes, on each device
    overlap: int | None = None  # pixels; None is the model's own choice
    wishes: PlanOverrides = field(default_factory=PlanOverrides)
    mode: InferenceMode = field(default_factory=InferenceMode)
    tmp_dir: str | None = None  # where features may wait if they find no room in memory
    threads: int | None = None  # of the processor; None is what torch takes

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength} is out of range", "give a number from 0 to 1")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads} is out of range", "give 1 or more")


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
        return replace(self.scene, grid=layout.outer), layout

    def joints_of(self, plan: Plan) -> SeamLines:
        """Where seams may be in what is written: patches begin at the corner of the ground."""
        joints, frame, wanted = self.layout_of(plan).joints, self.frame, self.scene.wanted
        if frame is None:
            return joints
        return joints._replace(
            top=frame.part.top - frame.target.top - wanted.top,
            left=frame.part.left - frame.target.left - wanted.left,
        )
