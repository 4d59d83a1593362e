"""What a person sees: messages and progress on stderr. Data goes to stdout elsewhere."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from dehazexl_cli.errors import DehazeError, Interrupted, OutputError, stopping_signals
from dehazexl_cli.streams import drop
from dehazexl_cli.text import masked, printable, to_json

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

debug = False  # set by the global option, read by main()

PATIENCE_SECONDS = 5.0  # for cleaning up, before another signal is heeded
REPEAT_SECONDS = 0.05

PHASES = {
    "encode": "Encoding",
    "mix": "Mixing",
    "decode": "Decoding",
    "finish": "Finishing",
    "shrink": "Shrinking",
}
COUNTED = {"shrink": "rows"}  # else patches


def title(phase: str) -> str:
    """What a person reads of a phase; one that is none of a run's is named as it is."""
    return PHASES.get(phase, phase.capitalize())


class ProgressKind(StrEnum):
    """How progress is shown."""

    auto = "auto"
    always = "always"
    never = "never"
    json = "json"


def say(message: str) -> None:
    """One line for the person at the terminal, without secrets."""
    print(masked(message), file=sys.stderr, flush=True)


def put(text: object, end: str = "\n") -> None:
    """Data on stdout, without secrets; OutputError if it cannot be written."""
    put_bytes(
        f"{printable(masked(str(text)))}{end}".encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    )


def put_path(path: object, end: str = "\n") -> None:
    """The name of a result on stdout, byte by byte as it is on disk; OutputError if it cannot be written."""
    put_bytes(os.fsencode(f"{path}{end}"))


def put_table(table: Table, width: int | None) -> None:
    """A table on stdout, as wide as the terminal, or so many characters."""
    from rich.console import Console

    text = io.StringIO()
    terminal = sys.stdout.isatty()
    out = Console(file=text, width=width, force_terminal=terminal, markup=False, emoji=False, highlight=False)
    out.print(table)
    put(text.getvalue(), end="")


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
    """One line of what happened, one of what to do."""
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


@contextmanager
def signals() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into Interrupted, so that every `with` on the way cleans up.

    Those that come while it does are not heeded, as schedulers and people repeat themselves; after some
    seconds they are again. What was ignored before, as by nohup, stays so.
    """
    heeded = -PATIENCE_SECONDS

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal heeded
        if time.monotonic() - heeded >= PATIENCE_SECONDS:
            heeded = time.monotonic()
            raise Interrupted(number, "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    def unheard(unraisable: sys.UnraisableHookArgs) -> None:
        """Stop all the same where the signal came within something that lets no exception pass."""
        nonlocal heeded
        if not isinstance(unraisable.exc_value, Interrupted):
            sys.__unraisablehook__(unraisable)
            return
        heeded = -PATIENCE_SECONDS
        again = unraisable.exc_value.exit_code - 128
        threading.Timer(REPEAT_SECONDS, os.kill, (os.getpid(), again)).start()

    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in stopping_signals()}
    hook = sys.unraisablehook
    sys.unraisablehook = unheard
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Let nothing disturb the last words."""
    for number in stopping_signals():
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def when_stopped(hint: str) -> Iterator[None]:
    """What is to be done if a signal ends what is inside."""
    try:
        yield
    except Interrupted as stopped:
        stopped.hint = hint
        raise


class Progress(Protocol):
    """Shows how far a run is; a context manager's `start` and `stop` around calls in between."""

    def __call__(self, phase: str, done: int, total: int) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def progress(kind: ProgressKind, quiet: bool) -> Iterator[Progress]:
    """Progress in the way the user and the terminal want it."""
    shown = make_progress(kind, quiet)
    try:
        yield shown
    finally:
        shown.stop()


def make_progress(kind: ProgressKind, quiet: bool) -> Progress:
    """A bar on a terminal, lines elsewhere, JSON or nothing on request."""
    if kind is ProgressKind.json:
        return JsonProgress()
    if kind is ProgressKind.never or (quiet and kind is ProgressKind.auto):
        return NoProgress()
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return BarProgress() if terminal or kind is ProgressKind.always else LineProgress()


class NoProgress:
    """Shows nothing."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        pass

    def stop(self) -> None:
        """Nothing to end."""


class JsonProgress:
    """One JSON object a line, for schedulers and other programs."""

    def __init__(self) -> None:
        self._percent: tuple[str, int] | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        percent = (phase, 100 * done // total)
        if percent != self._percent:
            self._percent = percent
            say(to_json({"event": "progress", "phase": phase, "done": done, "total": total}))

    def stop(self) -> None:
        """Nothing to end."""


class LineProgress:
    """A line per tenth of the long phases, for logs."""

    def __init__(self) -> None:
        self._shown = ("", -1)
        self._began = time.monotonic()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if total == 1:
            return
        if phase != self._shown[0]:
            self._began = time.monotonic()
        tenth = (phase, 10 * done // total)
        if tenth != self._shown and done:
            left = (time.monotonic() - self._began) * (total - done) / done
            counted = COUNTED.get(phase, "patches")
            say(f"{title(phase)} {100 * done // total}%, {done} of {total} {counted}, {left:.0f} s left")
        self._shown = tenth

    def stop(self) -> None:
        """Nothing to end."""


class BarProgress:
    """A bar per phase with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(title(phase), total=total)
        self._bars.update(self._tasks[phase], completed=done, total=total)

    def stop(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        self._bars.stop()
