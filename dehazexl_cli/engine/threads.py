"""Reading ahead, writing behind and a thread for each device, with errors that come back to the caller."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self, TypeVar

import torch

from dehazexl_cli.raster.base import Pixels, RasterWriter
from dehazexl_cli.report import Report

T = TypeVar("T")
W = TypeVar("W")
R = TypeVar("R")

DEPTH = 1  # rows of patches that may wait in a pipe
POLL_SECONDS = 0.1


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the items while a thread already makes the next; its exception is raised here.

    Leaving the loop early stops the thread before control returns.
    """
    pipe: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return pipe.put((kind, value), timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    worker = Worker(work, "read-ahead")
    worker.start()
    try:
        while True:
            kind, value = pipe.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        worker.join()


class Worker:
    """A thread that is waited for to its end, also if a signal comes then: what it uses will be closed next.

    A `Thread.join` that a signal has interrupted takes the thread for ended (Python 3.11), so this has a mark
    of its own.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it may still be at work."""
        return not self._ended.is_set()

    def join(self) -> None:
        """Wait for the end; an exception that comes meanwhile is raised after it."""
        try:
            self._wait()
        except BaseException:
            self._wait()
            raise

    def _wait(self) -> None:
        # Python stops such threads wherever they are when it ends itself; they then never come to their end.
        while not self._ended.wait(POLL_SECONDS):
            if sys.is_finalizing():
                return

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._ended.set()


class BackgroundWriter:
    """Writes rows on a thread of its own; an error there is raised at the next `save` or at the end."""

    def __init__(self, writer: RasterWriter, report: Report | None = None) -> None:
        self.writer = writer
        self._report = report or Report()
        self._pipe: queue.Queue[Pixels | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._abandoned = False
        self._worker = Worker(self._work, "write-behind")

    def save(self, rows: Pixels) -> None:
        """Hand over rows to be written below those before."""
        if self._error is not None:
            raise self._error
        self._pipe.put(rows)

    def _work(self) -> None:
        # After an error it goes on emptying the pipe, so that `save` never waits for ever.
        while (rows := self._pipe.get()) is not None:
            if self._error is None and not self._abandoned:
                try:
                    with self._report.working("write"):
                        self.writer.write(rows)
                except BaseException as error:
                    self._error = error

    def __enter__(self) -> Self:
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandoned = kind is not None
        try:
            self._pipe.put(None)
            self._worker.join()
        except BaseException:  # a signal; who gave the writer will close it now, so nobody may be writing
            self._abandoned = True
            while self._worker.is_alive():
                with suppress(queue.Full):
                    self._pipe.put(None, timeout=POLL_SECONDS)
            raise
        if kind is None and self._error is not None:
            raise self._error


def in_turn(workers: Sequence[W], work: Callable[[W, T], R], pieces: Iterable[T]) -> Iterator[R]:
    """Results of work(worker, piece) in the order of the pieces, which go to the workers in turn.

    Each worker does one piece at a time; with a single one, no thread is started. Pieces are taken as
    workers become free, here, so that what makes them needs no lock. What one raises is raised here, after
    the others have ended what they had begun.
    """
    if len(workers) == 1:
        for piece in pieces:
            yield work(workers[0], piece)
            del piece  # else its features are kept while the next one's are fetched
        return

    def inferred(worker: W, piece: T) -> R:
        with torch.inference_mode():  # is told to each thread by itself
            return work(worker, piece)

    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in workers]
        under_way: deque[Future[R]] = deque()
        for number, piece in enumerate(pieces):
            turn = number % len(pools)
            under_way.append(pools[turn].submit(inferred, workers[turn], piece))
            if len(under_way) == len(pools):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
