"""Scene after scene in one process: while one is computed, the next is read and the last is finished."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dehazexl_cli.batch.results import Job, JobResult, NextJob, OnResult, State, failure
from dehazexl_cli.config import RunConfig
from dehazexl_cli.signals import defer_signals

if TYPE_CHECKING:
    from dehazexl_cli.files import DeferredCommitWriter, OpenedScene, UncommittedResult
    from dehazexl_cli.models.checkpoint import Loaded

AHEAD = 2  # scenes open at a time: the one that is computed, and the next


@dataclass(frozen=True)
class WorkerConfig:
    """What it takes to dehaze any scene of a batch; travels to other processes."""

    config: RunConfig
    model: str | None = None
    weights: Path | None = None
    multiple: int | None = None
    share: int = 1  # of so many processes on a machine this is one; they share its processors and memory

    def load(self) -> Loaded:
        """The model, ready; what no scene could be run with fails here, as the DehazeError that fits."""
        import torch

        from dehazexl_cli.engine import precision_for, require_overlap
        from dehazexl_cli.engine.device import choose_devices
        from dehazexl_cli.models.loading import load_model

        if self.share > 1:
            torch.set_num_threads(max(1, processors() // self.share))
        loaded, options = load_model(self.model, self.weights, self.multiple), self.config.options
        precision_for(loaded.model, options.precision, choose_devices(options.device)[0])
        require_overlap(loaded.model, options.overlap)
        options.mode.settled(loaded.model)
        return loaded

    def open(self, source: str) -> OpenedScene:
        """Open a scene, to be run in this process's share of the memory."""
        from dehazexl_cli.engine.memory import share_of_host
        from dehazexl_cli.files import open_scene

        opened = open_scene(source, self.config)
        if self.share == 1:
            return opened
        mine = share_of_host(self.share, self.config.options.max_ram)
        return replace(opened, options=replace(opened.options, max_ram=mine))


@dataclass(frozen=True)
class Item:
    """A scene on the conveyor."""

    job: Job
    opened: Future[OpenedScene]
    pending: list[DeferredCommitWriter] = field(default_factory=list)  # results that have no name yet

    def drop(self) -> None:
        """Let go of its source, and leave nothing of its result."""
        if not self.opened.cancel() and self.opened.exception() is None:
            self.opened.result().reader.close()
        for writer in self.pending:
            writer.discard()


class InProcessExecutor:
    """Dehazes scenes with one model; `watch` is told (job, phase, patches done, patches in all)."""

    def __init__(
        self, setup: WorkerConfig, loaded: Loaded, watch: Callable[[Job, str, int, int], None] | None = None
    ) -> None:
        self._setup, self._loaded = setup, loaded
        self._watch = watch or (lambda job, phase, done, total: None)
        self._ahead: deque[Item] = deque()  # the one that is computed, and those that are being opened
        self._behind: Future[JobResult] | None = None  # the one that is being finished

    def __call__(self, next_job: NextJob, on_result: OnResult) -> None:
        """Dehaze all that can be taken; what became of each is told from this thread.

        If it is stopped, a scene that is being finished gets its name and is told; nothing is left of the
        others.
        """
        with ThreadPoolExecutor(1, "next-scene") as opening, ThreadPoolExecutor(1, "last-scene") as finishing:
            try:
                while self._fill(next_job, on_result, opening):
                    self._work(on_result, finishing)
            finally:
                while self._ahead:
                    self._ahead.popleft().drop()
                self._settle(on_result)

    def _fill(self, next_job: NextJob, on_result: OnResult, opening: ThreadPoolExecutor) -> bool:
        """Have scenes opened; False if there are none left."""
        while len(self._ahead) < AHEAD:
            job = next_job(False)
            if job is None and not self._ahead:
                self._settle(on_result)  # before waiting: who gives work may wait for what became of it
                job = next_job(True)
            if job is None:
                break
            self._ahead.append(Item(job, opening.submit(self._open, job)))
        return bool(self._ahead)

    def _open(self, job: Job) -> OpenedScene:
        from dehazexl_cli.files import read_ahead

        opened = self._setup.open(job.scene.source)
        try:
            read_ahead(opened)
        except BaseException:
            opened.reader.close()
            raise
        return opened

    def _work(self, on_result: OnResult, finishing: ThreadPoolExecutor) -> None:
        """Compute the first of the scenes that were opened, and have it finished."""
        item = self._ahead[0]
        try:
            computed = self._compute(item)
        except Exception as error:  # whatever a damaged file sets off
            self._ahead.popleft().drop()
            self._settle(on_result)
            return on_result(failure(item.job.scene, error))
        self._settle(on_result)
        self._behind = finishing.submit(finish, item.job, computed)
        self._ahead.popleft()

    def _compute(self, item: Item) -> UncommittedResult:
        from dehazexl_cli.files import compute

        job, opened = item.job, item.opened.result()
        try:
            return compute(
                opened,
                str(job.scene.target),
                self._loaded,
                self._setup.config,
                job.overwrite,
                partial(self._watch, job),
                item.pending,
            )
        finally:
            opened.reader.close()

    def _settle(self, on_result: OnResult) -> None:
        """Wait for the scene that is being finished, and tell what became of it."""
        if self._behind is None:
            return
        outcome = self._behind.result()
        with defer_signals():
            self._behind = None
            on_result(outcome)


def finish(job: Job, computed: UncommittedResult) -> JobResult:
    """Give a scene its name; what goes wrong is its outcome."""
    from dehazexl_cli.files import publish

    try:
        return JobResult(job.scene, State.done, publish(computed).to_dict())
    except Exception as error:
        return failure(job.scene, error)


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
