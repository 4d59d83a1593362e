"""A part of a scene, and what the user says is no ground: the right pixels, in the right place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from conftest import Result, Toy, dehaze_file
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.warp import transform_bounds
from test_stream import FP32

from dehazexl_cli.config import EngineOptions, Selection
from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.models.checkpoint import Loaded
from dehazexl_cli.raster import find_box, open_reader
from dehazexl_cli.raster.selection import open_selected

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
HEIGHT, WIDTH = 150, 210
PLACE = Affine(2, 0, 500_000, 0, -3, 4_000_000)
CPU = EngineOptions(**FP32)  # type: ignore[arg-type]


def pixels(count: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(1, 255, (count, HEIGHT, WIDTH), dtype=np.uint8)


def make(path: Path, values: np.ndarray[Any, Any], **profile: Any) -> Path:
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype.name}
    place = {"crs": "EPSG:32633", "transform": PLACE} if "gcps" not in profile else {}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **place, **profile}) as file:
        file.write(values)
    return path


def toy() -> Loaded:
    return Loaded(Toy(patch=32, halo=2), "toy", "0" * 64, {})


def read(path: Path) -> np.ndarray[Any, Any]:
    with rasterio.open(path) as file:
        values: np.ndarray[Any, Any] = file.read()
    return values


@pytest.mark.parametrize(
    "box", [Box(0, 0, 150, 210), Box(40, 70, 1, 1), Box(33, 64, 70, 90), Box(149, 0, 1, 210)]
)
def test_a_window_in_the_context_of_the_scene_is_a_crop_of_the_whole_result(tmp_path: Path, box: Box) -> None:
    source = make(tmp_path / "in.tif", pixels())
    dehaze_file(source, tmp_path / "whole.tif", model=toy(), options=CPU)
    selection = Selection(window=box, context="scene")
    report = dehaze_file(source, tmp_path / "part.tif", model=toy(), options=CPU, selection=selection)
    crop = read(tmp_path / "whole.tif")[:, box.top : box.bottom, box.left : box.right]
    assert np.array_equal(read(tmp_path / "part.tif"), crop)
    assert (report.height, report.width) == (box.height, box.width)


def test_the_same_holds_for_a_real_network_and_around_nodata(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    values = pixels()
    values[:, :40], values[:, :, 180:] = 0, 0
    source = make(tmp_path / "in.tif", values, nodata=0)
    common = ("--weights", tiny_weights, "--precision", "fp32")
    assert dehazexl("run", source, tmp_path / "whole.tif", *common).code == 0
    for number, (col, row, width, height) in enumerate(
        [(20, 10, 100, 90), (150, 20, 60, 60), (181, 0, 20, 30)]
    ):
        part = tmp_path / f"part{number}.tif"
        window = f"{col},{row},{width},{height}"
        assert dehazexl("run", source, part, *common, "--window", window, "--context", "scene").code == 0
        crop = read(tmp_path / "whole.tif")[:, row : row + height, col : col + width]
        assert np.array_equal(read(part), crop)


def test_a_window_by_itself_is_as_its_pixels_cut_out_before(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", pixels())
    cut = make(tmp_path / "cut.tif", np.ascontiguousarray(pixels()[:, 30:100, 50:140]))
    box = Box(30, 50, 70, 90)
    dehaze_file(source, tmp_path / "a.tif", model=toy(), options=CPU, selection=Selection(window=box))
    dehaze_file(cut, tmp_path / "b.tif", model=toy(), options=CPU)
    assert np.array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


def test_a_part_has_the_place_and_mask_of_that_part(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", pixels())
    rpcs = RPC(
        height_off=10, height_scale=500, lat_off=45, lat_scale=1, long_off=7, long_scale=1, line_off=150,
        line_scale=150, samp_off=135, samp_scale=135, line_num_coeff=[1.0] * 20, line_den_coeff=[1.0] * 20,
        samp_num_coeff=[1.0] * 20, samp_den_coeff=[1.0] * 20, err_bias=None, err_rand=None,
    )  # fmt: skip
    mask = np.where(pixels()[0] > 99, 255, 0).astype(np.uint8)
    with rasterio.open(source, "r+") as file:
        file.rpcs = rpcs
        file.write_mask(mask)
    box = Box(30, 50, 70, 90)
    report = dehaze_file(
        source, tmp_path / "out.tif", model=toy(), options=CPU, selection=Selection(window=box)
    )
    assert report.warnings == []
    with rasterio.open(tmp_path / "out.tif") as part:
        assert part.transform == PLACE @ Affine.translation(50, 30)
        assert (part.rpcs.line_off, part.rpcs.samp_off) == (120, 85)
        assert np.array_equal(part.read_masks(1), mask[30:100, 50:140])


def test_ground_control_points_move_with_a_part(tmp_path: Path) -> None:
    points = [GroundControlPoint(r, c, 10 + c / 100, 50 - r / 100) for r in (0, 149) for c in (0, 209)]
    source = make(tmp_path / "in.tif", pixels(), gcps=points, crs="EPSG:4326")
    selection = Selection(window=Box(30, 50, 70, 90))
    dehaze_file(source, tmp_path / "out.tif", model=toy(), options=CPU, selection=selection)
    with rasterio.open(tmp_path / "out.tif") as part:
        found, crs = part.gcps
    assert [(p.row, p.col, p.x) for p in found] == [(p.row - 30, p.col - 50, p.x) for p in points]
    assert crs.to_epsg() == 4326


def test_bounds_are_the_pixels_they_touch(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", pixels())
    assert find_box(open_reader(source), (500_010, 3_999_970, 500_020, 3_999_997)) == Box(1, 5, 9, 5)
    assert find_box(open_reader(source), (500_009, 3_999_969, 500_021, 3_999_998)) == Box(0, 4, 11, 7)
    assert find_box(open_reader(source), (0, 3_999_990, 1e9, 1e9)) == Box(0, 0, 4, WIDTH)
    lonlat = transform_bounds("EPSG:32633", "EPSG:4326", 500_010, 3_999_970, 500_020, 3_999_997)
    around = find_box(open_reader(source), lonlat, "EPSG:4326")
    assert Box(1, 5, 9, 5).within(around) == Box(1, 5, 9, 5)
    assert around.pixels < 3 * 45


def test_bounds_in_a_rotated_raster_enclose_what_they_touch(tmp_path: Path) -> None:
    turned = Affine.translation(500_000, 4_000_000) @ Affine.rotation(30) @ Affine.scale(2, -2)
    source = make(tmp_path / "in.tif", pixels(), transform=turned)
    x, y = turned @ (100, 60)
    found = find_box(open_reader(source), (x - 10, y - 10, x + 10, y + 10))
    assert found == Box(53, 93, 14, 14)


def test_bounds_that_name_no_pixel_say_why(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", pixels())
    with pytest.raises(UsageError, match="outside of") as caught:
        find_box(open_reader(source), (0, 0, 1, 1))
    assert "500000" in caught.value.hint
    with pytest.raises(UsageError, match="empty"):
        find_box(open_reader(source), (9, 0, 1, 1))
    with pytest.raises(UsageError, match="no coordinate system"):
        find_box(open_reader(source), (0, 0, 1, 1), "EPSG:nonsense")
    bare = make(tmp_path / "bare.tif", pixels(), transform=Affine.identity(), crs=None)
    with pytest.raises(InputError, match="no coordinates"):
        find_box(open_reader(bare), (0, 0, 1, 1))


def test_a_mask_says_what_is_no_ground(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    values, ground = pixels(), pixels(1, seed=5)[0] > 60
    ground[:, :30] = False
    source = make(tmp_path / "in.tif", values)
    mask = make(tmp_path / "mask.tif", np.where(ground, 7, 0).astype(np.uint8)[None])
    result = dehazexl(
        "run", source, tmp_path / "out.tif", "--weights", tiny_weights, "--mask", mask, "--precision", "fp32"
    )
    assert result.code == 0, result.err
    assert f"{(~ground).sum()} pixels are no ground" in result.err
    output = read(tmp_path / "out.tif")
    assert np.array_equal(output[:, ~ground], values[:, ~ground])
    with_nodata = make(tmp_path / "nodata.tif", np.where(ground, values, 0), nodata=0)
    dehazexl("run", with_nodata, tmp_path / "same.tif", "--weights", tiny_weights, "--precision", "fp32")
    same = read(tmp_path / "same.tif")  # where no ground becomes the nodata value
    assert np.array_equal(np.maximum(output, 1)[:, ground], same[:, ground])


def test_a_value_given_as_nodata_is_no_ground_and_the_file_says_as_little_of_it_as_before(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    values = pixels()
    values[:, :60, :50] = 9
    source = make(tmp_path / "in.tif", values)
    run = ("run", source, tmp_path / "out.tif", "--weights", tiny_weights)
    assert "3000 pixels are no ground" in dehazexl(*run, "--nodata", "9").err
    assert np.array_equal(read(tmp_path / "out.tif")[:, :60, :50], values[:, :60, :50])
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.nodata is None


@pytest.mark.parametrize("place", [PLACE @ Affine.translation(0.3, -0.3), Affine.identity()])
def test_a_mask_lies_where_the_scene_does_or_anywhere(tmp_path: Path, place: Affine) -> None:
    source = make(tmp_path / "in.tif", pixels())
    mask = make(tmp_path / "mask.tif", pixels()[:1], transform=place)
    open_selected(str(source), Selection(mask=str(mask)))[0].close()


def test_what_is_masked_is_in_no_statistics(tmp_path: Path) -> None:
    values = pixels().astype(np.uint16) * 10
    values[:, :100] = 60_000
    source = make(tmp_path / "in.tif", values)
    ground = np.ones((1, HEIGHT, WIDTH), np.uint8)
    ground[:, :100] = 0
    mask = str(make(tmp_path / "mask.tif", ground))
    report = dehaze_file(
        source, tmp_path / "out.tif", model=toy(), options=CPU, selection=Selection(mask=mask)
    )
    assert report.high <= 2540
    assert report.invalid_pixels == 100 * WIDTH
    assert report.outside_range < 0.01 * 3 * 50 * WIDTH


def test_tiles_without_ground_take_no_space(tmp_path: Path) -> None:
    values = np.zeros((3, 1024, 1024), np.uint8)
    values[:, :200, :200] = 9
    source = make(tmp_path / "in.tif", values, nodata=0)
    dehaze_file(source, tmp_path / "out.tif", model=toy(), options=CPU)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert sum(count > 0 for count in file.pages[0].databytecounts) == 1
    assert np.array_equal(read(tmp_path / "out.tif")[:, 200:], values[:, 200:])


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--mask", "small.tif"], 3, "9 x 8 pixels"),
        (["--mask", "beside.tif"], 3, "lies elsewhere"),
        (["--mask", "upside-down.tif"], 3, "lies elsewhere"),
        (["--nodata", "-9999"], 2, "uint8, 0 to 255"),
        (["--nodata", "0.5"], 2, "no number that in.tif can have"),
        (["--nodata", "nan"], 2, "no number that"),
        (["--mask", "gone.tif"], 3, "no such file"),
        (["--window", "0,0,300,10"], 2, "is not inside"),
        (["--window", "0,0,0,10"], 2, "is not inside"),
        (["--window", "1,2,3"], 2, "4 numbers"),
        (["--window", "0.5,0,9,9"], 2, "whole pixels"),
        (["--window", "0,0,9,9", "--bbox", "0,0,9,9"], 2, "both"),
        (["--bbox", "0,0,9,inf"], 2, "4 numbers"),
        (["--bbox", "0,0,9,9"], 2, "outside"),
        (["--bbox-crs", "EPSG:4326"], 2, "without --bbox"),
        (["--context", "scene"], 2, "--window"),
        (["--input-range", "0,9,1"], 2, "no range"),
        (["--input-range", "0,9,1,8"], 2, "4 numbers for 3 bands"),
    ],
)
def test_a_selection_that_cannot_be_says_so(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, word: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "in.tif", pixels())
    make(tmp_path / "small.tif", pixels()[:1, :8, :9])
    make(tmp_path / "beside.tif", pixels()[:1], transform=PLACE @ Affine.translation(1, 0))
    make(tmp_path / "upside-down.tif", pixels()[:1], transform=Affine(2, 0, 500_000, 0, 3, 3_999_550))
    before = set(tmp_path.iterdir())
    result = dehazexl("run", "in.tif", "out.tif", "--weights", tiny_weights, "-q", *arguments)
    assert (result.code, len(result.err.splitlines())) == (code, 2), result.err
    assert word in result.err
    assert set(tmp_path.iterdir()) == before


def test_plan_of_a_part_is_that_of_the_part(dehazexl: Command, tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", pixels())
    assert "scene      90 x 70 pixels" in dehazexl("plan", source, "--window", "50,30,90,70").out
    assert (
        "scene      210 x 150 pixels"
        in dehazexl("plan", source, "--window", "50,30,90,70", "--context", "scene").out
    )
