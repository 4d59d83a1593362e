"""The example that watches a folder: its script does what is new and no more, and systemd takes its units."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "folder"


@pytest.fixture
def environment(tmp_path: Path, tiny_weights: Path) -> dict[str, str]:
    """A shell that finds dehazexl, and settings that make it quick."""
    program = tmp_path / "bin" / "dehazexl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dehazexl_cli "$@"\n')
    program.chmod(0o755)
    settings = tmp_path / "settings.toml"
    settings.write_text(f'weights = "{tiny_weights}"\n')
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DEHAZEXL_CONFIG": str(settings)}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_is_new_is_dehazed_and_what_fails_does_not_stop_the_others(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    hazy, clear = tmp_path / "hazy scenes", tmp_path / "clear"
    hazy.mkdir()
    clear.mkdir()

    def dehaze_new() -> subprocess.CompletedProcess[str]:
        command = [str(FOLDER / "dehaze_new.sh"), str(hazy), str(clear)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert dehaze_new().returncode == 0  # nothing is there
    (hazy / "a.tif").write_text("half a scene")
    shape = {"count": 3, "height": 70, "width": 90, "dtype": "uint8"}
    with rasterio.open(hazy / "b.tif", "w", driver="GTiff", **shape) as file:
        file.write(np.random.default_rng(0).integers(50, 200, (3, 70, 90), dtype=np.uint8))
    done = dehaze_new()
    assert done.returncode == 7
    assert done.stderr.startswith(f"error: {hazy / 'a.tif'}")
    assert [path.name for path in clear.iterdir()] == ["b.tif"]
    (hazy / "a.tif").unlink()
    before = (clear / "b.tif").stat().st_mtime_ns
    assert dehaze_new().returncode == 0
    assert (clear / "b.tif").stat().st_mtime_ns == before


def test_it_says_how_it_is_called() -> None:
    done = subprocess.run([str(FOLDER / "dehaze_new.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    # It looks for the program, in the home of who asks.
    program = tmp_path / ".local" / "bin" / "dehaze_new.sh"
    program.parent.mkdir(parents=True)
    shutil.copy(FOLDER / "dehaze_new.sh", program)
    units = [shutil.copy(path, tmp_path) for path in sorted(FOLDER.glob("dehazexl-folder.*"))]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", *units],
        env=os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "dehazexl-folder" in done.stderr) == (0, False), done.stderr
