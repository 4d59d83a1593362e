"""The examples of batch work run as they are shown."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from batches import NAMES, ROOT, files, log_of, states
from rasterio.transform import from_origin
from rasterio_windows import cut_chips

EXAMPLES = ROOT / "examples"
PATIENCE = 300  # seconds
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def run(*command: object, **variables: str) -> str:
    """Run an example where `dehazexl` and `dask` are those of this environment; what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def needs(program: str) -> None:
    if shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip(f"{program} is not here")


@pytest.mark.slow
def test_the_tasks_of_a_slurm_array_do_a_folder_together(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    out = tmp_path / "out"
    for task in ("0", "1"):
        array = {
            f"SLURM_ARRAY_TASK_{key}": value for key, value in (("COUNT", "2"), ("MIN", "0"), ("MAX", "1"))
        }
        array |= {"SLURM_ARRAY_TASK_ID": task, "SLURM_MEM_PER_NODE": "4096"}
        run("bash", EXAMPLES / "slurm_array.sh", folder, out, "--weights", tiny_weights, **array)
    assert files(out) == set(NAMES)
    assert states(out) == ["done"] * 3


@pytest.mark.slow
def test_gnu_parallel_deals_out_a_folder(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    needs("parallel")
    (folder / "sub").rename(folder / "a name")
    run(EXAMPLES / "gnu_parallel.sh", folder, tmp_path / "out", 2, "--weights", tiny_weights)
    assert files(tmp_path / "out") == {name.replace("sub/", "a name/") for name in NAMES}


@pytest.mark.slow
def test_make_makes_again_what_is_newer(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    needs("make")
    out = tmp_path / "out"
    words = [
        "make",
        "-f",
        EXAMPLES / "folder.mk",
        f"IN={folder}",
        f"OUT={out}",
        f"OPTIONS=--weights {tiny_weights}",
    ]
    run(*words)
    assert files(out) == {"a.tif", "sub/b.tif", ".made"}
    run(*words)
    assert len(log_of(out)) == 2
    made = (out / ".made").stat().st_mtime
    os.utime(folder / "a.tif", (made + 5, made + 5))
    run(*words)
    assert [Path(line["output"]).name for line in log_of(out)[2:]] == ["a.tif"]


@pytest.mark.slow
def test_dask_workers_are_started_and_ended(folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    needs("dask")
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    options = {"PORT": port, "OPTIONS": f"--weights {tiny_weights}"}
    run(EXAMPLES / "dask_machines.sh", folder, tmp_path / "out", "local", "local", **options)
    assert files(tmp_path / "out") == set(NAMES)
    run(EXAMPLES / "dask_machines.sh", folder / "a.tif", tmp_path / "a.tif", "local", "local", **options)
    assert (tmp_path / "a.tif").exists()
    with socket.socket() as gone:
        assert gone.connect_ex((socket.gethostname(), int(port))) != 0, "the scheduler is still there"


def test_chips_of_a_mosaic_have_their_own_place(tmp_path: Path, tiny_weights: Path) -> None:
    mosaic = tmp_path / "mosaic.tif"
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8"}
    values = np.random.default_rng(0).integers(60, 200, (3, 300, 400), dtype=np.uint8)
    with rasterio.open(
        mosaic, "w", crs="EPSG:32633", transform=from_origin(4e5, 5e6, 2, 2), **profile
    ) as file:
        file.write(values)
    places = [(4e5 + 400, 5e6 - 300), (4e5 + 1, 5e6 - 1)]  # in the middle, and in a corner
    chips = cut_chips(mosaic, tmp_path / "chips", places, size=64, margin=32, weights=tiny_weights)
    with rasterio.open(chips[0]) as chip, rasterio.open(mosaic) as whole:
        assert chip.shape == (64, 64)
        window = whole.window(*chip.bounds)
        assert (round(window.col_off), round(window.row_off)) == (200 - 32, 150 - 32)
        assert not np.array_equal(chip.read(), whole.read(window=window))
    with rasterio.open(chips[1]) as corner:
        assert (corner.transform.c, corner.transform.f) == (4e5, 5e6)
