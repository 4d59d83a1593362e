"""What a batch says: how far it is, scene by scene, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dehazexl_cli.cli import output
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.batch.log import BatchLog
    from dehazexl_cli.batch.results import BatchSummary, Job, JobResult
    from dehazexl_cli.batch.shards import Shard


class BatchOutput(output.Progress):
    """Says how far a batch is; a context manager."""

    def __init__(self, display: output.Display) -> None:
        super().__init__(display.kind, display.quiet)
        self._display = display
        self._total = self._done = 0
        self._batch_clock = output.Clock()
        self._part: dict[str, Any] | None = None  # of a larger batch

    def tell_part(self, part: Shard, mine: int, total: int, asked: bool) -> None:
        """This is a part of a larger batch, told of even where all is quiet if empty or not asked for."""
        self._part = {"shard": str(part), "from": part.origin, "scenes": mine, "of": total}
        if self.is_json:
            self.event("shard", **self._part)
        elif not (self._display.quiet and mine and asked):
            hint = "" if asked else "; --shard 1/1 does all, as where each task has a folder of its own"
            output.say(f"part {part} (from {part.origin}): {mine} of {total} scenes{hint}")

    def begin(self, total: int) -> None:
        """So many scenes are to be done."""
        self._total = total
        if self.is_json:
            self.event("batch", total=total)
        elif self.is_bar:
            self._move(0)

    def watch(self, job: Job, phase: str, done: int, total: int) -> None:
        """A scene is on its way."""
        if self.is_json:
            self(phase, done, total, input=job.scene.source)
        elif self.is_bar:
            self._move(self.advance("Dehazing", phase, done, total, input=job.scene.source))

    def tell(self, result: JobResult) -> None:
        """Something has become of a scene."""
        self._done += 1
        if self.is_bar:
            self._move(0)
        if result.state.value == "done" and self._display.print_paths:
            output.put_path(result.scene.target, "\0" if self._display.nul else "\n")
        source = output.in_one_line(result.scene.source)
        where = f"{self._done} of {self._total}, {source}"
        if result.state.value == "failed":
            self.failed("scene", f"{where}: {result.why}", result.hint, **self._facts(result))
        elif self.is_json or not (self.is_bar or self._display.quiet):
            self.item("scene", f"{where}: {described(result)}", **self._facts(result))
        if not self._display.quiet:
            for note in (*result.report.get("fallbacks", ()), *result.report.get("warnings", ())):
                self.item("warning", f"warning: {source}: {note}", input=result.scene.source, message=note)

    def summarise(self, summary: BatchSummary, seconds: float, log: BatchLog) -> None:
        """The end: a table for a person, an object for a program."""
        facts = as_plain(summary, seconds, log) | {"part": self._part}
        if self._display.as_json:
            output.put(to_json(facts, 2))
        if self.is_json:
            self.event("summary", **facts)
        elif summary.failures or not self._display.quiet:
            print_table(summary, facts)

    def _move(self, part: float) -> None:
        fraction = (self._done + part) / max(self._total, 1)
        left = output.in_words(self._batch_clock.seconds_left(fraction))
        self.move_bar("Dehazing", fraction, f"{self._done} of {self._total} scenes  {left}")

    def _facts(self, result: JobResult) -> dict[str, Any]:
        facts: dict[str, Any] = {"done": self._done, "total": self._total}
        facts |= {"state": result.state.value, **names(result)}
        if result.report:
            facts |= {"seconds": round(result.seconds, 3)}
        return facts | ({"why": result.why, "hint": result.hint} if result.why else {})


def names(result: JobResult) -> dict[str, str]:
    """Where a scene comes from and goes to."""
    return {"input": result.scene.source, "output": str(result.scene.target)}


def described(result: JobResult) -> str:
    """The end of a line about a scene."""
    if not result.report:
        return f"{result.state.value}, {result.why}"
    return f"{result.report['width']} x {result.report['height']} pixels in {result.seconds:.1f} s"


def as_plain(summary: BatchSummary, seconds: float, log: BatchLog) -> dict[str, Any]:
    """What became of a batch, as plain values."""
    from dehazexl_cli.batch.results import State

    return {
        "total": summary.total,
        **{state.value: summary.counts[state] for state in State},
        "untried": summary.total - summary.told,
        "seconds": round(seconds, 2),
        "megapixels": round(summary.pixels / 1e6, 2),
        "log": str(log.log),
        "failures": [names(each) | {"why": each.why, "hint": each.hint} for each in summary.failures],
    }


def print_table(summary: BatchSummary, facts: dict[str, Any]) -> None:
    """A summary on stderr, names of scenes that failed last."""
    from rich.box import SIMPLE
    from rich.table import Table

    counts = {"scenes": facts["total"]}
    counts |= {key: facts[key] for key in ("done", "skipped", "clear", "elsewhere", "failed", "untried")}
    table = Table(box=SIMPLE)
    for title in (*counts, "seconds", "megapixels"):
        table.add_column(title, justify="right")
    table.add_row(*map(str, counts.values()), f"{facts['seconds']:.1f}", f"{facts['megapixels']:.1f}")
    output.say_table(table)
    if summary.failures:
        failed = Table(box=SIMPLE)
        for title in ("failed", "why"):
            failed.add_column(title, overflow="fold")
        for result in summary.failures:
            failed.add_row(output.in_one_line(result.scene.source), output.in_one_line(result.why))
        output.say_table(failed)
        output.say(f"{len(summary.failures)} of {facts['total']} scenes failed; see {facts['log']}")
