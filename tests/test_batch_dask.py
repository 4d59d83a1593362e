"""Batches on a Dask cluster: the same results, whatever becomes of workers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import NAMES, alike, cut_short, files, finish, log_of, make_image, start, states, wait_for
from conftest import Result

from dehazexl_cli.atomic import ProcessId
from dehazexl_cli.batch import dask
from dehazexl_cli.batch.dask import DaskBatchExecutor
from dehazexl_cli.batch.results import Job
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.cluster import connection
from dehazexl_cli.cluster.connection import named_in_full
from dehazexl_cli.config import EngineOptions, RunConfig, Selection
from dehazexl_cli.worker_config import WorkerConfig

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def images(folder: Path, count: int, side: int = 500) -> Path:
    for index in range(count):
        make_image(folder / f"{index}.tif", side, side, index)
    return folder


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_process(
    batch: Callable[..., Result], folder: Path, tmp_path: Path, workers: Any
) -> None:
    make_image(folder / "z.tif")
    cut_short(folder / "z.tif")
    assert batch("--no-provenance").code == 7
    shutil.copytree(tmp_path / "out", tmp_path / "plain")
    result = batch("--no-provenance", "--overwrite", "--dask", workers.scheduler_address)
    assert result.code == 7 and "1 of 4 scenes failed" in result.err
    assert files(tmp_path / "out") == set(NAMES) and alike(tmp_path / "out", tmp_path / "plain", NAMES)
    assert Counter(states(tmp_path / "out")) == {"done": 6, "failed": 2}
    assert batch("--no-provenance", "--skip-existing").code == 7
    assert Counter(states(tmp_path / "out"))["skipped"] == 3


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_no_scene(
    tmp_path: Path, tiny_weights: Path, workers: Any
) -> None:
    source, out = images(tmp_path / "in", 6), tmp_path / "out"
    process = start(source, out, tiny_weights, "--no-provenance", "--dask", workers.scheduler_address)
    wait_for("a temporary", process, lambda: list(out.glob(".*.part.tif")))
    owner = ProcessId.of(next(iter(out.glob(".*.part.tif"))).name)
    assert owner is not None and owner.pid != process.pid
    os.kill(owner.pid, signal.SIGKILL)
    code, told = finish(process)
    assert code == 0, told
    assert Counter(states(out)) == {"done": 6}
    assert not list(out.rglob("*.lock")) and not list(out.rglob(".*.part*"))
    assert finish(start(source, tmp_path / "alone", tiny_weights, "--no-provenance"))[0] == 0
    assert alike(out, tmp_path / "alone", files(tmp_path / "alone"))


@pytest.mark.slow
def test_a_signal_has_the_workers_leave_what_they_have_begun(
    tmp_path: Path, tiny_weights: Path, workers: Any
) -> None:
    source, out = images(tmp_path / "in", 8), tmp_path / "out"
    process = start(source, out, tiny_weights, "--dask", workers.scheduler_address)
    done = out / ".dehazexl" / "log.ndjson"
    wait_for("a result", process, lambda: done.exists() and list(out.glob(".*.part.tif")))
    os.kill(process.pid, signal.SIGTERM)
    code, told = finish(process)
    assert code == 143 and "stopped by SIGTERM" in told
    assert not list(out.rglob("*.lock")) and not list(out.rglob(".*.part*"))
    finished = [Path(line["output"]).name for line in log_of(out) if line["state"] == "done"]
    assert sorted(finished) == sorted(files(out)) and len(finished) < 8
    again = start(source, out, tiny_weights, "--skip-existing", "--dask", workers.scheduler_address)
    assert finish(again)[0] == 0  # the workers are as good as before
    assert Counter(states(out))["done"] == 8


@pytest.mark.slow
def test_a_cluster_for_one_batch_is_made_here(batch: Callable[..., Result], tmp_path: Path) -> None:
    assert batch("--dask", "local", "--jobs", "2").code == 0
    assert files(tmp_path / "out") == set(NAMES)


class Scheduler:
    """Stands in for a client: notes what is given to it."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = resources
        self.given: list[dict[str, Any]] = []

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        hosts = [
            {"resources": each, "host": f"host{number % 2}"} for number, each in enumerate(self.resources)
        ]
        return {"workers": dict(enumerate(hosts))}

    def submit(self, function: object, setup: WorkerConfig, job: Job, batch: str, **how: Any) -> None:
        self.given.append({"setup": setup, "job": job, **how})


