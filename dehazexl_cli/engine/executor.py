"""One worker per device: pieces of work go round, results come back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Generic, TypeVar

import torch

W = TypeVar("W")
T = TypeVar("T")
R = TypeVar("R")


class LocalExecutor(Generic[W]):
    """Workers, of which each does one piece at a time; with a single one, no thread is started."""

    def __init__(self, workers: Sequence[W]) -> None:
        self.workers = workers
        self.first = workers[0]

    def over(self, work: Callable[[W, T], R], pieces: Iterable[T]) -> Iterator[R]:
        """Results of work(worker, piece) in the order of the pieces, which go to the workers in turn.

        Pieces are taken as workers become free, here, so that what makes them needs no lock. What one raises
        is raised here, after the others have ended what they had begun.
        """
        if len(self.workers) == 1:
            for piece in pieces:
                yield work(self.first, piece)
                del piece  # else its features are kept while the next one's are fetched
            return

        def inferred(worker: W, piece: T) -> R:
            with torch.inference_mode():  # is told to each thread by itself
                return work(worker, piece)

        with ExitStack() as stack:
            pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in self.workers]
            under_way: deque[Future[R]] = deque()
            for number, piece in enumerate(pieces):
                turn = number % len(pools)
                under_way.append(pools[turn].submit(inferred, self.workers[turn], piece))
                if len(under_way) == len(pools):
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
