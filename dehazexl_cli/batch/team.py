"""One scene on the workers of a Dask cluster: the engine's team, whose bands of rows are tasks.

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
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from dehazexl_cli.atomic import ProcessId, remove_orphans_once
from dehazexl_cli.batch.dask import (
    CONNECT_SECONDS,
    MEMORY_HINT,
    ONE_AT_A_TIME,
    PATIENCE_SECONDS,
    Abandoned,
    cancel,
    connected,
    kept,
    modified,
    most_on_a_host,
    named_in_full,
    raise_if_cancelled,
    resources_for,
    workers_of,
)
from dehazexl_cli.batch.executors import WorkerConfig
from dehazexl_cli.batch.sources import is_gdal_name
from dehazexl_cli.errors import DehazeError, DeviceError, InputError, OutputError, WeightsError, reason
from dehazexl_cli.signals import defer_signals

if TYPE_CHECKING:
    from distributed import Client, Future

    from dehazexl_cli.engine.scene_worker import SceneWorker
    from dehazexl_cli.engine.team import SceneSpec, Step
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
    from dehazexl_cli.files import compute, finished, open_scene

    source = source if is_gdal_name(source) else os.path.abspath(source)
    setup = named_in_full(setup)
    loaded = setup.load()
    opened = open_scene(source, setup.config)
    try:
        with (
            connected(address, None) as client,
            shared_folder(target, setup.config.storage.tmp_dir) as folder,
            DaskTeam(client, address, setup, source, loaded.sha256, folder) as team,
        ):
            computed = compute(opened, target, loaded, setup.config, overwrite, watch, team=team)
            for warning in team.warnings:
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


class DaskTeam:
    """An engine's Team of the workers that a scheduler has.

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

    def over(
        self, brief: SceneSpec, step: Step, bands: Sequence[range]
    ) -> Generator[Report | None, None, None]:
        """See engine.team.WorkerPool."""
        task = replace(self._task, setup=decided(self._task.setup, brief), run=uuid4().hex)
        coming: SimpleQueue[Future] = SimpleQueue()
        given = {self._submit(task, brief, step, band): band for band in bands}
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
                worker, report = self._told(future)
                self._home |= dict.fromkeys(band, worker)
                yield report
        finally:
            if given:
                self._abandon(task.run, list(given))

    def _submit(self, task: Task, brief: SceneSpec, step: Step, band: range) -> Future:
        home = self._home.get(band.start) if step == "decode" else None
        is_there = home in workers_of(self._client)
        return self._client.submit(
            do,
            task,
            brief,
            step,
            band,
            key=f"dehazexl-{step}-{band.start}-{uuid4().hex}",
            pure=False,
            resources=self._resources,
            workers=[home] if is_there else None,
            allow_other_workers=is_there,
        )

    def _told(self, future: Future) -> tuple[str, Report]:
        from distributed.scheduler import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise DeviceError(f"the scheduler at {self._address} is gone", "start it and this again")
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            raise DeviceError("every worker that had some rows of this scene was lost", MEMORY_HINT)
        if error is not None:
            raise error
        told: tuple[str, Report] = future.result()
        return told

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

        if self._client.status != "running":
            return
        with defer_signals(), suppress(TimeoutError):
            self._client.run(cancel, run)
            wait(given, timeout=PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._client.status == "running":
            self._client.run(leave_unless_busy)


def arrived(client: Client, address: str) -> dict[str, Any]:
    """The workers, once there are any; DeviceError if none comes."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise DeviceError(
            f"the scheduler at {address} has no workers", f"start some: dask worker {address} --nthreads 1"
        ) from error
    return workers_of(client)


def surveyed(client: Client, source: str, folder: Path) -> list[str]:
    """Warnings about workers with other versions; raises what keeps one from its work."""
    mine, warnings = versions(), []
    found = client.run(sight, source, folder, on_error="return")
    for address, sees in sorted(found.items()):
        if isinstance(sees, DehazeError):
            raise type(sees)(f"worker {address}: {sees.message}", sees.hint)
        if isinstance(sees, BaseException):
            raise DeviceError(
                f"worker {address} cannot take part ({reason(sees)})", "install the same dehazexl there"
            )
        others = [f"{name} {sees[name]}, here {mine[name]}" for name in mine if sees[name] != mine[name]]
        if others:
            warnings.append(f"worker {address} has {' and '.join(others)}: its pixels may differ a little")
    return warnings


def versions() -> dict[str, str]:
    """Of what computes."""
    return {name: version(name) for name in ("dehazexl", "torch")}


def decided(setup: WorkerConfig, brief: SceneSpec) -> WorkerConfig:
    """The setup with what was decided for all workers."""
    from dehazexl_cli.engine.device import precision_name

    config = setup.config
    options = replace(config.options, device=brief.device, precision=precision_name(brief.dtype))
    return replace(setup, config=replace(config, options=options))


# On a worker.


@dataclass(frozen=True)
class Task:
    """What all tasks of a scene have in common."""

    setup: WorkerConfig
    source: str
    weights_sha256: str
    run: str = ""  # a name for the tasks that are given, and left, together


def sight(source: str, folder: Path) -> dict[str, str]:
    """The versions of a worker that sees the folder and the source; else the DehazeError that fits."""
    if not folder.is_dir():
        raise OutputError(
            f"there is no {folder.parent} that is the same as here",
            "name a --tmp-dir on a disk that all machines share",
        )
    if not is_gdal_name(source) and not os.path.exists(source):
        raise InputError(f"it does not see {source}", "put it where all machines see it by the same name")
    return versions()


def do(task: Task, brief: SceneSpec, step: Step, band: range) -> tuple[str, Report] | None:
    """Do a step for a band of rows on a worker, and say which that is; None if the run has ended before.

    Raises the DehazeError that fits, with the name of the machine.
    """
    from distributed import get_worker

    with ONE_AT_A_TIME:
        try:
            raise_if_cancelled(task.run)
            return get_worker().address, station(task, brief).do(
                step, band, partial(raise_if_cancelled, task.run)
            )
        except Abandoned:
            return None
        except DehazeError as error:
            raise type(error)(f"{error.message} (on {socket.gethostname()})", error.hint) from error


_STATIONS: dict[Path, SceneWorker] = {}


def station(task: Task, brief: SceneSpec) -> SceneWorker:
    """What this worker keeps of a scene while it is worked on; only of the last."""
    from dehazexl_cli.engine.scene_worker import SceneWorker

    if brief.folder not in _STATIONS:
        leave()
        loaded = kept(task.setup, modified(task.setup.weights))
        if loaded.sha256 != task.weights_sha256:
            raise WeightsError(f"these are other weights of {loaded.name}", "give all machines the same file")
        opened = task.setup.open(task.source)
        _STATIONS[brief.folder] = SceneWorker(brief, opened.reader, loaded.model, opened.options)
    return _STATIONS[brief.folder]


def leave() -> None:
    """Let go of what is kept of a scene."""
    while _STATIONS:
        _STATIONS.popitem()[1].close()


def leave_unless_busy() -> None:
    """The same, unless another run has begun here."""
    if ONE_AT_A_TIME.acquire(blocking=False):
        try:
            leave()
        finally:
            ONE_AT_A_TIME.release()
