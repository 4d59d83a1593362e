"""What a run did: its plan, its time and memory, and everything that did not go by the plan."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
COUNTED = ("invalid_pixels", "outside_range", "clipped_values", "redone_batches")  # row by row
_COUNTING = threading.Lock()


@dataclass
class Report:
    """Filled in while a scene runs."""

    input: str = ""
    output: str = ""
    height: int = 0
    width: int = 0
    count: int = 0
    dtype: str = ""
    bands: tuple[int, ...] = ()
    low: float = 0.0  # source value shown to the model as 0
    high: float = 1.0  # source value shown to the model as 1
    range_source: str = ""
    groups: list[dict[str, Any]] = field(default_factory=list)  # bands shown together, a range for each
    strength: float = 1.0
    haze: dict[str, float] = field(
        default_factory=dict
    )  # mean transmission, shares of the ground; see engine.haze
    mode: str = "global"
    overlap: int = 0  # pixels that neighbouring patches share
    seam_lines: dict[str, Any] = field(default_factory=dict)  # where seams may be; see grid.SeamLines
    model: str = ""
    weights_sha256: str = ""
    device: str = ""
    precision: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # per phase
    busy_seconds: dict[str, float] = field(default_factory=dict)  # per stage; stages overlap each other
    peak_host_bytes: int = 0
    peak_device_bytes: int = 0
    redone_batches: int = 0  # came out non-finite and were done again in float32
    invalid_pixels: int = 0  # nodata, transparent or not finite; left as they were
    outside_range: int = 0  # values of ground below low or above high, shown to the model as 0 or 1
    clipped_values: int = 0  # values that the model would have made less than low or more than high
    fallbacks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # of what was decided, and how to have it otherwise
    version: str = ""
    processing: dict[str, Any] = field(default_factory=dict)  # by the names of STAC's processing extension

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase's seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage's busy seconds; several threads may be inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with _COUNTING:
                busy = self.busy_seconds.get(stage, 0.0)
                self.busy_seconds[stage] = busy + time.perf_counter() - began

    def each_working(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time that each takes to be made is added to a stage's busy seconds."""
        making = iter(items)
        while True:
            with self.working(stage):
                item = next(making, None)
            if item is None:
                return
            yield item

    def count_redone(self) -> None:
        """One more batch was done again; several threads may say so."""
        with _COUNTING:
            self.redone_batches += 1

    def counts(self) -> dict[str, int]:
        """What has been counted so far."""
        return {name: getattr(self, name) for name in COUNTED}

    def set_counts(self, counts: Mapping[str, int]) -> None:
        """Set what has been counted."""
        for name in COUNTED:
            setattr(self, name, counts[name])

    def take_in(self, other: Report) -> None:
        """Add what another process says of how its part went."""
        for stage, seconds in other.busy_seconds.items():
            self.busy_seconds[stage] = self.busy_seconds.get(stage, 0.0) + seconds
        for warning in other.warnings:
            self.warn(warning)

    def warn(self, message: str) -> None:
        """Note something the user should know, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        values = asdict(self)
        for times in ("seconds", "busy_seconds"):
            values[times] = {name: round(value, 3) for name, value in values[times].items()}
        values.update(values.pop("processing"))
        return values


def peak_host_bytes() -> int:
    """The process's largest resident size so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the program held that started this one
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
