"""Batches as processes: several at once, killed, stopped; nothing is lost, nothing half done is left."""

from __future__ import annotations

import os
import signal
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from batch import COMMAND, SETTLED, resident_sizes
from batches import alike, files, finish, log_of, make_image, start, states, wait_for

from dehazexl_cli.batch import executors
from dehazexl_cli.batch.executors import ProcessExecutor, shared_out
from dehazexl_cli.batch.results import Job, JobResult, State
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.config import EngineOptions, RunConfig
from dehazexl_cli.errors import UsageError, WeightsError
from dehazexl_cli.worker_config import WorkerConfig

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def fragile(pipe: Connection, setup: object) -> None:
    """Stands in for a process that dehazes: scenes named so kill it, the first time or every time."""
    while (job := pipe.recv()) is not None:
        source = Path(job.scene.source)
        if source.name.startswith("poison") or (source.name.startswith("fragile") and not source.exists()):
            source.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send(JobResult(job.scene, State.done, {"seconds": {"all": float(os.getpid())}}))


def hopeless(pipe: Connection, setup: object) -> None:
    """Stands in for a process that cannot even begin."""
    pipe.send(WeightsError("no weights", "get some"))


def run_pool(names: list[str], folder: Path, workers: int = 2) -> list[JobResult]:
    told: list[JobResult] = []
    waiting = iter([Job(Scene(str(folder / name), folder / "out" / name, 1)) for name in names])
    ProcessExecutor([WorkerConfig(None)] * workers)(lambda wait: next(waiting, None), told.append)  # type: ignore[arg-type]
    return told


def test_a_scene_that_kills_its_process_fails_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "work", fragile)
    names = ["fragile0", "1", "2", "poison3", "4", "5", "poison6", "7"]
    told = run_pool(names, tmp_path)
    assert sorted(Path(outcome.scene.source).name for outcome in told) == sorted(names)
    failed = {Path(outcome.scene.source).name: outcome for outcome in told if outcome.why}
    assert failed.keys() == {"poison3", "poison6"}
    assert "SIGKILL" in failed["poison3"].why and "--max-ram" in failed["poison3"].hint


def test_all_processes_get_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "work", fragile)
    told = run_pool([str(number) for number in range(12)], tmp_path, workers=3)
    assert len(told) == 12
    assert len({outcome.seconds for outcome in told}) == 3


def test_what_no_process_can_do_is_raised_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "work", hopeless)
    with pytest.raises(WeightsError, match="no weights") as caught:
        run_pool(["0", "1"], tmp_path)
    assert caught.value.hint == "get some"


def test_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="for the CPU"):
        shared_out(WorkerConfig(RunConfig()), 2, ())
    assert len(shared_out(WorkerConfig(RunConfig(EngineOptions(device="cpu"))), 2, ())) == 2
    assert len(shared_out(WorkerConfig(RunConfig()), 1, ())) == 1


def test_processes_share_processors(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dehazexl_cli.processors.count", lambda: 10)
    before = torch.get_num_threads()
    try:
        (setup, *others) = shared_out(WorkerConfig(RunConfig(), weights=tiny_weights), 4, ())
        setup.load()
        assert (len(others), torch.get_num_threads()) == (3, 2)
    finally:
        torch.set_num_threads(before)


def children(pid: int) -> list[int]:
    """The processes that dehaze for a batch."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name or path.suffix == ".lock"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_signal_ends_a_batch_with_nothing_half_done(
    tmp_path: Path, tiny_weights: Path, number: signal.Signals, jobs: str
) -> None:
    out = tmp_path / "out"
    for index in range(8):
        make_image(tmp_path / "in" / f"{index:02}.tif", 500, 500, index)
    process = start(tmp_path / "in", out, tiny_weights, "--jobs", jobs)
    wait_for("a temporary", process, lambda: list(out.glob("[!.]*.tif")) and list(out.glob(".*.part.tif")))
    os.kill(process.pid, number)
    code, told = finish(process)
    assert code == 128 + number
    assert "stopped by" in told.splitlines()[-2] and "untried" in told
    assert temporaries(out) == []
    done = [Path(line["output"]).name for line in log_of(out) if line["state"] == "done"]
    assert sorted(done) == sorted(files(out)) and 0 < len(done) < 8
    assert finish(start(tmp_path / "in", out, tiny_weights, "--skip-existing"))[0] == 0
    assert Counter(states(out)) == {"done": 8, "skipped": len(done)}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_killed_process_costs_no_scene(tmp_path: Path, tiny_weights: Path) -> None:
    out = tmp_path / "out"
    for index in range(6):
        make_image(tmp_path / "in" / f"{index}.tif", 500, 500, index)
    process = start(tmp_path / "in", out, tiny_weights, "--jobs", "2", "--no-provenance")
    wait_for("a temporary", process, lambda: list(out.glob(".*.part.tif")))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert finish(process)[0] == 0
    assert Counter(states(out)) == {"done": 6}
    assert temporaries(out) == []
    alone = tmp_path / "alone"
    assert finish(start(tmp_path / "in", alone, tiny_weights, "--no-provenance"))[0] == 0
    assert files(alone) <= files(out)
    assert alike(out, alone, files(alone))


@pytest.mark.slow
def test_two_batches_over_one_folder_do_each_scene_once(tmp_path: Path, tiny_weights: Path) -> None:
    out = tmp_path / "out"
    for index in range(20):
        make_image(tmp_path / "in" / f"{index:02}.tif", 200, 200, index)
    both = [start(tmp_path / "in", out, tiny_weights, "--skip-existing") for _ in range(2)]
    assert [finish(process)[0] for process in both] == [0, 0]
    lines = log_of(out)
    done = Counter(line["output"] for line in lines if line["state"] == "done")
    assert len(done) == 20 and set(done.values()) == {1}
    assert len({line["pid"] for line in lines if line["state"] == "done"}) == 2, "one of them did everything"
    assert len(lines) == 40 and temporaries(out) == []


@pytest.mark.slow
def test_a_batch_that_was_killed_is_finished_by_the_next(tmp_path: Path, tiny_weights: Path) -> None:
    out = tmp_path / "out"
    for index in range(6):
        make_image(tmp_path / "in" / f"{index}.tif", 700, 700, index)
    process = start(tmp_path / "in", out, tiny_weights)
    wait_for("a temporary", process, lambda: list(out.glob("[!.]*.tif")) and list(out.glob(".*.part.tif")))
    process.kill()
    finish(process)
    assert any(path.suffix == ".lock" for path in temporaries(out))
    assert finish(start(tmp_path / "in", out, tiny_weights, "--skip-existing"))[0] == 0
    assert len([name for name in files(out) if not name.startswith(".")]) == 6
    assert temporaries(out) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads memory from /proc")
def test_memory_does_not_grow_over_five_hundred_scenes(tmp_path: Path, tiny_weights: Path) -> None:
    for index in range(500):
        make_image(tmp_path / "in" / f"{index:03}.tif", 96, 96, index)
    options = ("--weights", str(tiny_weights), "-q", "--no-provenance")
    sizes = resident_sizes([*COMMAND, "batch", str(tmp_path / "in"), str(tmp_path / "out"), *options])
    assert len(sizes) == 500
    assert max(sizes[SETTLED:]) - sizes[SETTLED] <= 30e6
