"""One scene on the workers of a Dask cluster: bands of its rows are tasks.

Tasks are small, and so is what they return: tokens and pixels go through a folder that all machines see.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from dehazexl_cli.atomic import ProcessId, remove_orphans_once
from dehazexl_cli.cluster.connection import (
    CONNECT_SECONDS,
    MEMORY_HINT,
    ONE_AT_A_TIME,
    PATIENCE_SECONDS,
    Abandoned,
    arrived,
    cancel,
    connected,
    kept,
    modified,
    most_on_a_host,
    named_in_full,
    raise_if_cancelled,
    resources_for,
    surveyed,
    workers_of,
)
from dehazexl_cli.errors import DehazeError, DeviceError, OutputError, WeightsError
from dehazexl_cli.paths import is_gdal_name
from dehazexl_cli.signals import defer_signals
from dehazexl_cli.worker_config import WorkerConfig

if TYPE_CHECKING:
    from distributed import Client, Future

    from dehazexl_cli.cluster.parts import PartSpec
    from dehazexl_cli.cluster.scene import SceneSpec, Step
    from dehazexl_cli.cluster.worker import SceneWorker
    from dehazexl_cli.report import Report

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all
LOOK_SECONDS = 0.5  # between looks at what workers have done


def dehaze_shared(
    source: str,
    target: str,
    setup: WorkerConfig,
    address: str,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> Report:
    """Dehaze a file into a new one with the workers of a scheduler, "tcp://HOST:8786", or here, "local:4".

    The bits are those that this process would make with as many threads as a worker has. The folder of the
    target, or `tmp_dir`, must be one that all machines see. Raises the DehazeError that fits, and leaves no
    output, if anything goes wrong.
    """
    from dehazexl_cli.cluster.scene import ClusterExecutor, for_workers
    from dehazexl_cli.files import compute, finished, open_scene

    source = source if is_gdal_name(source) else os.path.abspath(source)
    setup = named_in_full(setup)
    loaded = setup.load()
    options = for_workers(setup.config.options, loaded.model)
    opened = open_scene(source, replace(setup.config, options=options))
    try:
        with (
            connected(address, None) as client,
            shared_folder(target, setup.config.storage.tmp_dir) as folder,
            DaskPool(client, address, setup, source, loaded.sha256, folder) as pool,
        ):
            computed = compute(
                opened,
                target,
                loaded,
                setup.config,
                overwrite,
                watch,
                distribute=partial(ClusterExecutor, pool),
            )
            for warning in pool.warnings:
                computed.report.warn(warning)
    finally:
        opened.reader.close()
    return finished(computed)


@contextmanager
def shared_folder(target: str, tmp_dir: str | None) -> Iterator[Path]:
    """A folder for what workers make, gone at the end; OutputError if there can be none."""
    path = Path(os.path.realpath(target))
    around = path.parent if tmp_dir is None else Path(os.path.realpath(tmp_dir))
    folder = around / f".{path.stem[:30]}{ProcessId.this().mark()}team"
    remove_orphans_once(around)
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(
            f"{around}: nothing can be put there ({error.strerror})", "name another --tmp-dir"
        ) from error
    try:
        yield folder
    finally:
        with defer_signals():
            shutil.rmtree(folder, ignore_errors=True)


class DaskPool:
    """The workers that a scheduler has, as a WorkerPool.

    Raises DeviceError where there are none, OutputError where one does not see the folder, InputError where
    one does not see the source. `warnings` says where a worker has other versions.
    """

    def __init__(
        self,
        client: Client,
        address: str,
        setup: WorkerConfig,
        source: str,
        weights_sha256: str,
        folder: Path,
    ) -> None:
        self._client, self._address, self.folder = client, address, folder
        workers = arrived(client, address)
        self.size = len(workers)
        self.warnings = surveyed(client, source, folder)
        share = most_on_a_host(workers)
        self._task = Task(replace(setup, share=share), source, weights_sha256)
        self._resources = resources_for(setup.config.options.device, workers)
        self._home: dict[int, str] = {}  # row -> who has its features
        self._parts: list[Future] = []
        self._parts_run = uuid4().hex  # a name for the parts that are left together

    def over(
        self, spec: SceneSpec, step: Step, bands: Sequence[range]
    ) -> Generator[Report | None, None, None]:
        """See WorkerPool.over."""
        task = replace(self._task, setup=decided(self._task.setup, spec), run=uuid4().hex)
        coming: SimpleQueue[Future] = SimpleQueue()
        given = {self._submit(task, spec, step, band): band for band in bands}
        for future in given:
            future.add_done_callback(coming.put)
        lonely_since = None
        try:
            while given:
                try:
                    future = coming.get(timeout=LOOK_SECONDS)
                except Empty:
                    lonely_since = self._lonely(lonely_since)
                    yield None
                    continue
                band = given.pop(future)
                worker, report = self.told(future)
                self._home |= dict.fromkeys(band, worker)
                yield report
        finally:
            self._abandon(task.run, list(given))

    def _submit(self, task: Task, spec: SceneSpec, step: Step, band: range) -> Future:
        home = self._home.get(band.start) if step == "decode" else None
        is_there = home in workers_of(self._client)
        return self._client.submit(
            do,
            task,
            spec,
            step,
            band,
            key=f"dehazexl-{step}-{band.start}-{uuid4().hex}",
            pure=False,
            resources=self._resources,
            workers=[home] if is_there else None,
            allow_other_workers=is_there,
        )

    def submit_part(self, spec: PartSpec) -> DaskPart:
        """See PartPool.submit_part; parts go before bands of rows, as what waits for them takes room."""
        key = f"dehazexl-part-{uuid4().hex}"
        future = self._client.submit(write, spec, self._parts_run, key=key, pure=False, priority=1)
        self._parts.append(future)
        return DaskPart(self, future)

    def abandon_parts(self) -> None:
        """See PartPool.abandon_parts."""
        self._abandon(self._parts_run, [future for future in self._parts if not future.done()])
        self._parts, self._parts_run = [], uuid4().hex

    def wait(self, future: Future) -> None:
        """Wait for a task, but not where there are no workers any more: DeviceError."""
        from distributed import wait

        lonely_since = None
        while not future.done():
            try:
                wait([future], timeout=LOOK_SECONDS)
            except TimeoutError:
                lonely_since = self._lonely(lonely_since)

    def told(self, future: Future) -> Any:
        """What a task that has ended gives; raises what it raised."""
        from distributed.scheduler import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise DeviceError(f"the scheduler at {self._address} is gone", "start it and this again")
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            raise DeviceError("every worker that had some rows of this scene was lost", MEMORY_HINT)
        if error is not None:
            raise error
        return future.result()

    def _lonely(self, since: float | None) -> float | None:
        """Since when there is no worker; DeviceError if that is too long."""
        if workers_of(self._client):
            return None
        since = since or time.monotonic()
        if time.monotonic() - since > CONNECT_SECONDS:
            raise DeviceError(f"all workers of {self._address} are gone", "start them and this again")
        return since

    def _abandon(self, run: str, given: list[Future]) -> None:
        """Have workers leave what they have begun, so that nobody writes any more."""
        from distributed import wait

        if not given or self._client.status != "running":
            return
        with defer_signals(), suppress(TimeoutError):
            self._client.run(cancel, run)
            wait(given, timeout=PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._client.status == "running":
            self._client.run(leave_unless_busy)


class DaskPart:
    """A part of a scene that a worker writes; see PendingPart."""

    def __init__(self, pool: DaskPool, future: Future) -> None:
        self._pool, self._future = pool, future

    def done(self) -> bool:
        """See PendingPart.done."""
        return bool(self._future.done())

    def result(self) -> list[str]:
        """See PendingPart.result."""
        self._pool.wait(self._future)
        warnings: list[str] = self._pool.told(self._future)
        return warnings


def decided(setup: WorkerConfig, spec: SceneSpec) -> WorkerConfig:
    """The setup with what was decided for all workers."""
    from dehazexl_cli.engine.device import precision_name

    config = setup.config
    options = replace(config.options, device=spec.device, precision=precision_name(spec.dtype))
    return replace(setup, config=replace(config, options=options))


# On a worker.


@dataclass(frozen=True)
class Task:
    """What all tasks of a scene have in common."""

    setup: WorkerConfig
    source: str
    weights_sha256: str
    run: str = ""  # a name for the tasks that are given, and left, together


def do(task: Task, spec: SceneSpec, step: Step, band: range) -> tuple[str, Report] | None:
    """Do a step for a band of rows on a worker, and say which that is; None if the run has ended before.

    Raises the DehazeError that fits, with the name of the machine.
    """
    from distributed import get_worker

    watch = partial(raise_if_cancelled, task.run)
    with suppress(Abandoned), naming_the_machine(), ONE_AT_A_TIME:
        watch()
        return get_worker().address, scene_worker(task, spec).do(step, band, watch)
    return None


def write(spec: PartSpec, run: str) -> list[str] | None:
    """Write a part on a worker; see write_part. None if the run has ended before."""
    from dehazexl_cli.cluster.parts import write_part

    with suppress(Abandoned), naming_the_machine():
        return write_part(spec, partial(raise_if_cancelled, run))
    return None


@contextmanager
def naming_the_machine() -> Iterator[None]:
    """Have errors say on which machine they came up."""
    try:
        yield
    except DehazeError as error:
        raise type(error)(f"{error.message} (on {socket.gethostname()})", error.hint) from error


_WORKERS: dict[Path, SceneWorker] = {}


def scene_worker(task: Task, spec: SceneSpec) -> SceneWorker:
    """What this worker keeps of a scene while it is worked on; only of the last."""
    from dehazexl_cli.cluster.worker import SceneWorker

    if spec.folder not in _WORKERS:
        leave()
        loaded = kept(task.setup, modified(task.setup.weights))
        if loaded.sha256 != task.weights_sha256:
            raise WeightsError(f"these are other weights of {loaded.name}", "give all machines the same file")
        opened = task.setup.open(task.source)
        _WORKERS[spec.folder] = SceneWorker(spec, opened.reader, loaded.model, opened.options)
    return _WORKERS[spec.folder]


def leave() -> None:
    """Let go of what is kept of a scene."""
    while _WORKERS:
        _WORKERS.popitem()[1].close()


def leave_unless_busy() -> None:
    """The same, unless another run has begun here."""
    if ONE_AT_A_TIME.acquire(blocking=False):
        try:
            leave()
        finally:
            ONE_AT_A_TIME.release()
