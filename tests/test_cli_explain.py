"""`dehazexl explain`: maps, pictures and numbers of which pixels a window's restoration depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import Result

from dehazexl_cli.attribution import Attribution, Network
from dehazexl_cli.attribution import run as attribution_run
from dehazexl_cli.attribution.figure import LEAST, MOST, YELLOW, position
from dehazexl_cli.models.checkpoint import bundled

Command = Callable[..., Result]
TRANSFORM = Affine(2, 0, 5e5, 0, -2, 4e6)
HEIGHT_, WIDTH_ = 150, 210


def pixels(seed: int = 0) -> np.ndarray:
    """A scene [3, height, width] of soft spots under haze."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 200, (3, 10, 14)).repeat(15, 1).repeat(15, 2)
    return (coarse + rng.uniform(0, 30, coarse.shape)).astype(np.uint8)


def make(path: Path, values: np.ndarray, **profile: Any) -> Path:
    shape = dict(zip(("count", "height", "width"), values.shape, strict=True))
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=values.dtype,
        crs="EPSG:32633",
        transform=TRANSFORM,
        **shape,
        **profile,
    ) as file:
        file.write(values)
        file.descriptions = ("red", "green", "blue")
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return make(tmp_path / "in.tif", pixels())


@pytest.fixture
def explain(dehazexl: Command, tmp_path: Path, scene: Path, tiny_weights: Path) -> Callable[..., Any]:
    """Explains the scene; hands back what the JSON says, and the maps."""

    def command(*arguments: object, source: Path = scene) -> tuple[dict[str, Any], np.ndarray]:
        target = tmp_path / "map.tif"
        fixed = ("--weights", tiny_weights, "--overwrite", "--json", "--quiet")
        done = dehazexl("explain", source, target, *fixed, *arguments)
        assert done.code == 0, done.err
        facts = json.loads(done.out)
        assert facts == json.loads(target.with_suffix(".json").read_text())
        with rasterio.open(target) as file:
            return facts, file.read()

    return command


def test_the_map_lies_where_the_scene_does_and_adds_up_to_what_the_haze_makes(
    explain: Callable[..., Any], tmp_path: Path
) -> None:
    facts, maps = explain("--window", "100,60,20,16", "--baseline", "black")
    (one,) = facts["maps"]
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs, file.transform, file.dtypes) == ("EPSG:32633", TRANSFORM, ("float32",))
        assert file.descriptions == ("global, window 100,60,20,16",)
        assert file.tags()["DEHAZEXL_MODEL"] == "dehazexl-s"
    assert maps.shape == (1, HEIGHT_, WIDTH_) and np.isfinite(maps).all()
    assert maps.sum(dtype=np.float64) == pytest.approx(one["total"], rel=1e-6)
    assert one["difference"] == pytest.approx(one["hazy_value"] - one["clear_value"])
    assert one["gap"] < 0.01 and one["complete"]
    assert abs(maps.sum(dtype=np.float64) / one["difference"] - 1) < 0.01
    assert one["inside"] + one["patch"] + one["beyond"] == pytest.approx(1)
    inside = abs(maps[0, 60:76, 100:120]).sum() / abs(maps).sum()
    assert one["inside"] == pytest.approx(inside, rel=1e-4)
    assert one["beyond"] > 1e-4  # tokens carry something
    assert 0 < one["radius_50"] < one["radius_90"] < 250
    assert facts["baseline"] == "black" and facts["weights_sha256"]


def test_the_window_s_value_is_what_a_run_writes_there(
    explain: Callable[..., Any], dehazexl: Command, tmp_path: Path, scene: Path, tiny_weights: Path
) -> None:
    values = pixels()
    values[:, :80, :70] = 0  # no ground, also where the window begins
    hole = make(tmp_path / "hole.tif", values, nodata=0)
    for source in (scene, hole):
        arguments = ("--window", "60,70,30,40", "--detector", "mean", "--steps", 1, "--baseline", "black")
        facts, _ = explain(*arguments, source=source)
        out = tmp_path / "out.tif"
        run = ("--weights", tiny_weights, "--precision", "fp32", "--overwrite")
        assert dehazexl("run", source, out, *run).code == 0
        with rasterio.open(out) as file:
            written = file.read(masked=True)[:, 70:110, 60:90]
        assert facts["maps"][0]["hazy_value"] * 255 == pytest.approx(
            float(written.mean()), abs=1
        )  # held within 0 to 255


