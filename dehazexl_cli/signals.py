"""Signals: what ends a command cleans up after itself, and some things are not cut in two."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dehazexl_cli.errors import Interrupted, stopping_signals

PATIENCE_SECONDS = 5.0  # for cleaning up, before another signal is heeded
REPEAT_SECONDS = 0.05


@contextmanager
def raise_on_signals() -> Iterator[None]:
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
def defer_signals() -> Iterator[None]:
    """Have signals that would end the process wait until the end of the `with`, as the main thread gets them.

    So what must not be cut in two is not, such as writing down what became of a scene.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in stopping_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def hint_when_stopped(hint: str) -> Iterator[None]:
    """Say what is to be done if a signal ends what is inside."""
    try:
        yield
    except Interrupted as stopped:
        stopped.hint = hint
        raise
