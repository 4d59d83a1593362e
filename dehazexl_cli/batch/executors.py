"""Who dehazes the scenes of a batch: this process, scene after scene, or several processes, each doing that.

In a process the next scene is read and the last one finished while one is computed. A process that is lost
costs no scene but its own.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import TYPE_CHECKING

from dehazexl_cli.batch.results import Job, JobResult, NextJob, OnResult, State, not_done
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.errors import DehazeError, Interrupted, UsageError
from dehazexl_cli.signals import defer_signals
from dehazexl_cli.worker_config import WorkerConfig

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from dehazexl_cli.batch.deferred import DeferredCommitWriter
    from dehazexl_cli.files import OpenedScene, UncommittedResult
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.raster.base import FileWriter

AHEAD = 2  # scenes open at a time: the one that is computed, and the next
DEPTH = 2  # scenes that a process is given at a time: so it can open the next while it computes
PATIENCE_SECONDS = 60.0  # for a process that was asked to stop, to remove what it has begun

# A forked process would share torch's threads with its parent, which are not there.
SPAWN = multiprocessing.get_context("spawn")
MEMORY_HINT = "if memory ran out, allow it less with --max-ram, or run fewer at a time with --jobs"


@dataclass(frozen=True)
class Item:
    """A scene on the conveyor."""

    job: Job
    opened: Future[OpenedScene]
    pending: list[DeferredCommitWriter] = field(default_factory=list)  # results that have no name yet

    def hold(self, writer: FileWriter) -> FileWriter:
        """Have the file of a writer wait for its name until it is finished."""
        from dehazexl_cli.batch.deferred import DeferredCommitWriter

        self.pending.append(DeferredCommitWriter(writer))
        return self.pending[-1]

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
        from dehazexl_cli.batch.deferred import read_ahead

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
            return on_result(not_done(item.job.scene, error))
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
                item.hold,
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
    from dehazexl_cli.batch.deferred import publish

    try:
        return JobResult(job.scene, State.done, publish(computed).to_dict())
    except Exception as error:
        return not_done(job.scene, error)


@dataclass
class Worker:
    """A process that dehazes, and the scenes that it was given and has not told of."""

    setup: WorkerConfig
    process: SpawnProcess
    pipe: Connection
    given: dict[Scene, Job] = field(default_factory=dict)
    on_trial: bool = False  # with a scene that another process was lost with


class ProcessExecutor:
    """Dehazes scenes in as many processes as there are setups, one each."""

    def __init__(self, setups: Sequence[WorkerConfig]) -> None:
        self._setups = setups
        self._workers: list[Worker] = []
        self._again: deque[Job] = deque()  # lost with a process, for whatever reason

    def __call__(self, next_job: NextJob, on_result: OnResult) -> None:
        """Dehaze all that can be taken; what became of each is told from this thread.

        Raises what no scene could be run with, as the DehazeError that fits.
        """
        try:
            self._workers = [start(setup) for setup in self._setups]
            while self._deal(next_job):
                for pipe in wait([worker.pipe for worker in self._workers if worker.given]):
                    self._listen(next(worker for worker in self._workers if worker.pipe is pipe), on_result)
        finally:
            self._stop(on_result)

    def _deal(self, next_job: NextJob) -> bool:
        """Give every process something to do; False if nothing is left that anybody does."""
        for depth in range(1, DEPTH + 1):
            for worker in self._workers:
                if len(worker.given) < depth:
                    job = self._next(worker, next_job)
                    if job is not None:
                        worker.given[job.scene] = job
                        with suppress(OSError):  # it has ended; that is heard when it is listened to
                            worker.pipe.send(job)
        return any(worker.given for worker in self._workers)

    def _next(self, worker: Worker, next_job: NextJob) -> Job | None:
        """A scene for a process; one that was lost is given alone, to see whether it is the cause."""
        if worker.on_trial or (self._again and worker.given):
            return None
        if self._again:
            worker.on_trial = True
            return self._again.popleft()
        return next_job(not any(each.given for each in self._workers))

    def _listen(self, worker: Worker, on_result: OnResult) -> None:
        """Hear what a process has to say, or that it is no more."""
        with defer_signals():  # what was heard is to be told
            try:
                said = worker.pipe.recv()
            except (EOFError, OSError):
                return self._replace(worker, on_result)
            if isinstance(said, DehazeError):
                raise said
            worker.given.pop(said.scene, None)
            worker.on_trial = False
            on_result(said)

    def _replace(self, worker: Worker, on_result: OnResult) -> None:
        """Start another process for one that has ended; a scene that was lost again, alone, is the cause."""
        worker.process.join()
        for job in worker.given.values():
            if worker.on_trial:
                on_result(JobResult(job.scene, State.failed, why=how_it_ended(worker), hint=MEMORY_HINT))
            else:
                # It may have got its name before the process was lost; nobody else could make it meanwhile.
                self._again.append(replace(job, overwrite=True))
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = start(worker.setup)

    def _stop(self, on_result: OnResult) -> None:
        """End all processes; those that have something to do are asked to leave it, and leave nothing."""
        for worker in self._workers:
            if worker.given and worker.process.is_alive():
                worker.process.terminate()
        for worker in self._workers:
            self._say_goodbye(worker, on_result)

    def _say_goodbye(self, worker: Worker, on_result: OnResult) -> None:
        with suppress(OSError):  # it has ended; what it said before can still be heard
            worker.pipe.send(None)
        try:
            while worker.pipe.poll(PATIENCE_SECONDS):
                said = worker.pipe.recv()  # what was finished on the way
                if isinstance(said, JobResult):
                    on_result(said)
        except (EOFError, OSError):
            pass
        worker.process.join(PATIENCE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
        worker.pipe.close()


def how_it_ended(worker: Worker) -> str:
    """In words, how a process ended that should not have."""
    code = worker.process.exitcode
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def start(setup: WorkerConfig) -> Worker:
    """A process that dehazes what it is given."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=work, args=(theirs, setup), daemon=True)
    process.start()
    theirs.close()
    return Worker(setup, process, ours)