def test_tiles_cannot_look_beyond_themselves(explain: Callable[..., Any]) -> None:
    arguments = ("--compare-modes", "global,tile", "--tile", 64, "--steps", 2, "--baseline", "black")
    facts, maps = explain("--window", "10,10,20,20", *arguments)
    assert [each["mode"] for each in facts["maps"]] == ["global", "tile"]
    whole, tile = maps
    assert tile[:64, :64].any() and not tile[64:].any() and not tile[:, 64:].any()
    assert whole[64:].any() and whole[:, 64:].any()
    # On the way between tiles, both have their share.
    _, maps = explain("--window", "50,10,20,20", *arguments)
    assert maps[1][:64, :56].any() and maps[1][:64, 64:120].any() and not maps[1][:, 120:].any()


def test_several_windows_and_coordinates(explain: Callable[..., Any], tmp_path: Path) -> None:
    once = ("--steps", 1, "--baseline", "black")
    facts, maps = explain("--window", "10,20,16,8", "--window", "100,60,20,20", *once)
    assert [each["window"] for each in facts["maps"]] == [[10, 20, 16, 8], [100, 60, 20, 20]]
    assert (tmp_path / "map-1.png").exists() and (tmp_path / "map-2.png").exists()
    facts, again = explain("--xy", f"{5e5 + 220},{4e6 - 140}", "--size", 40, *once)
    assert facts["maps"][0]["window"] == [100, 60, 20, 20]
    assert np.allclose(again[0], maps[1], atol=1e-6)


@pytest.mark.parametrize("path", ["blend", "transmission"])
def test_with_a_clear_scene_either_path_adds_up(
    explain: Callable[..., Any], tmp_path: Path, path: str
) -> None:
    values = (pixels() * 0.6).astype(np.uint8)
    values[:, :40, 100:140] = pixels()[:, :40, 100:140]  # no haze there
    clear = make(tmp_path / "clear.tif", values)
    facts, maps = explain("--window", "10,20,16,8", "--baseline", clear, "--path", path, "--steps", 12)
    assert facts["maps"][0]["residue"] < 0.02
    assert not maps[0, :40, 100:140].any() and maps.any()
    assert ("airlight" in facts) == (path == "transmission")


def test_the_model_s_own_output_is_the_baseline_unless_another_is_named(explain: Callable[..., Any]) -> None:
    facts, maps = explain("--window", "10,20,16,8", "--steps", 1)
    assert facts["baseline"] == "self" and maps.any()


def test_where_nothing_differs_nothing_depends_on_it(explain: Callable[..., Any], scene: Path) -> None:
    facts, maps = explain("--window", "10,20,16,8", "--baseline", scene)
    (one,) = facts["maps"]
    assert not maps.any() and one["gap"] is None and one["inside"] is None


