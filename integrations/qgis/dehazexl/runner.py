# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the command: its progress, messages and errors go to a feedback of QGIS. Needs no QGIS."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO, Any, Sequence

from .command import CommandFailed, clean_environment

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 15.0  # for the command to remove what it made, before it is asked more plainly
LAST_LINES = 15

# Of a run, in percent: encoding and decoding go through all patches of the scene, the rest is short.
_TITLES = {
    "encode": "Looking at the scene",
    "bottleneck": "Judging the haze of the whole",
    "decode": "Removing the haze",
    "finish": "Finishing the file",
}
_KEYS = {"progress": {"phase", "fraction"}, "error": {"message", "hint"}}
_KEYS |= {event: {"message"} for event in ("note", "warning", "done")}
_BOX = "╭╮╰╯│─\n"  # around errors of usage
_WARNING = re.compile(r"(warning|failed): |(WARNING|ERROR|CRITICAL) ")


class Cancelled(Exception):
    """The user cancelled, and the command has ended."""


def run_command(program: str, arguments: Sequence[str], feedback: Any, outputs: Sequence[str] = ()) -> str:
    """Run the command to its end and return what it wrote to stdout.

    `feedback` is a QgsProcessingFeedback. `outputs` are the rasters to be made, beside which nothing is left
    if the command is cancelled. Raises CommandFailed with the command's own words if it fails, Cancelled if
    the user cancelled.
    """
    line = [program, *arguments]
    before = _temporaries(outputs)
    try:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(program),
            encoding="utf-8",
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would open a console
        )
    except OSError as error:
        raise CommandFailed(
            f"{program} cannot be started ({error.strerror or error})", "install dehazexl again"
        ) from error
    try:
        said = _listen(process, feedback)
    except BaseException:
        _end(process)
        for left in _temporaries(outputs) - before:  # of a command that could not clean up
            _remove(left)
        raise
    code = process.wait()
    if code:
        raise said.failure(code)
    return "".join(said.stdout)


def ask_command(program: str, arguments: Sequence[str], feedback: Any) -> str:
    """Run the command as `run_command` does, but tell nothing on the way."""
    return run_command(program, arguments, _Muted(feedback))


def in_words(line: Sequence[str]) -> str:
    """Write a command line as one would type it."""
    return subprocess.list2cmdline(line) if os.name == "nt" else " ".join(map(shlex.quote, line))


class _Muted:
    """A feedback that tells nothing, and is cancelled when another one is."""

    def __init__(self, feedback: Any) -> None:
        self.isCanceled = feedback.isCanceled

    def pushInfo(self, line: str) -> None:
        """Tell nothing."""

    def pushWarning(self, line: str) -> None:
        """Tell nothing."""


class Transcript:
    """What the command said, told on line by line."""

    def __init__(self, feedback: Any) -> None:
        self.stdout: list[str] = []
        self._feedback = feedback
        self._error = self._hint = self._phase = ""
        self._last: list[str] = []
        self._percent = 0.0

    def hear(self, line: str) -> None:
        """Tell on a line of stderr: an event as progress, a message as what it is."""
        line = line.strip(_BOX).rstrip()
        event = _event(line)
        if event is not None and event["event"] == "progress":
            return self._progress(event)
        if event is not None and event["event"] == "error":
            self._error, self._hint = event["message"], event["hint"]
            return None
        if event is not None:  # a note, a warning or the end
            line = f"{event['event']}: {event['message']}".removeprefix("done: ")
        if line.startswith("error: "):
            self._error = line[len("error: ") :]
        elif line.startswith("  try: ") and self._error:
            self._hint = line[len("  try: ") :]
        elif line:
            self._last = [*self._last[1 - LAST_LINES :], line]
            tell = self._feedback.pushWarning if _WARNING.match(line) else self._feedback.pushInfo
            tell(line)

    def failure(self, code: int) -> CommandFailed:
        """Return the error of a command that ended with this code, in its own words if it had any."""
        text = "".join(self.stdout)
        if self._error:
            return CommandFailed(self._error, self._hint, code, text)
        if code < 0:
            return CommandFailed(
                f"dehazexl was ended from outside ({_signal_name(-code)})",
                "if memory ran out, allow it less under Advanced Parameters, or close other programs",
                code,
                text,
            )
        said = "\n".join(self._last) or "It said nothing."
        return CommandFailed(f"dehazexl ended with exit code {code}:\n{said}", "", code, text)

    def _progress(self, event: dict[str, Any]) -> None:
        phase, percent = event["phase"], 100 * event["fraction"]
        if phase != self._phase:
            self._phase = phase
            self._feedback.setProgressText(_TITLES.get(phase, str(phase).capitalize()))
        if percent > self._percent:  # a plan that ran out of memory begins again, a bar does not
            self._percent = percent
            self._feedback.setProgress(percent)


def _event(line: str) -> dict[str, Any] | None:
    """Return what a line of --progress json tells that is known here, or None."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
        return event if _KEYS[event["event"]] <= event.keys() else None
    except (ValueError, KeyError, TypeError):
        return None


def _listen(process: subprocess.Popen[str], feedback: Any) -> Transcript:
    """Hear both streams to their ends; raises Cancelled when the user cancels."""
    lines: queue.Queue[tuple[bool, str | None]] = queue.Queue()

    def read(stream: IO[str], is_error: bool) -> None:
        with stream:
            for line in stream:
                lines.put((is_error, line))
        lines.put((is_error, None))

    for stream, is_error in ((process.stdout, False), (process.stderr, True)):
        threading.Thread(target=read, args=(stream, is_error), daemon=True).start()
    said, ends = Transcript(feedback), 0
    while ends < 2:
        if feedback.isCanceled():
            raise Cancelled
        try:
            is_error, line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            ends += 1
        elif is_error:
            said.hear(line)
        else:
            said.stdout.append(line)
    return said


def _end(process: subprocess.Popen[str]) -> None:
    """End the command as Ctrl-C would, which lets it clean up, and if that does not help by force."""
    interrupt = [lambda: process.send_signal(signal.SIGINT)] if os.name == "posix" else []
    for ask in (*interrupt, process.terminate, process.kill):
        if process.poll() is None:
            ask()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        return


def _temporaries(outputs: Sequence[str]) -> set[Path]:
    """List what runs are making, or left, on the way to outputs."""
    found: set[Path] = set()
    for target in map(Path, outputs):
        start = f".{target.stem[:30]}.dehazexl-"
        with contextlib.suppress(OSError):
            found.update(path for path in target.parent.iterdir() if path.name.startswith(start))
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
