"""`dehazexl run --dask`: one scene on the workers of a cluster, with the bytes of one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rasterio
from batches import ROOT, finish, make_image, wait_for
from conftest import Result, as_from_a_terminal, names
from metadata_table import POINTS
from test_mosaic import check_equal
from test_stream import scene

from dehazexl_cli.atomic import ProcessId
from dehazexl_cli.cluster import dask
from dehazexl_cli.cluster.connection import arrived, sight, surveyed, versions
from dehazexl_cli.cluster.dask import DaskPool, Task, scene_worker, shared_folder
from dehazexl_cli.cluster.scene import SceneSpec
from dehazexl_cli.config import RunConfig
from dehazexl_cli.errors import DeviceError, InputError, OutputError, WeightsError
from dehazexl_cli.raster import mosaic
from dehazexl_cli.worker_config import WorkerConfig

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
Command = Callable[..., Result]
FIXED = ("--no-provenance", "--device", "cpu", "--threads", "1")  # equal bits are for equal threads


@pytest.fixture
def hazy(tmp_path: Path) -> Path:
    """A scene with a border and a hole of nodata."""
    array = scene(600, 500, 3)
    array[:130] = array[400:500, 300:420] = 0
    profile = {"driver": "GTiff", "height": 600, "width": 500, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(tmp_path / "in.tif", "w", **profile, crs="EPSG:32633") as file:
        file.write(array.transpose(2, 0, 1))
    return tmp_path / "in.tif"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["tokens", "sum", "cog"])
def test_a_cluster_gives_the_bytes_of_one_process(
    way: str, dehazexl: Command, hazy: Path, tmp_path: Path, tiny_weights: Path, workers: Any
) -> None:
    options = {
        "tokens": ("--weights", tiny_weights),
        "sum": ("--model", "mgbl-s"),
        "cog": ("--weights", tiny_weights, "-f", "COG", "--window", "100,50,300,400", "--context", "scene"),
    }[way]
    assert dehazexl("run", hazy, tmp_path / "plain.tif", *FIXED, *options).code == 0
    address = workers.scheduler_address
    done = dehazexl(
        "run", hazy, tmp_path / "shared.tif", *FIXED, *options, "--dask", address, "--progress", "json"
    )
    assert done.code == 0, done.err
    assert (tmp_path / "shared.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()
    assert names(tmp_path) == {"in.tif", "plain.tif", "shared.tif"}
    phases = [phase for phase in ("encode", "bottleneck", "decode", "finish") if f'"{phase}"' in done.err]
    assert phases == ["encode", "bottleneck", "decode", "finish"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["tokens", "sum"])
def test_a_cluster_leaves_a_scene_in_parts_that_give_what_one_file_would(
    way: str,
    dehazexl: Command,
    hazy: Path,
    tmp_path: Path,
    tiny_weights: Path,
    workers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mosaic, "PART_BYTES", 1)
    options = {"tokens": ("--weights", tiny_weights), "sum": ("--model", "mgbl-s")}[way]
    if way == "sum":
        hazy = with_points_and_alpha(hazy)
    for plain in ("plain.tif", "plain.vrt"):
        assert dehazexl("run", hazy, tmp_path / plain, *FIXED, *options).code == 0
    command = ("run", hazy, tmp_path / "shared.vrt", *FIXED, *options, "--dask", workers.scheduler_address)
    for more in ((), ("--overwrite", "--overviews")):
        done = dehazexl(*command, *more)
        assert done.code == 0, done.err
        check_equal(tmp_path / "plain.tif", tmp_path / "shared.vrt")
        parts = [sorted(tmp_path.glob(f"{name}.parts/*/*.tif")) for name in ("plain", "shared")]
        assert len(parts[0]) == len(parts[1]) == 3
        for one, other in zip(*parts, strict=True):
            assert one.name == other.name and one.read_bytes() == other.read_bytes()
    made = {"plain.tif", "plain.vrt", "plain.parts", "shared.vrt", "shared.parts", "shared.vrt.ovr"}
    assert names(tmp_path) == {hazy.name, *made}
    again = dehazexl(*command)
    assert again.code == 4 and "exists already" in again.err


def with_points_and_alpha(path: Path) -> Path:
    """The same scene with what is no ground in an alpha band, placed by ground control points."""
    with rasterio.open(path) as file:
        pixels, alpha = file.read(), file.dataset_mask()
    profile = {"driver": "GTiff", "height": 600, "width": 500, "count": 4, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, photometric="RGB", alpha="YES") as file:
        file.gcps = (POINTS, "EPSG:4326")
        file.write(pixels, [1, 2, 3])
        file.write(alpha, 4)
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dehazexl_cli", "run", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_from_a_terminal,
    )


def begun(folder: Path, step: str) -> bool:
    """Whether a row has been through a step, and its file is still there."""
    return bool(list(folder.glob(f".shared.*team/*/{step}-*")))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["encode", "decode"])
def test_the_rows_of_a_worker_that_is_killed_are_done_by_another(
    step: str, dehazexl: Command, tmp_path: Path, tiny_weights: Path, workers: Any
) -> None:
    source = make_image(tmp_path / "in.tif", 600, 500)
    options = (*FIXED, "--weights", tiny_weights)
    assert dehazexl("run", source, tmp_path / "plain.tif", *options).code == 0
    process = start(
        source, tmp_path / "shared.tif", *options, "--dask", workers.scheduler_address, "--progress", "never"
    )
    wait_for(f"a row to {step}", process, lambda: begun(tmp_path, step))
    busy = [worker for worker in workers.scheduler.workers.values() if worker.processing]
    nanny = next(nanny for nanny in workers.workers.values() if nanny.worker_address == busy[0].address)
    os.kill(nanny.pid, signal.SIGKILL)
    code, told = finish(process)
    assert code == 0, told
    assert (tmp_path / "shared.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()
    assert names(tmp_path) == {"in.tif", "plain.tif", "shared.tif"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "out"), [("encode", "shared.tif"), ("decode", "shared.tif"), ("decode", "shared.vrt")]
)
def test_a_signal_has_the_workers_leave_their_rows(
    step: str, out: str, dehazexl: Command, tmp_path: Path, tiny_weights: Path, workers: Any
) -> None:
    source = make_image(tmp_path / "in.tif", 600, 500)
    command = (source, tmp_path / out, "--weights", tiny_weights, "--dask", workers.scheduler_address)
    process = start(*command)
    wait_for(f"a row to {step}", process, lambda: begun(tmp_path, step))
    process.send_signal(signal.SIGINT)
    code, told = finish(process)
    assert code == 130 and "stopped by Ctrl-C" in told
    assert names(tmp_path) == {"in.tif"}
    until = time.monotonic() + 20
    while any(worker.processing for worker in workers.scheduler.workers.values()):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert names(tmp_path) == {"in.tif"}
    assert dehazexl("run", *command).code == 0  # the workers are as good as before


@pytest.mark.slow
def test_a_cluster_for_one_scene_is_made_here_and_says_nothing(
    small_scene: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    out = tmp_path / "out.tif"
    with socket.socket() as other:
        with suppress(OSError):  # a cluster that runs here already has this port
            other.bind(("127.0.0.1", 8787))
            other.listen()
        code, told = finish(
            start(small_scene, out, "--weights", tiny_weights, "--dask", "local:2", "--resume", "-q")
        )
    assert (code, told) == (0, "")
    assert names(tmp_path) == {small_scene.name, "out.tif"}


class Client:
    """Stands in for a client whose workers say this of themselves."""

    def __init__(self, **says: object) -> None:
        self.says = says

    def run(self, function: object, *arguments: object, on_error: str) -> dict[str, object]:
        return self.says

    def wait_for_workers(self, count: int, timeout: float) -> None:
        raise TimeoutError

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {}}


def test_what_a_worker_lacks_is_said_before_any_work(tmp_path: Path) -> None:
    image, mine = str(make_image(tmp_path / "a.tif")), versions()
    assert sight(image, tmp_path) == mine
    with pytest.raises(OutputError, match="that is the same as here") as elsewhere:
        sight(image, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="does not see"):
        sight(str(tmp_path / "b.tif"), tmp_path)
    with pytest.raises(OutputError, match="worker b: there is no") as told:
        surveyed(Client(a=mine, b=elsewhere.value), image, tmp_path)  # type: ignore[arg-type]
    assert "--tmp-dir" in told.value.hint
    with pytest.raises(DeviceError, match="worker a cannot take part") as told:  # type: ignore[assignment]
        surveyed(Client(a=ModuleNotFoundError("no dehazexl_cli")), image, tmp_path)  # type: ignore[arg-type]
    assert "install the same dehazexl" in told.value.hint


def test_a_worker_of_another_version_is_a_warning(tmp_path: Path) -> None:
    mine = versions()
    (warning,) = surveyed(Client(a=mine, b=mine | {"torch": "1.0"}), "a.tif", tmp_path)  # type: ignore[arg-type]
    assert warning.startswith("worker b has torch 1.0, here ")


def test_a_scheduler_without_workers_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="has no workers") as told:
        arrived(Client(), "tcp://x:1")  # type: ignore[arg-type]
    assert "dask worker tcp://x:1" in told.value.hint


def test_workers_that_are_all_gone_are_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dask, "arrived", lambda client, address: {})
    alone = DaskPool(Client(), "tcp://x:1", WorkerConfig(RunConfig()), "a.tif", "0", tmp_path)  # type: ignore[arg-type]
    since = alone._lonely(None)
    monkeypatch.setattr(dask, "CONNECT_SECONDS", 0.0)
    with pytest.raises(DeviceError, match="are gone"):
        alone._lonely(since)


def test_other_weights_on_a_worker_are_refused(tmp_path: Path, tiny_weights: Path) -> None:
    task = Task(WorkerConfig(RunConfig(), weights=tiny_weights), "a.tif", "0" * 64)
    spec = SceneSpec(tmp_path, *[None] * 9)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="other weights"):
        scene_worker(task, spec)


@pytest.mark.slow
def test_an_error_on_a_worker_names_the_machine_and_ends_the_run(
    dehazexl: Command, hazy: Path, tmp_path: Path, tiny_weights: Path, workers: Any
) -> None:
    def forget() -> None:
        import dehazexl_cli.cluster.dask as there
        from dehazexl_cli.errors import WeightsError

        def lacking(*arguments: object) -> None:
            raise WeightsError("no such weights", "copy them")

        there.kept, there.known = lacking, there.kept  # type: ignore[assignment,attr-defined]

    def remember() -> None:
        import dehazexl_cli.cluster.dask as there

        there.kept = there.known  # type: ignore[attr-defined]

    out = tmp_path / "out.tif"
    with distributed.Client(workers) as client:
        client.run(forget)
        try:
            address = workers.scheduler_address
            result = dehazexl("run", hazy, out, *FIXED, "--weights", tiny_weights, "--dask", address)
        finally:
            client.run(remember)
    assert result.code == 5 and f"no such weights (on {socket.gethostname()})" in result.err
    assert names(tmp_path) == {"in.tif"}


def test_a_folder_that_a_killed_leader_left_is_removed_by_the_next(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mark = ProcessId.this()._replace(pid=ended.pid, born=1).mark()
    (tmp_path / f".out{mark}team" / "attempt").mkdir(parents=True)
    (tmp_path / f".out{mark}team" / "attempt" / "encode-1").touch()
    with shared_folder(str(tmp_path / "out.tif"), None) as folder:
        assert names(tmp_path) == {folder.name}
    assert not names(tmp_path)


def test_a_cluster_shares_one_image_only(dehazexl: Command, folder: Path, tmp_path: Path) -> None:
    result = dehazexl("run", folder / "a.tif", folder / "sub" / "b.tif", tmp_path, "--dask", "local")
    assert result.code == 2 and "dehazexl batch --dask" in result.err


@pytest.mark.parametrize("address", ["local:0", "local:x"])
def test_a_number_of_workers_is_a_number(
    dehazexl: Command, small_scene: Path, tmp_path: Path, tiny_weights: Path, address: str
) -> None:
    out = tmp_path / "out.tif"
    result = dehazexl("run", small_scene, out, "--weights", tiny_weights, "--dask", address)
    assert result.code == 2 and "local:4" in result.err
    assert names(tmp_path) == {small_scene.name}


def test_without_dask_a_scene_is_done_by_nobody(
    dehazexl: Command,
    small_scene: Path,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = dehazexl("run", small_scene, tmp_path / "o.tif", "--weights", tiny_weights, "--dask", "local:2")
    assert result.code == 2 and "pip install 'dehazexl[dask]'" in result.err


def test_one_image_by_one_process_loads_nothing_of_clusters_and_batches(
    small_scene: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    arguments = ["dehazexl", "run", small_scene, tmp_path / "o.tif", "-q", "--weights", tiny_weights]
    code = (
        "import atexit, sys\n"
        "strange = ('dehazexl_cli.batch', 'dehazexl_cli.cluster', 'distributed')\n"
        "atexit.register(lambda: print([name for name in sys.modules if name.startswith(strange)]))\n"
        f"sys.argv = {[str(each) for each in arguments]!r}\n"
        "from dehazexl_cli.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "o.tif").exists()