def test_pixels_that_are_no_ground_are_nan_and_count_nowhere(
    explain: Callable[..., Any], tmp_path: Path
) -> None:
    values = pixels()
    values[:, :, :20] = 0  # a border, and a hole
    values[:, 60:70, 100:130] = 0
    source = make(tmp_path / "holes.tif", values, nodata=0)
    _, maps = explain("--window", "50,60,20,20", "--baseline", "black", "--steps", 2, source=source)
    hole = (values == 0).all(axis=0)
    assert (np.isnan(maps[0]) == hole).all()
    assert maps[0][~hole].any()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--window", "200,0,20,20"), 2, "not inside"),
        (("--window", "0,0,0,5"), 2, "not inside"),
        (("--window", "0,0,5"), 2, "4 numbers"),
        ((), 2, "no window"),
        (("--xy", "5,5"), 2, "--size"),
        (("--xy", "5,5", "--size", "2"), 2, "outside of"),
        (("--window", "0,0,9,9", "--steps", "0"), 2, "no number of steps"),
        (("--window", "0,0,9,9", "--path", "winding"), 2, "winding"),
        (("--window", "0,0,9,9", "--detector", "max"), 2, "max"),
        (("--window", "0,0,9,9", "--compare-modes", "global,paper"), 2, "paper"),
        (("--window", "0,0,9,9", "--tile", "64"), 2, "without mode tile"),
        (("--window", "0,0,9,9", "--precision", "fp16"), 2, "fp16"),
        (("--window", "0,0,9,9", "--baseline", "none.tif"), 3, "none.tif"),
        (("--window", "0,0,9,9", "--max-ram", "100M"), 6, "--max-ram"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    dehazexl: Command,
    scene: Path,
    tmp_path: Path,
    tiny_weights: Path,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    before = sorted(tmp_path.iterdir())
    done = dehazexl("explain", scene, tmp_path / "map.tif", "--weights", tiny_weights, *arguments)
    assert done.code == code, done.err
    assert told in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_baseline_that_does_not_fit_is_refused(
    dehazexl: Command, scene: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    small = make(tmp_path / "small.tif", pixels()[:, :100])
    other = make(tmp_path / "other.tif", pixels().astype(np.uint16))
    for baseline, told in ((small, "210 x 100"), (other, "uint16")):
        done = dehazexl(
            "explain", scene, tmp_path / "map.tif", "--window", "0,0,9,9",
            "--weights", tiny_weights, "--baseline", baseline,
        )  # fmt: skip
        assert done.code == 3 and told in done.err


def test_a_window_without_ground_is_refused(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    values = pixels()
    values[:, :, :50] = 0
    values[:, 100:130, 100:130] = 0
    source = make(tmp_path / "in.tif", values, nodata=0)
    for window in ("0,0,40,40", "105,105,9,9"):
        done = dehazexl(
            "explain", source, tmp_path / "map.tif", "--window", window, "--weights", tiny_weights
        )
        assert done.code == 3 and "no ground" in done.err


@pytest.mark.parametrize("name", ["map.tif", "map.png", "map.json"])
def test_nothing_is_overwritten_unasked(
    dehazexl: Command, scene: Path, tmp_path: Path, tiny_weights: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    done = dehazexl("explain", scene, tmp_path / "map.tif", "--window", "0,0,9,9", "--weights", tiny_weights)
    assert done.code == 4 and name in done.err
    assert (tmp_path / name).read_text() == "mine"


def test_a_map_is_a_geotiff(dehazexl: Command, scene: Path, tmp_path: Path) -> None:
    done = dehazexl("explain", scene, tmp_path / "map.png", "--window", "0,0,9,9")
    assert done.code == 4 and "map.tif" in done.err


def test_with_too_little_memory_it_goes_on_with_fewer_patches_and_then_gives_up(
    explain: Callable[..., Any],
    dehazexl: Command,
    scene: Path,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, tried = attribution_run.attribute, []

    def poor(network: Network, *rest: Any) -> list[Attribution]:
        tried.append(network.batch)
        if network.batch > most:
            raise MemoryError
        return honest(network, *rest)

    monkeypatch.setattr(attribution_run, "attribute", poor)
    most = 1
    facts, _ = explain("--window", "0,0,9,9", "--steps", 1, "--baseline", "black")
    assert tried == [4, 2, 1] and facts["plan"]["global"]["batch"] == 1
    most = 0
    left = ("--window", "0,0,9,9", "--weights", tiny_weights)
    done = dehazexl("explain", scene, tmp_path / "again.tif", *left)
    assert done.code == 6 and "memory ran out" in done.err
    assert not list(tmp_path.glob("*again*"))


def test_it_says_what_the_maps_say(
    dehazexl: Command, scene: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    done = dehazexl(
        "explain", scene, tmp_path / "map.tif", "--window", "0,0,9,9",
        "--weights", tiny_weights, "--baseline", "black", "--progress", "json", "--steps", 2,
    )  # fmt: skip
    assert done.code == 0 and not done.out
    assert "beyond" in done.err and "completeness gap" in done.err
    assert '"phase": "explain global"' in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s"])
def test_the_bundled_models_are_explained(dehazexl: Command, tmp_path: Path, scene: Path, name: str) -> None:
    assert bundled(name).exists()
    done = dehazexl(
        "explain", scene, tmp_path / "map.tif", "--window", "30,40,32,32", "--model", name,
        "--baseline", "black", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (one,) = json.loads(done.out)["maps"]
    assert one["gap"] < 0.01 and one["steps"] <= 36


def test_the_picture_shows_scene_and_window(explain: Callable[..., Any], tmp_path: Path) -> None:
    explain("--window", "100,60,20,16", "--baseline", "black", "--compare-modes", "global,tile", "--steps", 1)
    picture = imagecodecs.png_decode((tmp_path / "map.png").read_bytes())
    yellow = (picture == YELLOW).all(axis=2)
    middle = picture.shape[1] // 2
    assert yellow[:, :middle].sum() > 100 and yellow[:, middle:].sum() > 100
    # The window is framed where it lies in the first panel, and three times below each other.
    rows, cols = np.nonzero(yellow[:480, :middle])
    assert (cols.min() - 16) / 640 == pytest.approx(100 / WIDTH_, abs=0.01)
    assert (rows.max() - rows.min()) / 640 == pytest.approx(16 / WIDTH_, abs=0.01)


def test_the_scale_is_fixed() -> None:
    density = torch.tensor(
        [0.0, 10.0**MOST, -(10.0**MOST), 1.0, 10.0**LEAST, 1e-9, 10.0 ** ((MOST + LEAST) / 2)]
    )
    expected = torch.tensor([0.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.5])
    assert torch.allclose(position(density), expected, atol=1e-6)
