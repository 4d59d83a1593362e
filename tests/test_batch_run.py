"""`dehazexl run` with several inputs, and how the scenes of a batch overlap in one process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import NAMES, files, make_image
from conftest import Result

from dehazexl_cli import files as one_file
from dehazexl_cli.batch import deferred
from dehazexl_cli.batch.executors import InProcessExecutor, WorkerConfig
from dehazexl_cli.batch.results import Job, JobResult
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.config import EngineOptions, RunConfig
from dehazexl_cli.engine import memory
from dehazexl_cli.models import loading

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


PATIENCE = 20  # seconds


def test_run_takes_several_images_and_a_folder(
    dehazexl: Command, folder: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load_model = [], loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *names: loads.append(names) or load_model(*names))
    inputs = [folder / name for name in NAMES]
    result = dehazexl("run", *inputs, tmp_path / "clear", "--weights", tiny_weights, "--print-paths", "-q")
    assert (result.code, len(loads)) == (0, 1)
    assert result.out.splitlines() == [str(tmp_path / "clear" / name) for name in ("a.tif", "b.tif", "c.png")]
    assert files(tmp_path / "clear") == {"a.tif", "b.tif", "c.png"}


def test_run_puts_one_image_into_a_folder_that_is_there(
    dehazexl: Command, folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    for target in (f"{tmp_path / 'new'}/", tmp_path / "new"):
        run = ("run", folder / "a.tif", target, "--weights", tiny_weights, "--overwrite")
        assert dehazexl(*run).code == 0
        assert files(tmp_path / "new") == {"a.tif"}


def test_run_prints_the_path_of_its_result(
    dehazexl: Command, folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    run = ("run", folder / "a.tif", tmp_path / "o.tif", "--weights", tiny_weights, "-q", "--print-paths")
    assert dehazexl(*run) == Result(0, f"{tmp_path / 'o.tif'}\n", "")


@pytest.mark.parametrize(
    ("target", "arguments", "word"),
    [("out.tif", [], "cannot all become"), ("out", ["--report", "r.json"], "--report is for one image")],
)
def test_run_refuses_what_makes_no_sense_for_several(
    dehazexl: Command, folder: Path, tmp_path: Path, target: str, arguments: list[str], word: str
) -> None:
    result = dehazexl("run", folder / "a.tif", folder / "sub/b.tif", tmp_path / target, *arguments)
    assert result.code == 2 and word in result.err
    assert not (tmp_path / target).exists()


def test_run_refuses_an_image_as_folder(dehazexl: Command, folder: Path) -> None:
    result = dehazexl("run", folder / "a.tif", folder / "sub/b.tif", folder / "sub/deep/c.png", "-q")
    assert result.code in (2, 4) and "folder" in result.err
    assert files(folder) == set(NAMES)


def jobs_for(folder: Path, out: Path, count: int) -> list[Job]:
    out.mkdir()
    return [
        Job(Scene(str(make_image(folder / f"{n}.tif", seed=n)), out / f"{n}.tif", 1)) for n in range(count)
    ]


def test_neighbours_overlap(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step waits for one of a neighbour that can only be under way if they overlap."""
    opened, computing, PATIENCE = (
        [threading.Event() for _ in range(3)],
        [threading.Event() for _ in range(3)],
        20,
    )
    open_scene, compute, publish = one_file.open_scene, one_file.compute, deferred.publish

    def number(path: str) -> int:
        return int(Path(path).stem)

    def watched_open(source: str, config: RunConfig) -> Any:
        opened[number(source)].set()
        return open_scene(source, config)

    def watched_compute(scene: Any, target: str, *rest: Any) -> Any:
        computing[number(target)].set()
        after = number(target) + 1
        assert after == len(opened) or opened[after].wait(PATIENCE), "the next is not opened meanwhile"
        return compute(scene, target, *rest)

    def watched_publish(computed: Any) -> Any:
        after = number(computed.target) + 1
        assert after == len(opened) or computing[after].wait(PATIENCE), "the next is not computed meanwhile"
        return publish(computed)

    for module, name, function in (
        (one_file, "open_scene", watched_open),
        (one_file, "compute", watched_compute),
        (deferred, "publish", watched_publish),
    ):
        monkeypatch.setattr(module, name, function)
    setup = WorkerConfig(RunConfig(), weights=tiny_weights)
    waiting, told = iter(jobs_for(tmp_path / "in", tmp_path / "out", 3)), list[JobResult]()
    InProcessExecutor(setup, setup.load())(lambda wait: next(waiting, None), told.append)
    assert [outcome.why for outcome in told] == ["", "", ""]
    assert files(tmp_path / "out") == {"0.tif", "1.tif", "2.tif"}


def test_processes_share_the_memory(tmp_path: Path, tiny_weights: Path) -> None:
    image = str(make_image(tmp_path / "a.tif"))
    given = WorkerConfig(RunConfig(EngineOptions(max_ram=8 << 30)), weights=tiny_weights, share=4).open(image)
    assert given.options.max_ram == 2 << 30
    free = WorkerConfig(RunConfig(), weights=tiny_weights, share=4).open(image)
    alone = WorkerConfig(RunConfig(), weights=tiny_weights).open(image)
    assert free.options.max_ram and alone.options.max_ram is None
    for opened in (given, free, alone):
        opened.reader.close()


def test_memory_that_a_process_holds_is_part_of_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 8000)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 1000)
    assert memory.share_of_host(4) == int(memory.FREE_SHARE * 3000)
    assert memory.share_of_host() == int(memory.FREE_SHARE * 9000)


def test_a_batch_takes_several_devices(batch: Command, tmp_path: Path) -> None:
    assert batch("--device", "cpu,cpu").code == 0
    report = json.loads((tmp_path / "out" / ".dehazexl" / "reports" / "a.tif.json").read_text())
    assert report["device"] == "cpu,cpu"
    assert batch("--device", "cpu,gpu", "--overwrite").code == 2


def test_a_run_of_one_image_loads_nothing_of_batches(tmp_path: Path, tiny_weights: Path) -> None:
    image = make_image(tmp_path / "a.tif")
    words = ["dehazexl", "run", str(image), str(tmp_path / "out.tif"), "--weights", str(tiny_weights), "-q"]
    code = (
        f"import sys; sys.argv = {words!r}\n"
        "from dehazexl_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "loaded = [name for name in sys.modules if name.startswith('dehazexl_cli.batch')]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out.tif").exists()
