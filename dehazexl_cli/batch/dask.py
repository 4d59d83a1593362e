"""A batch on the workers of a Dask cluster: one scene a task, the model kept by each worker.

The scheduler gives a scene whose worker is lost to another one. Sources and results must have the same names
on all machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dehazexl_cli.batch.results import Job, JobResult, NextJob, OnResult, State, not_done
from dehazexl_cli.cluster.connection import (
    MEMORY_HINT,
    ONE_AT_A_TIME,
    PATIENCE_SECONDS,
    Abandoned,
    cancel,
    connected,
    kept,
    modified,
    most_on_a_host,
    raise_if_cancelled,
    resources_for,
    workers_of,
)
from dehazexl_cli.errors import DehazeError, DeviceError, reason
from dehazexl_cli.paths import is_gdal_name
from dehazexl_cli.signals import defer_signals
from dehazexl_cli.text import name_of
from dehazexl_cli.worker_config import WorkerConfig

if TYPE_CHECKING:
    from distributed import Client, Future

    from dehazexl_cli.models.checkpoint import Loaded

AHEAD = 2  # scenes for each worker that are given to the scheduler at a time


class DaskBatchExecutor:
    """Dehazes scenes on the workers of a scheduler, "tcp://HOST:8786", or of one made here, "local:4".

    The setup must name files as workers find them; see `named_in_full`.
    """

    def __init__(self, setup: WorkerConfig, address: str, jobs: int | None = None) -> None:
        self._setup, self._address, self._jobs = setup, address, jobs
        self._batch = uuid4().hex
        self._given: dict[Future, Job] = {}

    def __call__(self, next_job: NextJob, on_result: OnResult) -> None:
        """Dehaze all that can be taken; what became of each is told from this thread.

        Raises DeviceError if there is no such cluster, and what no scene could be run with.
        """
        with connected(self._address, self._jobs) as client:
            try:
                self._run(client, next_job, on_result)
            finally:
                self._abandon(client, on_result)

    def _run(self, client: Client, next_job: NextJob, on_result: OnResult) -> None:
        from distributed import as_completed

        coming = as_completed()
        submit = self._submitter(client)
        while self._fill(client, next_job, submit, coming):
            self._hear(next(coming), on_result)

    def _fill(self, client: Client, next_job: NextJob, submit: Callable[[Job], Future], coming: Any) -> bool:
        """Give the scheduler scenes enough; False if there are none left that anybody does."""
        while len(self._given) < AHEAD * max(1, len(workers_of(client))):
            job = next_job(not self._given)
            if job is None:
                break
            future = submit(job)
            self._given[future] = job
            coming.add(future)
        return bool(self._given)

    def _submitter(self, client: Client) -> Callable[[Job], Future]:
        """How a job is given to the scheduler: to workers with GPUs if there are any."""
        workers = workers_of(client)
        resources = resources_for(self._setup.config.options.device, workers)
        setup = replace(self._setup, share=most_on_a_host(workers))

        def submit(job: Job) -> Future:
            scene = job.scene
            key = f"dehazexl-{name_of(scene.source)}-{uuid4().hex}"
            source = scene.source if is_gdal_name(scene.source) else os.path.abspath(scene.source)
            # A worker may be lost after its result has got its name; nobody else could make it meanwhile.
            there = Job(replace(scene, source=source, target=scene.target.absolute()), overwrite=True)
            return client.submit(dehaze, setup, there, self._batch, key=key, pure=False, resources=resources)

        return submit

    def _hear(self, future: Future, on_result: OnResult) -> None:
        """What became of a scene."""
        with defer_signals():
            job = self._given.pop(future)
            outcome = self._outcome(future, job)
            if outcome is not None:
                on_result(outcome)

    def _outcome(self, future: Future, job: Job) -> JobResult | None:
        from distributed.scheduler import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise DeviceError(
                f"the scheduler at {self._address} is gone",
                "start it again, and then this with --skip-existing",
            )
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            return JobResult(
                job.scene, State.failed, why="every worker that had it was lost", hint=MEMORY_HINT
            )
        if isinstance(error, DehazeError):
            raise error
        if error is not None:
            return JobResult(job.scene, State.failed, why=reason(error))
        outcome: JobResult | None = future.result()
        return None if outcome is None else replace(outcome, scene=job.scene)

    def _abandon(self, client: Client, on_result: OnResult) -> None:
        """Have workers leave what they have not finished, and hear what they have."""
        from distributed import wait

        if not self._given:
            return
        with defer_signals():
            client.run(cancel, self._batch)
            wait(list(self._given), timeout=PATIENCE_SECONDS)
            for future in list(self._given):
                if future.status == "finished":
                    self._hear(future, on_result)


# On a worker.


def dehaze(setup: WorkerConfig, job: Job, batch: str) -> JobResult | None:
    """Dehaze a scene on a worker; None if its batch has ended before.

    Raises what no scene could be run with, as the DehazeError that fits.
    """

    def watch(phase: str, done: int, total: int) -> None:
        raise_if_cancelled(batch)

    with ONE_AT_A_TIME:
        loaded = kept(setup, modified(setup.weights))
        try:
            watch("open", 0, 1)
            return dehazed(setup, loaded, job, watch)
        except Abandoned:
            return None
        except Exception as error:  # whatever a damaged file sets off
            return not_done(job.scene, error)


def dehazed(
    setup: WorkerConfig, loaded: Loaded, job: Job, watch: Callable[[str, int, int], None]
) -> JobResult:
    """The outcome of a scene that is dehazed; raises what goes wrong."""
    from dehazexl_cli.files import compute, finished

    opened = setup.open(job.scene.source)
    try:
        computed = compute(opened, str(job.scene.target), loaded, setup.config, job.overwrite, watch)
    finally:
        opened.reader.close()
    return JobResult(job.scene, State.done, finished(computed).to_dict())
