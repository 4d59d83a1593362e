"""`dehazexl haze` and `run --haze-map`: maps that lie where the scene does, and shares that add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from batches import files, log_of
from conftest import Result
from rasterio.transform import from_origin

from dehazexl_cli.engine.haze import KINDS, NO_GROUND
from dehazexl_cli.haze_map import DESCRIPTION

Command = Callable[..., Result]
PLACE = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 2, 2)}
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def hazy(tmp_path: Path) -> Path:
    """Ground with shadows, the right half under a grey veil that lets half through; a corner is nodata."""
    rng = np.random.default_rng(0)
    ground = rng.integers(10, 200, (3, 50, 60), np.uint8).repeat(8, 1).repeat(8, 2) * 0.6
    ground[:, ::40] = 2
    ground[:, :, 240:] = 0.5 * ground[:, :, 240:] + 0.5 * 220
    ground[:, :100, :80] = 0
    pixels = np.maximum(ground, 1).astype(np.uint8)
    pixels[:, :100, :80] = 0
    path = tmp_path / "hazy.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=400, width=480, dtype="uint8", nodata=0, **PLACE
    ) as file:
        file.write(pixels)
    return path


def test_the_haze_of_a_scene_is_told_as_shares(dehazexl: Command, hazy: Path) -> None:
    result = dehazexl("haze", hazy, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["haze"]
    assert sum(found[kind] for kind in KINDS) == pytest.approx(1, abs=0.001)
    assert 0.6 < found["transmission"] < 0.95
    assert 0.25 < found["medium"] + found["light"] + found["dense"] < 0.75
    told = dehazexl("haze", hazy).out
    assert f"{found['transmission']:.0%} of the ground's light" in told
    assert f"{found['clear']:.1%}" in told
    assert sorted(path.name for path in hazy.parent.iterdir()) == ["hazy.tif"]


def test_a_map_lies_where_the_scene_does(dehazexl: Command, hazy: Path, tmp_path: Path) -> None:
    quick, fine, out = (tmp_path / name for name in ("quick.tif", "fine.tif", "out.tif"))
    assert dehazexl("haze", hazy, quick).code == 0
    run = dehazexl("run", hazy, out, "--haze-map", fine, "--json")
    assert run.code == 0, run.err
    for path in (quick, fine):
        with rasterio.open(path) as made, rasterio.open(out) as result:
            percent = made.read(1)
            assert (made.crs, made.transform, made.shape) == (result.crs, result.transform, result.shape)
            assert (made.nodata, made.descriptions) == (NO_GROUND, (DESCRIPTION,))
            assert made.overviews(1) == [2]
            assert made.colormap(1)[0] != made.colormap(1)[100]
        assert np.array_equal(percent == NO_GROUND, np.pad(np.ones((100, 80), bool), ((0, 300), (0, 400))))
        clear, veiled = percent[120:, 20:200].mean(), percent[:, 280:].mean()
        assert clear > 85
        assert 30 < veiled < 70
    with rasterio.open(fine) as made:
        ground = made.read(1, masked=True)
    assert json.loads(run.out)["haze"]["transmission"] == pytest.approx(ground.mean() / 100, abs=1e-3)


def test_a_part_has_a_map_of_that_part(dehazexl: Command, hazy: Path, tmp_path: Path) -> None:
    out, haze_map = tmp_path / "out.tif", tmp_path / "map.tif"
    assert dehazexl("run", hazy, out, "--haze-map", haze_map, "--window", "100,200,64,32").code == 0
    with rasterio.open(haze_map) as made, rasterio.open(out) as result:
        assert (made.transform, made.shape) == (result.transform, (32, 64))


def test_a_map_resumes_with_its_scene(dehazexl: Command, hazy: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.tif", tmp_path / "other.tif"
    assert dehazexl("run", hazy, tmp_path / "a.tif", "--haze-map", one).code == 0
    assert dehazexl("run", hazy, tmp_path / "b.tif", "--haze-map", other, "--resume").code == 0
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "how", [(), ("--mode", "tile", "--all-bands"), pytest.param(("--jobs", 2), marks=pytest.mark.slow)]
)
def test_a_batch_leaves_out_what_is_clear(
    dehazexl: Command, hazy: Path, tmp_path: Path, how: tuple[object, ...]
) -> None:
    out = tmp_path / "out"
    with rasterio.open(hazy) as scene, rasterio.open(tmp_path / "clear.tif", "w", **scene.profile) as file:
        file.write(np.tile(scene.read()[:, :, :240], 2))
    result = dehazexl("batch", tmp_path, out, "--if-hazy", "0.3", "--json", *how)
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert (told["done"], told["clear"], told["failed"]) == (1, 1, 0)
    assert files(out) == {"hazy.tif"}
    line = next(line for line in log_of(out) if line["state"] == "clear")
    assert line["input"].endswith("clear.tif") and "lies under haze" in line["why"]
    assert dehazexl("batch", tmp_path, out, "--if-hazy", "0", "--skip-existing", *how).code == 0
    assert files(out) == {"clear.tif", "hazy.tif"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("batch", "IN", "out", "--if-hazy", "0.1", "--model", "mgbl-s"), 2, "mgbl-s tells no haze"),
        (("batch", "IN", "out", "--if-hazy", "30"), 2, "--if-hazy"),
        (("haze", "IN", "map.png"), 4, "a haze map is a GeoTIFF"),
        (("haze", "IN", "IN"), 4, "is another input"),
        (("haze", "IN", "there.tif"), 4, "exists"),
        (("haze", "IN", "--model", "mgbl-s"), 2, "a haze map is not possible with this model"),
        (("run", "IN", "out.tif", "--haze-map", "out.tif"), 4, "out.tif"),
        (("run", "IN", "out.tif", "--haze-map", "there.tif"), 4, "exists"),
        (("run", "IN", "out.tif", "--haze-map", "map.jpg"), 4, "a haze map is a GeoTIFF"),
        (("run", "IN", "out.tif", "--haze-map", "m.tif", "--report", "m.tif"), 4, "another input or output"),
        (
            ("run", "IN", "out.tif", "--haze-map", "map.tif", "--mode", "tile"),
            2,
            "a haze map is not possible",
        ),
        (("run", "IN", "out.tif", "--haze-map", "map.tif", "--dask", "local"), 2, "do not go together"),
        (("run", "IN", "IN", ".", "--haze-map", "map.tif"), 2, "--haze-map is for one image"),
    ],
)
def test_what_cannot_be_is_refused_before_work(
    dehazexl: Command,
    hazy: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(hazy.parent)
    (hazy.parent / "there.tif").write_text("keep me")
    before = hazy.read_bytes()
    result = dehazexl(*(str(hazy) if each == "IN" else each for each in arguments))
    assert result.code == code, result.err
    assert words in result.err
    assert sorted(path.name for path in hazy.parent.iterdir() if path.is_file()) == ["hazy.tif", "there.tif"]
    assert hazy.read_bytes() == before
    assert (hazy.parent / "there.tif").read_text() == "keep me"
