"""How a scene is run this time: by which plan, with which replicas, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import Plan
from dehazexl_cli.report import Report

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all


class Progress:
    """Counts the patches of a phase and tells a watch, which may raise to have the run end."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch or (lambda phase, done, total: None)
        self.phase = "encode"
        self._done = self._total = 0

    def begin(self, phase: str, total: int) -> None:
        """Begin a phase of so many patches."""
        self.phase, self._done, self._total = phase, 0, total
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count patches that are done."""
        self._done += count
        if self._total:  # there is nothing to do for a part without ground
            self._watch(self.phase, self._done, self._total)


@dataclass(frozen=True)
class RunContext:
    """One attempt at a scene."""

    plan: Plan
    models: Sequence[DehazeModel]  # replicas, each on its device; the first sees all patches
    report: Report
    progress: Progress
    folder: Path | None = None  # where what finds no room in memory may be put
