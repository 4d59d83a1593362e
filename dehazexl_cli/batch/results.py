"""What is to be done with a scene, and what became of it; both travel between processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.errors import DehazeError, NotHazy, reason


class State(StrEnum):
    """How a scene ended."""

    done = "done"
    skipped = "skipped"  # its result was there, made the same way
    clear = "clear"  # too little of it lies under haze
    elsewhere = "elsewhere"  # another batch has made it meanwhile, or is at it
    failed = "failed"


@dataclass(frozen=True)
class Job:
    """A scene that is to be dehazed."""

    scene: Scene
    overwrite: bool = False


@dataclass(frozen=True)
class JobResult:
    """What became of a scene."""

    scene: Scene
    state: State
    report: dict[str, Any] = field(default_factory=dict)  # of the run, if it is done
    why: str = ""  # it was not done
    hint: str = ""

    @property
    def seconds(self) -> float:
        """What the run took, waiting for its neighbours not counted."""
        return float(sum(self.report.get("seconds", {}).values()))


def not_done(scene: Scene, error: Exception) -> JobResult:
    """The outcome of a scene that was left out, or that something went wrong with."""
    if isinstance(error, NotHazy):
        return JobResult(scene, State.clear, why=str(error))
    hint = error.hint if isinstance(error, DehazeError) else ""
    return JobResult(scene, State.failed, why=reason(error), hint=hint)


OnResult = Callable[[JobResult], None]
# The next job; None if there is none: as yet, or, if one waits for it, for good.
NextJob = Callable[[bool], Job | None]


class BatchExecutor(Protocol):
    """Dehazes all that it can get, and says from the thread that calls it what became of each.

    Raises what no scene could be run with, as the DehazeError that fits. It knows of no locks, logs or
    results that are there. However it ends, nothing is left of what was not said to be done.
    """

    def __call__(self, next_job: NextJob, on_result: OnResult) -> None: ...


@dataclass
class BatchSummary:
    """What has become of a batch so far."""

    total: int
    counts: Counter[State] = field(default_factory=Counter)
    failures: list[JobResult] = field(default_factory=list)
    pixels: int = 0  # dehazed

    def add(self, outcome: JobResult) -> None:
        """Count one more."""
        self.counts[outcome.state] += 1
        if outcome.state is State.failed:
            self.failures.append(outcome)
        self.pixels += outcome.report.get("height", 0) * outcome.report.get("width", 0)

    @property
    def told(self) -> int:
        """How many scenes something became of."""
        return self.counts.total()
