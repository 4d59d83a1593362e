"""A batch on the workers of a Dask cluster: one scene a task, the model kept by each worker.

The scheduler gives a scene whose worker is lost to another one. Sources and results must have the same names
on all machines.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dehazexl_cli import processors
from dehazexl_cli.batch.executors import WorkerConfig
from dehazexl_cli.batch.results import Job, JobResult, NextJob, OnResult, State, failure
from dehazexl_cli.batch.sources import is_gdal_name
from dehazexl_cli.errors import DehazeError, DeviceError, UsageError, reason
from dehazexl_cli.signals import defer_signals
from dehazexl_cli.text import name_of

if TYPE_CHECKING:
    from distributed import Client, Future

    from dehazexl_cli.models.checkpoint import Loaded

LOCAL = "local"
GPU = "GPU"  # what workers call it among their resources
CONNECT_SECONDS = 15
PATIENCE_SECONDS = 60  # for workers to leave what they have begun, when a batch is stopped
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


def named_in_full(setup: WorkerConfig) -> WorkerConfig:
    """With files that workers find whatever folder they are in."""
    selection, storage = setup.config.selection, setup.config.storage
    config = replace(
        setup.config,
        selection=replace(selection, mask=in_full(selection.mask)),
        storage=replace(storage, tmp_dir=in_full(storage.tmp_dir)),
    )
    return replace(setup, config=config, weights=None if setup.weights is None else setup.weights.absolute())


def in_full(path: str | None) -> str | None:
    """A path from the root on."""
    return path if path is None or is_gdal_name(path) else os.path.abspath(path)


MEMORY_HINT = "if memory ran out, allow it less with --max-ram, or give the workers more"


@contextmanager
def connected(address: str, jobs: int | None) -> Iterator[Client]:
    """A client of the scheduler; a cluster made for it ends with it.

    Raises UsageError without Dask, DeviceError if nobody answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError(
            "--dask needs Dask, which is not installed", "pip install 'dehazexl[dask]'"
        ) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)
    here, _, count = address.partition(":")
    if here == LOCAL:
        if count and not (count.isdecimal() and int(count)):
            raise UsageError(f"--dask {address} is no number of workers", "write it like local:4")
        # What a scene may take is decided by its plan, so Dask is not to watch the memory. Even without a
        # dashboard a scheduler has a port for it, and warns if another has that one.
        with (
            LocalCluster(
                n_workers=jobs or int(count or processors.count()),
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "localhost:0"},
                silence_logs=logging.ERROR,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"no Dask scheduler answers at {address} ({reason(error)})",
            "check the address, like tcp://host:8786",
        ) from error
    with client:
        yield client


def resources_for(device: str, workers: Mapping[str, Any]) -> dict[str, float] | None:
    """What of a worker a task takes: a GPU, if any worker has some."""
    with_gpu = any(worker.get("resources", {}).get(GPU) for worker in workers.values())
    return {GPU: 1} if with_gpu and device != "cpu" else None


def most_on_a_host(workers: Mapping[str, Any]) -> int:
    """Of how many workers on one machine each is one, at most."""
    return max(Counter(worker.get("host") for worker in workers.values()).values(), default=1)


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows of its workers, by their addresses."""
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return found


# On a worker.

ONE_AT_A_TIME = threading.Lock()  # a worker with several threads would share a model between scenes
_ABANDONED: set[str] = set()  # batches that are not to go on


class Abandoned(Exception):
    """The batch has ended."""


def raise_if_cancelled(batch: str) -> None:
    """Raise Abandoned if a batch is not to go on."""
    if batch in _ABANDONED:
        raise Abandoned


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
            return failure(job.scene, error)


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


_KEPT: dict[object, Loaded] = {}


def kept(setup: WorkerConfig, when: int) -> Loaded:
    """The model of a setup, loaded once per worker; only the last is kept."""
    import torch

    # Dask has its workers compute on one thread, which would leave all but one processor idle.
    torch.set_num_threads(max(1, processors.count() // setup.share))
    key = setup.model, setup.weights, setup.multiple, setup.config.options, when
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = setup.load()
    return _KEPT[key]


def modified(weights: Path | None) -> int:
    """When a weight file was written; 0 for bundled ones, which stay."""
    return 0 if weights is None or not weights.exists() else weights.stat().st_mtime_ns


def cancel(batch: str) -> None:
    """Have this worker leave a batch."""
    _ABANDONED.add(batch)
