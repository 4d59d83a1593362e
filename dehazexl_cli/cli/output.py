"""What a command says: messages and progress on stderr, data on stdout."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import traceback
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TextIO

from dehazexl_cli.errors import DehazeError, Interrupted, OutputError, UsageError
from dehazexl_cli.progress import PARTS, Fraction
from dehazexl_cli.streams import drop
from dehazexl_cli.text import masked, printable, to_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.table import Table

debug = False  # set by the global option, read by main()
events = False  # set by --progress json: what is said is JSON, a line each

FINISHED_WITH_FAILURES = 7  # the exit code where one of several things failed
PIPE_WIDTH = 250  # characters; in a file or a pipe no line of a table is to be broken
TITLES = dict.fromkeys(PARTS, "Dehazing") | {"shrink": "Shrinking", "map": "Writing the map"}  # of phases


class ProgressKind(StrEnum):
    """How progress is shown."""

    auto = "auto"
    always = "always"
    never = "never"
    json = "json"


@dataclass(frozen=True)
class Display:
    """What the user wants to be told, and how."""

    kind: ProgressKind = ProgressKind.auto
    quiet: bool = False
    as_json: bool = False
    print_paths: bool = False
    nul: bool = False  # paths end with NUL

    def __post_init__(self) -> None:
        if self.as_json and self.print_paths:
            raise UsageError("--json and --print-paths both write to stdout", "leave out one of them")


def say(message: str) -> None:
    """One line for the person at the terminal, without secrets."""
    print(masked(message), file=sys.stderr, flush=True)


def tell(event: str, message: str, **facts: Any) -> None:
    """A note, a warning or the end, for a person; or as an event, with facts for programs."""
    if events:
        say(to_json({"event": event, "message": message} | facts))
    else:
        say(message if event == "done" else f"{event}: {message}")


def put(text: object, end: str = "\n") -> None:
    """Data on stdout, without secrets; OutputError if it cannot be written."""
    put_bytes(
        f"{printable(masked(str(text)))}{end}".encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    )


def put_path(path: object, end: str = "\n") -> None:
    """The name of a result on stdout, byte by byte as it is on disk; OutputError if it cannot be written."""
    put_bytes(os.fsencode(f"{path}{end}"))


def put_table(table: Table) -> None:
    """A table on stdout."""
    text = io.StringIO()
    console_for(text, sys.stdout.isatty()).print(table)
    put(text.getvalue(), end="")


def say_table(table: Table) -> None:
    """A table on stderr."""
    console_for(sys.stderr, sys.stderr.isatty()).print(table)


def console_for(stream: TextIO, terminal: bool) -> Console:
    """What tables are printed by, as wide as the terminal; names in them are no markup."""
    from rich.console import Console

    width = None if terminal else PIPE_WIDTH
    return Console(
        file=stream, width=width, force_terminal=terminal, markup=False, emoji=False, highlight=False
    )


def put_bytes(data: bytes) -> None:
    """Bytes on stdout; OutputError if they cannot be written."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise stdout_failure(error) from error


