"""How a scene is run this time: by which plan, on which devices, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dehazexl_cli.engine.run_checkpoint import RunCheckpoint
from dehazexl_cli.engine.team import Tick, WorkerPool
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import Plan
from dehazexl_cli.report import Report

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all


@dataclass(frozen=True)
class RunContext:
    """One attempt at a scene."""

    plan: Plan
    models: Sequence[DehazeModel]  # replicas, each on its device; the first mixes
    report: Report
    watch: Watch
    checkpoint: RunCheckpoint
    folder: Path | None = None  # where what finds no room in memory may be put
    team: WorkerPool | None = None  # who encodes and decodes, if not this process


__all__ = ["RunContext", "Tick", "Watch", "counting"]


def counting(phase: str, total: int, watch: Watch) -> Tick:
    """A function that counts patches and tells the watch."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if total:  # there is nothing to do for a part without ground
            watch(phase, done, total)

    tick(0)
    return tick
