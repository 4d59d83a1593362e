"""Scene after scene in one process: while one is computed, the next is read and the last is finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from dehazexl_cli.batch.results import Job, JobResult, State, Take, Tell, failure
from dehazexl_cli.signals import defer_signals
from dehazexl_cli.worker_config import WorkerConfig

if TYPE_CHECKING:
    from dehazexl_cli.files import DeferredCommitWriter, OpenedScene, UncommittedResult
    from dehazexl_cli.models.checkpoint import Loaded

AHEAD = 2  # scenes open at a time: the one that is computed, and the next


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

    def __call__(self, take: Take, tell: Tell) -> None:
        """Dehaze all that can be taken; what became of each is told from this thread.

        If it is stopped, a scene that is being finished gets its name and is told; nothing is left of the
        others.
        """
        with ThreadPoolExecutor(1, "next-scene") as opening, ThreadPoolExecutor(1, "last-scene") as finishing:
            try:
                while self._fill(take, tell, opening):
                    self._work(tell, finishing)
            finally:
                while self._ahead:
                    self._ahead.popleft().drop()
                self._settle(tell)

    def _fill(self, take: Take, tell: Tell, opening: ThreadPoolExecutor) -> bool:
        """Have scenes opened; False if there are none left."""
        while len(self._ahead) < AHEAD:
            job = take(False)
            if job is None and not self._ahead:
                self._settle(tell)  # before waiting: who gives work may wait for what became of it
                job = take(True)
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

    def _work(self, tell: Tell, finishing: ThreadPoolExecutor) -> None:
        """Compute the first of the scenes that were opened, and have it finished."""
        item = self._ahead[0]
        try:
            computed = self._compute(item)
        except Exception as error:  # whatever a damaged file sets off
            self._ahead.popleft().drop()
            self._settle(tell)
            return tell(failure(item.job.scene, error))
        self._settle(tell)
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
                self._setup.recipe,
                job.overwrite,
                partial(self._watch, job),
                item.pending,
            )
        finally:
            opened.reader.close()

    def _settle(self, tell: Tell) -> None:
        """Wait for the scene that is being finished, and tell what became of it."""
        if self._behind is None:
            return
        outcome = self._behind.result()
        with defer_signals():
            self._behind = None
            tell(outcome)


def finish(job: Job, computed: UncommittedResult) -> JobResult:
    """Give a scene its name; what goes wrong is its outcome."""
    from dehazexl_cli.files import publish

    try:
        return JobResult(job.scene, State.done, publish(computed).to_dict())
    except Exception as error:
        return failure(job.scene, error)
