"""A scene with everything decided: what is run, and the ways it can be."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.padding import Padding
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.grid import SeamLines
from dehazexl_cli.plan import MemoryBudget, Plan


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
