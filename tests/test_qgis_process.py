"""The plugin for QGIS, with QGIS: its algorithms by qgis_process, where that is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pack_plugin
import pytest
import rasterio
from helpers.programs import make_program

LIMIT_SECONDS = 600  # what takes seconds takes minutes on a machine with other work
ROOT = Path(__file__).resolve().parents[1]
QGIS_PROCESS = shutil.which("qgis_process.bin") or shutil.which(
    "qgis_process"
)  # Debian's wrapper of it is broken
SCENE = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}


@pytest.fixture(scope="module")
def start_qgis(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Starts qgis_process with the zipped plugin, a command to name in its settings, and arguments."""
    if QGIS_PROCESS is None:
        pytest.skip("no qgis_process on PATH: install QGIS to test the plugin in it")
    home = tmp_path_factory.mktemp("qgis")
    with zipfile.ZipFile(pack_plugin.pack(home)) as archive:
        archive.extractall(home / "plugins")
    (home / "run").mkdir(mode=0o700)
    settings = home / "config" / "profiles" / "default" / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "HOME": str(home),
        "QT_QPA_PLATFORM": "offscreen",
        "XDG_RUNTIME_DIR": str(home / "run"),
        "QGIS_PLUGINPATH": str(home / "plugins"),
        "QGIS_CUSTOM_CONFIG_PATH": str(home / "config"),
    }

    def start(program: Path, *arguments: object) -> subprocess.Popen[str]:
        settings.write_text(
            f"[PythonPlugins]\ndehazexl=true\n[Processing]\nConfiguration\\DEHAZEXL_COMMAND={program}\n"
        )
        line = [QGIS_PROCESS, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(line, env=environment, **pipes)  # type: ignore[call-overload]

    return start


@pytest.fixture
def dehazexl_program(tmp_path: Path) -> Path:
    """The command of this checkout."""
    return make_program(
        tmp_path / "bin" / "dehazexl",
        f"os.environ['PYTHONPATH'] = {str(ROOT)!r}\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'dehazexl_cli', *sys.argv[1:]])",
    )


def make_scene(path: Path, side: int) -> Path:
    pixels = np.random.default_rng(0).integers(50, 200, (3, side, side), dtype=np.uint8)
    with rasterio.open(
        path, "w", height=side, width=side, transform=rasterio.Affine(2, 0, 5e5, 0, -2, 4e6), **SCENE
    ) as file:
        file.write(pixels)
    return path


def test_qgis_lists_the_algorithms_and_their_parameters(start_qgis: Any, tmp_path: Path) -> None:
    said, _ = start_qgis(tmp_path / "none", "help", "dehazexl:dehazeraster").communicate(
        timeout=LIMIT_SECONDS
    )
    assert "Dehaze raster (dehazexl:dehazeraster)" in said
    for name in ("INPUT", "RED", "EXTENT", "MODEL", "STRENGTH", "MODE", "OUTPUT", "HAZE_MAP"):
        assert f"\n{name}: " in said
    listed, _ = start_qgis(tmp_path / "none", "list").communicate(timeout=LIMIT_SECONDS)
    for name in ("dehazeraster", "hazemap", "checkinstallation"):
        assert f"dehazexl:{name}" in listed


def test_dehaze_raster_gives_the_bytes_of_the_command(
    start_qgis: Any, dehazexl_program: Path, tmp_path: Path, bundled_weights: Path
) -> None:
    scene = make_scene(tmp_path / "in.tif", 120)
    out, reference = tmp_path / "out.tif", tmp_path / "reference.tif"
    options = ["--bands", "3,2,1", "--strength", "0.8", "--bbox", "500020,3999800,500220,3999980"]
    line = [dehazexl_program, "run", scene, reference, *options, "--no-provenance", "--quiet"]
    subprocess.run(list(map(str, line)), check=True)
    parameters = ["RED=3", "GREEN=2", "BLUE=1", "STRENGTH=0.8", "OPTIONS=--no-provenance"]
    parameters += ["EXTENT=500020,500220,3999800,3999980 [EPSG:32633]", f"INPUT={scene}", f"OUTPUT={out}"]
    process = start_qgis(dehazexl_program, "run", "dehazexl:dehazeraster", *parameters)
    said, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, said
    assert out.read_bytes() == reference.read_bytes()
    assert "100 - done" in said
    assert "out.tif: 100 x 90 pixels in" in said


def test_an_input_that_cannot_be_dehazed_gives_the_words_of_the_command(
    start_qgis: Any, dehazexl_program: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "complex.tif"
    with rasterio.open(scene, "w", height=9, width=9, **(SCENE | {"dtype": "complex64"})) as file:
        file.write(np.zeros((3, 9, 9), np.complex64))
    wanted = (f"INPUT={scene}", f"OUTPUT={tmp_path / 'out.tif'}")
    process = start_qgis(dehazexl_program, "run", "dehazexl:dehazeraster", *wanted)
    said, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 1
    assert f"{scene}: complex pixels (complex64) are not supported\nTry: convert them to amplitudes" in said
    assert not (tmp_path / "out.tif").exists()


def test_a_signal_to_qgis_ends_the_command_and_leaves_nothing(
    start_qgis: Any, dehazexl_program: Path, tmp_path: Path, bundled_weights: Path
) -> None:
    scene = make_scene(tmp_path / "in.tif", 3000)
    (tmp_path / "results").mkdir()
    wanted = (f"INPUT={scene}", f"OUTPUT={tmp_path / 'results' / 'out.tif'}")
    process = start_qgis(dehazexl_program, "run", "dehazexl:dehazeraster", *wanted)
    limit = time.monotonic() + LIMIT_SECONDS
    while not list((tmp_path / "results").iterdir()):  # the command has begun to write
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert "nothing was written" in said
    assert not list((tmp_path / "results").iterdir())


def test_haze_map_asks_for_an_update_of_a_command_that_has_none(start_qgis: Any, tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "in.tif", 32)
    wanted = ("run", "dehazexl:hazemap", f"INPUT={scene}", f"OUTPUT={tmp_path / 'map.tif'}")
    old = "print('dehazexl 0.0.1') if sys.argv[1:] == ['--version'] else sys.exit(2)"
    said, _ = start_qgis(make_program(tmp_path / "old", old), *wanted).communicate(timeout=LIMIT_SECONDS)
    assert "is dehazexl 0.0.1, which has no `haze` yet\nTry: update dehazexl" in said
    new = "print('--map FILE --overwrite') if '--help' in sys.argv else sys.stderr.write(' '.join(sys.argv))"
    said, _ = start_qgis(make_program(tmp_path / "new", new), *wanted).communicate(timeout=LIMIT_SECONDS)
    assert f"haze {scene} --map {tmp_path / 'map.tif'} --overwrite\n" in said
