"""Standard streams that are closed, full, or read by nobody."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


def open_closed() -> None:
    """Give the streams that the process was started without back their numbers, which files would get else.

    What is said on a closed stderr is dropped. A closed stdout cannot be written, as one that is full.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def drop(stream: TextIO) -> None:
    """Send what a stream still holds, and whatever follows, nowhere; Python would try again when it ends."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # nothing of the system's
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


class Forgiving:
    """A stream for people: where nothing can be said any more, work goes on all the same."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Say something, or drop it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Have it said, or drop it."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
