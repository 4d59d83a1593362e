"""Every way a run can fail that is not our bug: what happened, what to do, and the exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from dehazexl_cli.text import masked

_ALLOCATION = re.compile(
    r"can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC", re.IGNORECASE
)


class DehazeError(Exception):
    """A failure the user can act on; the command line prints both lines and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(masked(message))
        self.message, self.hint = masked(message), masked(hint)


class UsageError(DehazeError):
    """An option has a value that cannot be kept."""

    exit_code = 2


class InputError(DehazeError):
    """The input is missing, unreadable or of a kind that is not supported."""

    exit_code = 3


class OutputError(DehazeError):
    """The output exists, cannot be written, or the disk is full."""

    exit_code = 4


class WeightsError(DehazeError):
    """A weight file is missing, damaged or belongs to another model."""

    exit_code = 5


class DeviceError(DehazeError):
    """The device is unavailable, or memory ran out after every fallback."""

    exit_code = 6


class CheckError(DehazeError):
    """Something was examined and found wanting."""

    exit_code = 8


class NotHazy(Exception):
    """A scene is left out, as less of it lies under haze than is worth a run; that is no failure."""


class Interrupted(BaseException):
    """A signal asked the run to end; `exit_code` is 128 + the signal's number.

    As KeyboardInterrupt it is no Exception: whoever handles failures does not mean this.
    """

    def __init__(self, signal_number: int, name: str) -> None:
        super().__init__(f"stopped by {name}")
        self.message = f"stopped by {name}"
        self.hint = "nothing half done was left behind; run the same command again"
        self.exit_code = 128 + signal_number


def stopping_signals() -> list[signal.Signals]:
    """What asks a process to end, as far as the system knows it."""
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def is_lack_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on whatever device, under whatever name a library gives it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError) and bool(_ALLOCATION.search(str(error)))


def reason(error: BaseException) -> str:
    """What happened, in a line."""
    text = error.message if isinstance(error, DehazeError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0]


@contextmanager
def in_words_of_python() -> Iterator[None]:
    """Have what is refused inside name options as Python does: tile_overlap rather than --tile-overlap."""
    try:
        yield
    except DehazeError as error:
        error.message, error.hint = pythonic(error.message), pythonic(error.hint)
        error.args = (error.message,)
        raise


def pythonic(text: str) -> str:
    """The text with options named as Python does."""
    named = {"co": "creation", "no-provenance": "provenance=False"}
    return re.sub(
        r"(?<![\w-])--([a-z][a-z-]*[a-z])",
        lambda found: named.get(found[1], found[1].replace("-", "_")),
        text,
    )
