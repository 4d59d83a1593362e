"""`dehazexl compare` and `dehazexl preview`: what they refuse, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Result
from test_cli_evaluate import write

from dehazexl_cli.cli.compare import input_row, list_candidates
from dehazexl_cli.evaluation import measures
from dehazexl_cli.evaluation.measures import View

Command = Callable[..., Result]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A hazy scene and the clear one."""
    y, x = np.mgrid[:220, :300]
    clear = np.stack([x % 97 + 40, y % 83 + 60, (x + y) % 71 + 50], axis=2)
    hazy, reference = tmp_path / "hazy.png", tmp_path / "clear.png"
    write(reference, clear.astype(np.uint8))
    write(hazy, (clear * 0.6 + 90).astype(np.uint8))
    return hazy, reference


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--modes", "global,sideways"), 2, "'sideways' is not known"),
        (("--modes", "global", "--tile", "256"), 2, "add tile to --modes"),
        (("--at", "12"), 2, "column and row"),
        (("--reference", "nowhere.png"), 3, "no such file"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    dehazexl: Command,
    pair: tuple[Path, Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    result = dehazexl("compare", pair[0], "--out", tmp_path / "out", *arguments)
    assert result.code == code
    assert said in result.err
    assert not list((tmp_path / "out").glob("*"))


def test_a_reference_of_another_size_is_refused(
    dehazexl: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    write(pair[1], np.zeros((30, 40, 3), np.uint8))
    result = dehazexl("compare", pair[0], "--reference", pair[1], "--out", tmp_path / "out")
    assert result.code == 3 and "40 x 30" in result.err


def test_what_is_in_the_folder_is_not_overwritten(
    dehazexl: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    result = dehazexl("compare", pair[0], "--out", tmp_path)
    assert result.code == 4 and "--overwrite" in result.err
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("with_reference", [True, False])
def test_the_input_is_measured_without_what_only_a_run_has(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, with_reference: bool
) -> None:
    monkeypatch.setattr(measures, "DRIFT_SIDE", 64)
    row = input_row(str(pair[0]), str(pair[1]) if with_reference else None, View((1, 2, 3), 0, 255))
    nothing = {key for key, value in row.items() if value is None}
    of_a_run = {"seconds", "peak_gigabytes", "seam_score", "seam_broad", "seam_error", "report"}
    assert nothing == of_a_run | (set() if with_reference else {"psnr", "ssim", "drift"})
    with rasterio.open(pair[0]) as before, rasterio.open(pair[1]) as truth:
        hazy, clear = before.read() / 255, truth.read() / 255
    grey = hazy.mean(axis=0)[:192, :256].reshape(3, 64, 4, 64)
    assert row["contrast"] == pytest.approx(grey.std(axis=(1, 3)).mean(), abs=1e-4)
    darkest = hazy.min(axis=0)[:192, :288].reshape(12, 16, 18, 16)
    assert row["dark_channel"] == pytest.approx(darkest.min(axis=(1, 3)).mean(), abs=2e-3)
    if with_reference:
        assert row["psnr"] == pytest.approx(-10 * np.log10(np.square(hazy - clear).mean()), abs=1e-3)
        assert 0 < row["ssim"] < 1 and row["drift"] > 0


def test_models_times_modes_are_what_is_run() -> None:
    found = list_candidates(
        "dehazexl-s,net.pt2", "paper,tile", [], {"tile": ["--tile", "512"]}, ["--multiple", "8"]
    )
    assert [candidate.label for candidate in found] == [
        "dehazexl-s paper",
        "dehazexl-s tile",
        "net paper",
        "net tile",
    ]
    as_published = ["--mode", "global", "--overlap", "0"]
    assert found[0].arguments == ["--model", "dehazexl-s", *as_published]
    assert found[3].arguments == [
        *("--model", "generic", "--weights", "net.pt2", "--multiple", "8"),
        *("--mode", "tile", "--tile", "512"),
    ]


@pytest.mark.slow
def test_compare_leaves_outputs_numbers_and_a_page(
    dehazexl: Command, pair: tuple[Path, Path], tmp_path: Path, tiny_weights: Path
) -> None:
    out = tmp_path / "out"
    arguments = (
        "--reference",
        pair[1],
        "--models",
        tiny_weights,
        "--modes",
        "global,paper,tile,downsample,whole",
    )
    result = dehazexl(
        "compare",
        pair[0],
        "--out",
        out,
        *arguments,
        "--tile",
        "128",
        "--max-ram",
        "4G",
        "--at",
        "9,9",
        "--json",
    )
    assert result.code == 0
    assert json.loads((out / "compare.json").read_text()) == json.loads(result.out)
    before, *ways = json.loads(result.out)["candidates"]
    assert before["label"] == "input" and before["psnr"] > 5 and before["seconds"] is None
    assert [way["label"] for way in ways] == ["global", "paper", "tile", "downsample", "whole"]
    assert (out / "report.html").stat().st_size > 100_000
    by_label: dict[str, Any] = {way["label"]: way for way in ways}
    assert by_label["paper"]["report"]["overlap"] == 0
    assert by_label["tile"]["report"]["plan"]["tile"] == 128
    assert all(way["psnr"] > 5 and way["peak_gigabytes"] > 0.1 and way["seconds"] > 0 for way in ways)
    assert abs(by_label["whole"]["psnr"] - by_label["global"]["psnr"]) < 0.01
    for way in ways:
        with rasterio.open(out / f"{way['label']}.tif") as file:
            assert file.shape == (220, 300)


@pytest.mark.slow
def test_a_way_that_fails_is_said_and_the_others_are_shown(
    dehazexl: Command, pair: tuple[Path, Path], tmp_path: Path, tiny_weights: Path
) -> None:
    missing = tmp_path / "missing.safetensors"
    result = dehazexl(
        "compare",
        pair[0],
        "--models",
        f"{tiny_weights},{missing}",
        "--modes",
        "global",
        "--out",
        tmp_path / "out",
    )
    assert result.code == 7
    assert "failed: missing global" in result.err and "exit code 5" in result.err
    assert "tiny global" in result.out and "input" in result.out
    assert (tmp_path / "out" / "report.html").exists()


def test_preview_shows_before_and_after_and_touches_nothing_else(
    dehazexl: Command, pair: tuple[Path, Path], tmp_path: Path, tiny_weights: Path
) -> None:
    picture = tmp_path / "look.png"
    arguments = ("preview", pair[0], picture, "--weights", tiny_weights, "--side", "150")
    result = dehazexl(*arguments)
    assert result.code == 0
    assert result.out.split() == [str(picture), str(tmp_path / "look.html")]
    with rasterio.open(picture) as file:
        pixels = file.read()
    assert pixels.shape == (3, 110, 150 + 8 + 150)
    assert (pixels[:, :, :150] != pixels[:, :, 158:]).any()
    page = (tmp_path / "look.html").read_text()
    assert page.count("data:image/jpeg") == 2 and "/*DATA*/null" not in page
    again = dehazexl(*arguments)
    assert again.code == 4 and "--overwrite" in again.err


@pytest.mark.parametrize("overviews", [False, True])
def test_preview_does_not_take_what_alpha_hides_for_ground(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path, overviews: bool
) -> None:
    profile = {"driver": "GTiff", "height": 400, "width": 600, "count": 4, "dtype": "uint8", "tiled": True}
    scene = np.random.default_rng(0).integers(90, 200, (4, 400, 600), dtype=np.uint8)
    scene[3] = 255
    scene[3, :, :200] = 0
    looks = []
    for hidden in (0, 250):
        scene[:3, :, :200] = hidden
        path, picture = tmp_path / f"{hidden}.tif", tmp_path / f"{hidden}.png"
        with rasterio.open(path, "w", **profile, photometric="RGB", alpha="yes") as file:
            file.write(scene)
        if overviews:
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2, 4], rasterio.enums.Resampling.average)
        arguments = ("preview", path, picture, "--weights", tiny_weights, "--side", "150")
        assert dehazexl(*arguments).code == 0
        with rasterio.open(picture) as file:
            looks.append(file.read())
    for look in looks:
        assert np.array_equal(look[:, :, :49], look[:, :, 158 : 158 + 49])  # what is hidden
    before, black, white = looks[0][:, :, 51:150], looks[0][:, :, 158 + 51 :], looks[1][:, :, 158 + 51 :]
    assert np.array_equal(black, white)
    assert not np.array_equal(black, before)


def test_preview_reads_overviews_where_a_file_has_some(tmp_path: Path) -> None:
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.thumbnail import thumbnail

    path = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "height": 512, "width": 768, "count": 3, "dtype": "uint16", "tiled": True}
    pixels = np.random.default_rng(0).integers(0, 4096, (3, 512, 768), dtype=np.uint16)
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    sparse = thumbnail(open_reader(path), (3, 1), 96)
    assert sparse.shape == (2, 64, 96)
    assert np.array_equal(sparse[1], pixels[0, 4::8, 4::8])
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    means = pixels.reshape(3, 64, 8, 96, 8).mean((2, 4))[[2, 0]]
    assert abs(thumbnail(open_reader(path), (3, 1), 96) - means).max() <= 3