def work(pipe: Connection, setup: WorkerConfig) -> None:
    """What such a process does: dehaze until it is told that there is no more, or nobody is left to tell."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # asked twice, it is not to stop cleaning up
        raise Interrupted(number, signal.Signals(number).name)

    # Ctrl-C reaches all processes of a terminal; who began this one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    try:
        InProcessExecutor(setup, setup.load())(Inbox(pipe), pipe.send)
    except Interrupted:
        pass
    except DehazeError as error:
        pipe.send(error)
    except (EOFError, OSError):  # the one who began it is gone
        pass


class Inbox:
    """Takes jobs from a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._ended = pipe, False

    def __call__(self, wait: bool) -> Job | None:
        if self._ended or not (wait or self._pipe.poll()):
            return None
        job: Job | None = self._pipe.recv()
        self._ended = job is None
        return job


def shared_out(setup: WorkerConfig, jobs: int, gpus: Sequence[int]) -> list[WorkerConfig]:
    """A setup for each process: one per GPU, or `jobs` that share processors and memory.

    Raises DeviceError for a GPU that is not there, UsageError for processes that would share one.
    """
    from dehazexl_cli.engine.device import choose_device, choose_devices

    device = setup.config.options.device
    if gpus:
        if device != "auto":
            raise UsageError(f"--gpus and --device {device} both say where to run", "leave out --device")
        found = []
        for gpu in gpus:
            options = replace(setup.config.options, device=str(choose_device(f"cuda:{gpu}")))
            found.append(replace(setup, config=replace(setup.config, options=options), share=len(gpus)))
        return found
    if jobs > 1 and choose_devices(device)[0].type != "cpu":
        raise UsageError("--jobs is for the CPU, and a GPU is here", "use --gpus, or add --device cpu")
    return [replace(setup, share=jobs)] * jobs
