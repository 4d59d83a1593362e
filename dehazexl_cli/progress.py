"""How far a run is as one fraction, made of what its phases say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Parts of a run's time, in the order of its phases, as measured: the two small networks decode four to six
# times as long as they encode. A compressed file takes some time to finish.
PARTS = {"encode": 4, "bottleneck": 1, "decode": 14, "finish": 1}


class Fraction:
    """Turns (phase, done, total) into one fraction from 0 to 1 that never falls.

    A phase has of what is left, when it begins, its part among those still to come. So a run that only
    decodes, as tiles do, uses the whole range, and one that begins anew goes on where it was.
    """

    def __init__(self) -> None:
        self._phase = ""
        self._began = self._end = 0.0
        self.value = 0.0

    def advance(self, phase: str, done: int, total: int) -> float:
        """The fraction now; a phase that is none of a run's does not move it."""
        if phase not in PARTS:
            return self.value
        if phase != self._phase or (done == 0 and self.value > self._began):
            parts = list(PARTS.values())[list(PARTS).index(phase) :]
            self._phase, self._began = phase, self.value
            self._end = 1 - (1 - self._began) * sum(parts[1:]) / sum(parts)  # exactly 1 for the last phase
        done_part = done / total
        self.value = max(self.value, (1 - done_part) * self._began + done_part * self._end)
        return self.value


@contextmanager
def bar() -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr, which goes to the fractions that it is called with."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Dehazing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=1.0)
        yield lambda fraction: shown.update(task, completed=fraction)
