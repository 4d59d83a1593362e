"""What a batch says: how far it is, scene by scene, and what became of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dehazexl_cli.cli import console
from dehazexl_cli.errors import UsageError
from dehazexl_cli.text import masked, to_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from dehazexl_cli.batch.log import BatchLog
    from dehazexl_cli.batch.results import BatchSummary, Job, JobResult
    from dehazexl_cli.batch.shards import Shard

PIPE_WIDTH = 250  # characters; in a file or a pipe no line is to be broken


@dataclass(frozen=True)
class Display:
    """What the user wants to be told, and how."""

    kind: console.ProgressKind = console.ProgressKind.auto
    quiet: bool = False
    as_json: bool = False
    print_paths: bool = False
    nul: bool = False  # paths end with NUL

    def __post_init__(self) -> None:
        if self.as_json and self.print_paths:
            raise UsageError("--json and --print-paths both write to stdout", "leave out one of them")

    @property
    def is_json(self) -> bool:
        """Whether events go to stderr, and nothing else."""
        return self.kind is console.ProgressKind.json

    @property
    def is_silent(self) -> bool:
        """Whether only what went wrong is said."""
        return self.quiet or self.kind is console.ProgressKind.never

    @property
    def is_bar(self) -> bool:
        """Whether a bar is shown."""
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        wanted = self.kind is console.ProgressKind.always
        return wanted or (terminal and not self.quiet and self.kind is console.ProgressKind.auto)


class Narrator:
    """Says how far a batch is."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._total = self._done = 0
        self._bar: Bars | None = None
        self._percent: tuple[str, str, int] | None = None
        self._part: dict[str, Any] | None = None  # of a larger batch

    def tell_part(self, part: Shard, mine: int, total: int, asked: bool) -> None:
        """This is a part of a larger batch, told of even where all is quiet if empty or not asked for."""
        self._part = {"shard": str(part), "from": part.origin, "scenes": mine, "of": total}
        if self._display.is_json:
            console.say(to_json({"event": "shard"} | self._part))
        elif not (self._display.quiet and mine and asked):
            hint = "" if asked else "; --shard 1/1 does all, as where each task has a folder of its own"
            console.say(f"part {part} (from {part.origin}): {mine} of {total} scenes{hint}")

    @contextmanager
    def showing(self, total: int) -> Iterator[None]:
        """Show how far it is while inside."""
        self._total = total
        if self._display.is_json:
            console.say(to_json({"event": "batch", "total": total}))
        if not self._display.is_bar:
            yield
            return
        with make_bar() as self._bar:
            self._bar.add_task("scenes", total=total)
            yield

    def watch(self, job: Job, phase: str, done: int, total: int) -> None:
        """A scene is on its way."""
        if self._bar is not None:
            halves = {"encode": 0.0, "decode": 0.5}
            if phase in halves:
                part = halves[phase] + 0.5 * done / total
                self._bar.update(self._bar.task_ids[0], completed=self._done + part)
        percent = (job.scene.source, phase, 100 * done // total)
        if self._display.is_json and percent != self._percent:
            self._percent = percent
            event = {"event": "progress", "input": job.scene.source, "phase": phase}
            console.say(to_json(event | {"done": done, "total": total}))

    def tell(self, outcome: JobResult) -> None:
        """Something has become of a scene."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        if outcome.state.value == "done" and self._display.print_paths:
            console.put_path(outcome.scene.target, "\0" if self._display.nul else "\n")
        if self._display.is_json:
            console.say(to_json(self._event(outcome)))
        elif outcome.state.value == "failed":
            self._say(f"failed: {self._where(outcome)}: {console.in_one_line(outcome.why)}")
            if outcome.hint:
                self._say(f"  try: {console.in_one_line(outcome.hint)}")
        elif not (self._display.is_silent or self._bar is not None):
            self._say(f"{self._where(outcome)}: {described(outcome)}")
        if not self._display.quiet and not self._display.is_json:
            for note in (*outcome.report.get("fallbacks", ()), *outcome.report.get("warnings", ())):
                self._say(f"warning: {console.in_one_line(outcome.scene.source)}: {note}")

    def summarise(self, tally: BatchSummary, seconds: float, ledger: BatchLog) -> None:
        """The end: a table for a person, an object for a program."""
        facts = as_plain(tally, seconds, ledger) | {"part": self._part}
        if self._display.as_json:
            console.put(to_json(facts, 2))
        if self._display.is_json:
            console.say(to_json({"event": "summary"} | facts))
        elif tally.failures or not self._display.quiet:
            print_table(tally, facts)

    def _say(self, message: str) -> None:
        """A line above the bar, if there is one."""
        if self._bar is None:
            console.say(message)
        else:
            self._bar.console.print(
                masked(message), markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    def _where(self, outcome: JobResult) -> str:
        return f"{self._done} of {self._total}, {console.in_one_line(outcome.scene.source)}"

    def _event(self, outcome: JobResult) -> dict[str, Any]:
        event: dict[str, Any] = {"event": "scene", "done": self._done, "total": self._total}
        event |= {"state": outcome.state.value, **names(outcome)}
        if outcome.report:
            event |= {"seconds": round(outcome.seconds, 3)}
        return event | ({"why": outcome.why, "hint": outcome.hint} if outcome.why else {})


def make_bar() -> Bars:
    """One bar for all scenes, with the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.completed:.0f} of {task.total:.0f} scenes"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def names(outcome: JobResult) -> dict[str, str]:
    """Where a scene comes from and goes to."""
    return {"input": outcome.scene.source, "output": str(outcome.scene.target)}


def described(outcome: JobResult) -> str:
    """The end of a line about a scene."""
    if not outcome.report:
        return f"{outcome.state.value}, {outcome.why}"
    size = f"{outcome.report['width']} x {outcome.report['height']} pixels"
    return f"{size} in {outcome.seconds:.1f} s"


def as_plain(tally: BatchSummary, seconds: float, ledger: BatchLog) -> dict[str, Any]:
    """What became of a batch, as plain values."""
    from dehazexl_cli.batch.results import State

    counts = {state.value: tally.counts[state] for state in State}
    return {
        "total": tally.total,
        **counts,
        "untried": tally.total - tally.told,
        "seconds": round(seconds, 2),
        "megapixels": round(tally.pixels / 1e6, 2),
        "log": str(ledger.log),
        "failures": [names(each) | {"why": each.why, "hint": each.hint} for each in tally.failures],
    }


def print_table(tally: BatchSummary, facts: dict[str, Any]) -> None:
    """A summary on stderr, names of scenes that failed last."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    summary = Table(box=SIMPLE)
    for title in ("scenes", "done", "skipped", "elsewhere", "failed", "untried", "seconds", "megapixels"):
        summary.add_column(title, justify="right")
    shown = [facts["total"], *(facts[key] for key in ("done", "skipped", "elsewhere", "failed", "untried"))]
    summary.add_row(*map(str, shown), f"{facts['seconds']:.1f}", f"{facts['megapixels']:.1f}")
    width = None if sys.stderr.isatty() else PIPE_WIDTH
    # Names are no markup.
    out = Console(stderr=True, width=width, markup=False, emoji=False, highlight=False)
    out.print(summary)
    if tally.failures:
        failed = Table(box=SIMPLE)
        failed.add_column("failed", overflow="fold")
        failed.add_column("why", overflow="fold")
        for outcome in tally.failures:
            failed.add_row(console.in_one_line(outcome.scene.source), console.in_one_line(outcome.why))
        out.print(failed)
        console.say(f"{len(tally.failures)} of {facts['total']} scenes failed; see {facts['log']}")
