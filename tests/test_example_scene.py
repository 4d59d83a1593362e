"""The example scene: the same for the same seed, where it says it is, and hazy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HEIGHT, WIDTH = 192, 257


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, EXAMPLES / script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make(folder: Path, seed: int) -> Path:
    run("make_scene.py", folder, "--height", str(HEIGHT), "--width", str(WIDTH), "--seed", str(seed))
    return folder


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("scene"), seed=3)


@pytest.mark.parametrize("name", ["clear.tif", "hazy.tif"])
def test_scene_has_the_stated_size_and_place(scene: Path, name: str) -> None:
    with rasterio.open(scene / name) as source:
        assert (source.count, source.height, source.width) == (3, HEIGHT, WIDTH)
        assert source.dtypes == ("uint8",) * 3
        assert source.crs.to_epsg() == 32633
        assert source.res == (0.5, 0.5)
        assert [band.name for band in source.colorinterp] == ["red", "green", "blue"]
        assert source.profile["tiled"]
        assert source.profile["compress"] == "deflate"


def test_same_seed_gives_the_same_scene_and_another_seed_another(scene: Path, tmp_path: Path) -> None:
    again, other = make(tmp_path / "again", seed=3), make(tmp_path / "other", seed=4)
    for name in ("clear.tif", "hazy.tif"):
        assert np.array_equal(pixels(scene / name), pixels(again / name))
        assert not np.array_equal(pixels(scene / name), pixels(other / name))


def test_haze_takes_contrast_and_lifts_the_dark_channel(scene: Path) -> None:
    clear, hazy = pixels(scene / "clear.tif"), pixels(scene / "hazy.tif")
    assert (hazy.std(axis=(1, 2)) < 0.8 * clear.std(axis=(1, 2))).all()
    assert hazy.min(axis=0).mean() > clear.min(axis=0).mean() + 40


def test_haze_is_uneven(scene: Path) -> None:
    clear, hazy = pixels(scene / "clear.tif").astype(float), pixels(scene / "hazy.tif").astype(float)
    lift = (hazy - clear).mean(axis=0)
    blocks = lift[:, :256].reshape(3, 64, 4, 64).mean(axis=(1, 3))
    assert np.ptp(blocks) > 20


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_comparison_shows_before_and_after_beside_each_other(scene: Path, tmp_path: Path) -> None:
    picture = tmp_path / "both.png"
    told = run("before_after.py", scene / "hazy.tif", scene / "clear.tif", picture, "--width", "204")
    assert told.strip() == str(picture)
    both = pixels(picture)
    assert both.shape == (3, 75, 204)
    assert (both[:, :, 100:104] == 255).all()
    assert both[:, :, :100].mean() > both[:, :, 104:].mean() + 20