def given(scheduler: Scheduler, device: str = "auto") -> dict[str, Any]:
    setup = WorkerConfig(RunConfig(EngineOptions(device=device)))
    DaskBatchExecutor(setup, "tcp://x:1")._submitter(scheduler)(Job(Scene("a.tif", Path("out/a.tif"), 1)))  # type: ignore[arg-type]
    (one,) = scheduler.given
    return one


def test_scenes_go_to_workers_that_have_a_gpu() -> None:
    assert given(Scheduler({"GPU": 1}, {}))["resources"] == {"GPU": 1}
    assert given(Scheduler({"GPU": 1}, {}), "cpu")["resources"] is None
    assert given(Scheduler({}, {}))["resources"] is None


def test_workers_on_one_machine_share_it_and_find_files_wherever_they_are() -> None:
    one = given(Scheduler({}, {}, {}))
    assert one["setup"].share == 2
    assert one["job"].scene == Scene(os.path.abspath("a.tif"), Path("out/a.tif").absolute(), 1)
    setup = WorkerConfig(RunConfig(selection=Selection(mask="m.tif")), weights=Path("w.safetensors"))
    full = named_in_full(setup)
    assert full.config.selection.mask == os.path.abspath("m.tif")
    assert full.weights == Path("w.safetensors").absolute()


def test_a_worker_loads_its_model_once(
    folder: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dehazexl_cli.processors.count", torch.get_num_threads)
    setup = WorkerConfig(RunConfig(), weights=tiny_weights)
    loaded = connection.kept(setup, connection.modified(tiny_weights))
    monkeypatch.setattr(WorkerConfig, "load", lambda setup: pytest.fail("it is loaded again"))
    for number in range(2):
        job = Job(Scene(str(folder / "a.tif"), tmp_path / f"{number}.tif", 1))
        outcome = dask.dehaze(setup, job, "batch")
        assert outcome is not None and outcome.report["weights_sha256"] == loaded.sha256
    connection.cancel("ended")
    assert dask.dehaze(setup, Job(Scene(str(folder / "a.tif"), tmp_path / "x.tif", 1)), "ended") is None
    assert not (tmp_path / "x.tif").exists()


def test_a_worker_that_is_alone_on_its_machine_computes_on_all_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dask starts its workers with OMP_NUM_THREADS=1."""
    before = torch.get_num_threads()
    monkeypatch.setattr("dehazexl_cli.processors.count", lambda: 6)
    monkeypatch.setattr(WorkerConfig, "load", lambda setup: setup)
    try:
        for share, threads in ((1, 6), (2, 3), (7, 1)):
            connection.kept(WorkerConfig(RunConfig(), share=share), 0)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
        connection._KEPT.clear()


def test_without_dask_it_is_said_how_to_get_it(
    batch: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = batch("--dask", "local", "-q")
    assert result.code == 2 and "pip install 'dehazexl[dask]'" in result.err


def test_a_scheduler_that_does_not_answer_is_exit_6(
    batch: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    result = batch("--dask", "tcp://127.0.0.1:1", "-q")
    assert result.code == 6 and "no Dask scheduler answers" in result.err


@pytest.mark.parametrize("arguments", [["--gpus", "0"], ["--jobs", "2"]])
def test_a_cluster_has_its_own_processes(batch: Callable[..., Result], arguments: list[str]) -> None:
    result = batch("--dask", "tcp://x:8786", *arguments)
    assert result.code == 2 and "do not go together" in result.err
