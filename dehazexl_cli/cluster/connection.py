"""A Dask cluster and what it has: its workers, what they keep between tasks, and how they leave one."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehazexl_cli import processors
from dehazexl_cli.errors import DehazeError, DeviceError, InputError, OutputError, UsageError, reason
from dehazexl_cli.paths import is_gdal_name
from dehazexl_cli.worker_config import WorkerConfig

if TYPE_CHECKING:
    from distributed import Client

    from dehazexl_cli.models.checkpoint import Loaded

LOCAL = "local"
GPU = "GPU"  # what workers call it among their resources
CONNECT_SECONDS = 15
PATIENCE_SECONDS = 60  # for workers to leave what they have begun, when a run is stopped
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


# On a worker.


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


ONE_AT_A_TIME = threading.Lock()  # a worker with several threads would share a model between scenes
_ABANDONED: set[str] = set()  # runs that are not to go on


class Abandoned(Exception):
    """The run has ended."""


def raise_if_cancelled(run: str) -> None:
    """Raise Abandoned if a run is not to go on."""
    if run in _ABANDONED:
        raise Abandoned


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


def cancel(run: str) -> None:
    """Have this worker leave a run."""
    _ABANDONED.add(run)