def stdout_failure(error: OSError) -> OutputError:
    """The error to raise where data cannot be written; nothing more is."""
    drop(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return OutputError("stdout: nobody reads it", "read all of it, or send it to a file")
    return OutputError(
        f"stdout: cannot be written ({error.strerror})", "free some space, or send it elsewhere"
    )


def show_error(error: DehazeError | Interrupted) -> None:
    """One line of what happened, one of what to do; or an event."""
    if events:
        return tell("error", error.message, hint=error.hint, exit_code=error.exit_code)
    say(f"error: {in_one_line(error.message)}")
    if error.hint:
        say(f"  try: {in_one_line(error.hint)}")


def in_one_line(text: str) -> str:
    """Text without secrets and line breaks, which names of files may have."""
    return masked(" ".join(text.splitlines()))


def show_bug(error: Exception) -> None:
    """An error nobody foresaw."""
    text = str(error).splitlines()
    say(f"error: {type(error).__name__}: {text[0] if text else 'no further words'}")
    say("  try: run it again as `dehazexl --debug …` and report what it prints; this should not happen")


class MaskedFormatter(logging.Formatter):
    """What libraries say, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def show_traceback() -> None:
    """Where the error that is being handled came from, without secrets."""
    say(traceback.format_exc().rstrip())


def configure_logging(verbose: bool, quiet: bool) -> None:
    """Send the libraries' warnings to stderr, or more of them, or only errors."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskedFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # It warns of what GDAL forgives, such as a nodata value that no pixel can have, in words for programmers.
    logging.getLogger("tifffile").setLevel(logging.NOTSET if verbose else logging.ERROR)


class Progress:
    """Says how far a command is: as events, as a bar, as lines or not at all; a context manager."""

    def __init__(self, kind: ProgressKind, quiet: bool) -> None:
        self.is_json = kind is ProgressKind.json
        self.is_silent = kind is ProgressKind.never or (quiet and kind is ProgressKind.auto)
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        wanted = kind is ProgressKind.always or (terminal and kind is ProgressKind.auto)
        self.is_bar = wanted and not self.is_silent
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown: tuple[object, int] = ("", -1)  # what was told of last, and the part of it
        self._clock = Clock()
        self._fraction, self._of = Fraction(), ("", "")  # which work it is of

    def __call__(self, phase: str, done: int, total: int, **about: Any) -> None:
        """So many of the patches or rows of a phase are done; `about` is for events alone."""
        title = TITLES.get(phase, phase.capitalize())
        fraction = self.advance(title, phase, done, total, **about)
        left = self._clock.seconds_left(fraction)
        if self.is_json:
            if self._is_news(f"{about} {phase}", 100 * done // total):
                facts = {"phase": phase, "done": done, "total": total, "fraction": round(fraction, 4)}
                self.event("progress", **about, **facts, eta=left if left is None else round(left, 1))
        elif self.is_bar:
            self.move_bar(title, fraction, in_words(left))
        elif not self.is_silent and self._is_news(title, int(10 * fraction)) and left is not None:
            say(f"{title} {fraction:.0%}, {in_words(left)}".replace("%", " %"))

    def advance(self, title: str, phase: str, done: int, total: int, **about: Any) -> float:
        """The fraction of some work that is done, of all phases together where it is a run's."""
        if self._of != (title, str(about)):
            self._of, self._fraction, self._clock = (title, str(about)), Fraction(), Clock()
        return self._fraction.advance(phase, done, total) if phase in PARTS else done / total

    def item(self, event: str, line: str, /, **facts: Any) -> None:
        """One of several things is done: an event, or a line."""
        if self.is_json:
            self.event(event, **facts)
        elif not self.is_silent:
            self.say(line)

    def failed(self, event: str, line: str, hint: str, /, **facts: Any) -> None:
        """One of several things failed: an event, or lines even where all is quiet."""
        if self.is_json:
            return self.event(event, **facts)
        self.say(f"failed: {in_one_line(line)}")
        if hint:
            self.say(f"  try: {in_one_line(hint)}")

    def event(self, name: str, /, **facts: Any) -> None:
        """One JSON object a line, for schedulers and other programs."""
        say(to_json({"event": name} | facts))

    def say(self, message: str) -> None:
        """Say a line; above the bar, if there is one."""
        if self._bar is None:
            say(message)
        else:
            self._bar.console.print(
                masked(message), markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    def move_bar(self, title: str, fraction: float, left: str) -> None:
        """Bring a bar to where it is; the first call makes it."""
        if self._bar is None:
            self._bar = make_bar()
            self._bar.start()
        if title not in self._tasks:
            self._tasks[title] = self._bar.add_task(title, total=1.0, left=left)
        self._bar.update(self._tasks[title], completed=fraction, left=left)

    def _is_news(self, work: str, part: int) -> bool:
        before, self._shown = self._shown, (work, part)
        return before != self._shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Clock:
    """Tells how long a work will take that goes on as it has since it began here."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None  # when, and the fraction that was done before

    def seconds_left(self, fraction: float) -> float | None:
        """The time left; None as long as nothing was done."""
        now = time.monotonic()
        self._began = self._began or (now, fraction)
        began, before = self._began
        return None if fraction <= before else (now - began) * (1 - fraction) / (fraction - before)


def in_words(left: float | None) -> str:
    """The time left, for a person."""
    if left is None:
        return ""
    return f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left"


def make_bar() -> Bar:
    """A bar with its title, the per cent that are done and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    )
