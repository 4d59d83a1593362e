"""Which bands are dehazed, which judge validity and which pass through: by what a file says, and the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import Identity, Result, Toy, dehaze_file
from rasterio.enums import ColorInterp
from test_bands import loaded, make, noise, read
from test_stream import FP32, streamed

from dehazexl_cli.config import EngineOptions, Selection
from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.bands import choose_bands, holds_classes_only
from dehazexl_cli.raster.base import RasterInfo

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CPU = EngineOptions(**FP32)  # type: ignore[arg-type]


def info(meanings: str = "", names: str = "", count: int = 0, alpha: int | None = None) -> RasterInfo:
    said = tuple(each.strip() for each in meanings.split(",")) if meanings else ()
    called = tuple(each.strip() for each in names.split("|")) if names else ()
    count = count or max(len(said), len(called))
    return RasterInfo(
        "x.tif", "GTiff", 9, 9, count, "uint16", alpha=alpha, meanings=said, descriptions=called
    )


@pytest.mark.parametrize(
    ("meanings", "names", "colours"),
    [
        ("blue,green,red,nir", "", (3, 2, 1)),
        ("nir,red,green,blue", "", (2, 3, 4)),
        ("grey,,,", "", (1, 2, 3)),
        ("nir,,,", "", (2, 3, 4)),
        ("nir,swir,tir", "", (1, 2, 3)),
        ("pan", "", (1,)),
        ("grey,,,", "Blue|Green|Red|NIR", (3, 2, 1)),
        ("red,green,blue", "Blue|Green|Red", (3, 2, 1)),
        (
            "",
            "coastal_blue|blue|green_i|green|yellow|red|rededge|nir",
            (6, 4, 2),
        ),
        ("", "SR_B2 (Blue)|SR_B3 (Green)|SR_B4 (Red)|SR_B5", (3, 2, 1)),
        ("red,green,blue,", "B4, 665 nm|B3, 560 nm|B2, 490 nm|B8, 842 nm", (1, 2, 3)),
        ("", "|".join(f"{at} nm" for at in range(400, 1000, 10)), (27, 17, 9)),
        ("red,green,blue,", "864 nm|665 nm|560 nm|490 nm", (2, 3, 4)),
        ("grey,,,,", "QA_PIXEL|B|G|R|NIR", (2, 3, 4)),
    ],
)
def test_colours_are_those_that_the_file_names(meanings: str, names: str, colours: tuple[int, ...]) -> None:
    assert choose_bands(info(meanings, names)).colours == colours


@pytest.mark.parametrize(
    ("meanings", "names", "said"),
    [
        ("blue,green,red,nir", "", ""),
        ("red,green,blue", "", ""),
        ("grey,,", "", ""),
        ("grey,,,", "", "does not say which bands are red, green and blue; 1,2,3 are taken"),
        ("red,green,blue", "NIR|Red|Green", "band names say NIR, Red, Green; 1,2,3 are taken"),
        ("red,green,blue", "blue|green|red", "band names say blue, green, red; 3,2,1 are taken"),
    ],
)
def test_what_is_guessed_or_contradicts_itself_is_said(meanings: str, names: str, said: str) -> None:
    notes = choose_bands(info(meanings, names)).notes
    assert said in notes[0] if said else notes == ()


def test_quality_bands_are_never_dehazed() -> None:
    of = info(names="Red|Green|Blue|NIR|QA_PIXEL|SWIR|SCL")
    assert choose_bands(of, all_bands=True).groups == ((1, 2, 3), (4,), (6,))


@pytest.mark.parametrize("meanings", ["cyan,magenta,yellow,black", "hue,saturation,lightness", "Y,Cb,Cr"])
def test_bands_that_are_no_light_are_refused_also_where_they_are_named(meanings: str) -> None:
    for wanted in (None, (1, 2, 3), (3,)):
        if meanings.startswith("cyan") and wanted == (3,):
            continue  # yellow may be a part of the spectrum
        with pytest.raises(InputError, match="not red, green and blue"):
            choose_bands(info(meanings), wanted)


def test_alpha_is_dehazed_only_if_it_is_said_to_be_none() -> None:
    with pytest.raises(UsageError, match="is its alpha") as refused:
        choose_bands(info("red,green,blue,alpha", alpha=4), (4, 1, 2))
    assert "--not-alpha" in refused.value.hint
    assert choose_bands(info("red,green,blue,alpha"), (4, 1, 2)).colours == (4, 1, 2)


@pytest.mark.parametrize("all_bands", [False, True])
def test_other_bands_make_no_pixel_valid_or_invalid(all_bands: bool) -> None:
    array = noise(60, 70, 5).astype(np.float32)
    array[:, :30, :3], array[:, :30, 3] = 0, 7  # nodata in the colours alone
    array[:20, :, 4] = np.nan  # in a band that is not dehazed, unless all are
    options = EngineOptions(**FP32, bands=(1, 2, 3), all_bands=all_bands)  # type: ignore[arg-type]
    output, report = streamed(array, Toy(), options, nodata=0)
    alone, _ = streamed(np.ascontiguousarray(array[:, :, :3]), Toy(), CPU, nodata=0)
    if all_bands:  # then they are judged like the colours
        assert report.invalid_pixels == 20 * 70
    else:
        assert report.invalid_pixels == 60 * 30
        assert np.array_equal(output[:, :, :3], alone)
        assert np.array_equal(output[:, :, 3:], array[:, :, 3:], equal_nan=True)


def test_files_judge_by_dehazed_bands_whoever_says_the_nodata(tmp_path: Path) -> None:
    values = noise(4, 50, 60)
    values[:3, :, :20], values[3, :, :20] = 0, 1
    said = make(tmp_path / "said.tif", values, nodata=0, photometric="minisblack")
    bare = make(tmp_path / "bare.tif", values, photometric="minisblack")
    for path, selection in ((said, Selection()), (bare, Selection(nodata=0))):
        out = tmp_path / f"out_{path.name}"
        report = dehaze_file(path, out, model=loaded(Toy()), options=CPU, selection=selection)
        assert report.invalid_pixels == 50 * 20
        assert np.array_equal(read(out)[:, :, :20], values[:, :, :20])


def with_false_alpha(path: Path, values: np.ndarray[Any, Any]) -> Path:
    make(path, values)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    return path


def test_infrared_that_is_called_alpha_is_data_where_the_user_says_so(tmp_path: Path) -> None:
    values = noise(4, 60, 70, dtype="uint8", top=250)
    values[3, :30] = 0  # water
    source = with_false_alpha(tmp_path / "in.tif", values)
    options = EngineOptions(**FP32, all_bands=True)  # type: ignore[arg-type]
    taken = dehaze_file(source, tmp_path / "a.tif", model=loaded(Toy()), options=options)
    assert taken.invalid_pixels == 30 * 70 and np.array_equal(read(tmp_path / "a.tif")[3], values[3])
    selection = Selection(not_alpha=True)
    report = dehaze_file(
        source, tmp_path / "b.tif", model=loaded(Toy()), options=options, selection=selection
    )
    assert report.invalid_pixels == 0 and [group["bands"] for group in report.groups] == [(1, 2, 3), (4,)]
    with rasterio.open(tmp_path / "b.tif") as out:  # nobody is told again that it is alpha
        assert out.colorinterp[3] == ColorInterp.undefined
    assert report.warnings == []


def test_an_alpha_that_looks_like_data_is_doubted(tmp_path: Path) -> None:
    values = noise(4, 60, 70, dtype="uint8", top=250)
    source = with_false_alpha(tmp_path / "in.tif", values)
    report = dehaze_file(source, tmp_path / "a.tif", model=loaded(Identity()), options=CPU)
    assert "--not-alpha" in report.warnings[0]
    values[3] = 255
    values[3, :9], values[3, 9] = 0, 120
    source = with_false_alpha(tmp_path / "in.tif", values)
    report = dehaze_file(source, tmp_path / "b.tif", model=loaded(Identity()), options=CPU)
    assert report.warnings == []


def test_every_command_takes_the_same_bands(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source = make(tmp_path / "in.tif", noise(4, 70, 80), photometric="minisblack")
    with rasterio.open(source, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.nir]
    result = dehazexl("run", source, tmp_path / "out.tif", "--weights", tiny_weights, "--json")
    assert json.loads(result.out)["bands"] == [3, 2, 1]
    assert json.loads(dehazexl("plan", source, "--json").out)["bands"] == [3, 2, 1]
    assert json.loads(dehazexl("info", source, "--json").out)[0]["run"]["bands"] == [3, 2, 1]
    dehazexl("batch", source, tmp_path / "out", "--weights", tiny_weights)
    assert np.array_equal(read(tmp_path / "out" / "in.tif"), read(tmp_path / "out.tif"))


INKS = np.random.default_rng(0).integers(0, 65536, (30, 40, 4)).astype(np.uint16)


def test_ink_of_16_bits_becomes_light(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", INKS, photometric="separated", metadata=None, iccprofile=b"x" * 200)
    report = dehaze_file(tmp_path / "in.tif", tmp_path / "out.tif", model=loaded(Identity()), options=CPU)
    assert "converted to red, green and blue" in report.warnings[0]
    light = 1 - INKS / 65535
    expected = np.moveaxis(light[..., :3] * light[..., 3:], 2, 0) * 65535
    assert abs(read(tmp_path / "out.tif") - expected).max() <= 1
    with rasterio.open(tmp_path / "out.tif") as out:
        assert [each.name for each in out.colorinterp] == ["red", "green", "blue"]
        assert not out.tags(ns="COLOR_PROFILE")  # that of ink is not theirs


@pytest.mark.parametrize(
    ("photometric", "samples", "dtype", "said"),
    [
        ("cielab", 3, "uint16", "CIELAB"),
        ("icclab", 3, "uint8", "ICC Lab"),
        ("logluv", 3, "uint16", "LogLuv"),
        ("ycbcr", 3, "uint16", "YCbCr"),
        ("cfa", 1, "uint16", "raw photograph"),
        ("linear_raw", 3, "uint16", "raw photograph"),
    ],
)
def test_what_is_no_light_is_refused(
    tmp_path: Path, photometric: str, samples: int, dtype: str, said: str
) -> None:
    pixels = INKS[..., :samples].squeeze().astype(dtype)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric=photometric, metadata=None)
    with pytest.raises(InputError, match=said):
        open_reader(tmp_path / "in.tif")


@pytest.mark.parametrize("inside", [True, False])
def test_a_thumbnail_before_its_image_is_refused_and_the_image_named(tmp_path: Path, inside: bool) -> None:
    path, full = tmp_path / "in.tif", INKS[..., :3]
    with tifffile.TiffWriter(path) as file:
        of_small = {"subifds": 1} if inside else {}
        file.write(full[::4, ::4].copy(), photometric="rgb", subfiletype=1, metadata=None, **of_small)
        file.write(full, photometric="rgb", metadata=None)
    with pytest.raises(InputError, match="thumbnail of 10 x 8 pixels, of one of 40 x 30") as refused:
        open_reader(path)
    name = refused.value.hint.split(": ", 1)[1].split(" ")[0]
    assert (open_reader(name).info.height, open_reader(name).info.width) == (30, 40)


def test_overviews_and_pages_of_one_size_are_no_reason_to_refuse(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for _ in range(3):
            file.write(INKS[..., :3], photometric="rgb", metadata=None)
    make(tmp_path / "overviews.tif", noise(3, 64, 64))
    with rasterio.open(tmp_path / "overviews.tif", "r+") as made:
        made.build_overviews([2, 4])
    for name in ("pages", "overviews"):
        assert open_reader(tmp_path / f"{name}.tif").info.count == 3


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("LC09_L2SP_QA_PIXEL.TIF", True),
        ("T33UUU_20260101_SCL_20m.jp2", True),
        ("MSK_CLDPRB_20m.jp2", True),
        ("scene_udm2.tif", True),
        ("LC08_pixel_qa.tif", True),
        ("esa_landcover.tif", True),
        ("LC09_L2SP_SR_B4.TIF", False),
        ("aqua.tif", False),
        ("maskinongé.tif", False),
    ],
)
def test_files_of_flags_and_classes_are_known_by_name(name: str, classes: bool) -> None:
    assert holds_classes_only(RasterInfo(f"/in/{name}", "GTiff", 9, 9, 1, "uint16")) is classes
    assert not holds_classes_only(RasterInfo(f"/in/{name}", "GTiff", 9, 9, 3, "uint16"))
    assert not holds_classes_only(RasterInfo(f"/in/{name}", "GTiff", 9, 9, 1, "float32"))


def test_a_batch_copies_flags_and_classes_as_they_are(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    codes = np.random.default_rng(0).choice([21824, 22280], (1, 70, 80)).astype(np.uint16)
    make(folder / "X_QA_PIXEL.TIF", codes, nodata=1)
    make(folder / "X_SCL.tif", (codes % 12).astype(np.uint8), photometric="palette")
    with rasterio.open(folder / "X_SCL.tif", "r+") as file:
        file.write_colormap(1, {number: (number, 0, 0, 255) for number in range(12)})
    make(folder / "X_B4.TIF", noise(1, 70, 80))
    result = dehazexl("batch", folder, out, "--weights", tiny_weights)
    assert result.code == 0 and result.err.count("copied as it is") == 2
    for name in ("X_QA_PIXEL.TIF", "X_SCL.tif"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not np.array_equal(read(out / "X_B4.TIF"), read(folder / "X_B4.TIF"))
    again = dehazexl("batch", folder, out, "--weights", tiny_weights, "--skip-existing", "--json")
    assert json.loads(again.out)["skipped"] == 3
    part = tmp_path / "part"
    dehazexl("batch", folder, part, "--weights", tiny_weights, "--window", "8,4,32,16")
    assert np.array_equal(read(part / "X_QA_PIXEL.TIF"), codes[:, 4:20, 8:40])


def test_a_run_of_classes_warns(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 12, (1, 70, 80)).astype(np.uint8)
    source = make(tmp_path / "cover.tif", codes)
    result = dehazexl("run", source, tmp_path / "out.tif", "--weights", tiny_weights)
    assert result.code == 0 and "holds 12 different numbers only" in result.err


def test_patterns_leave_images_out_of_a_batch(batch: Command, folder: Path) -> None:
    made = [path.relative_to(folder) for path in sorted(folder.rglob("*.*"))]
    left = made[0]
    assert batch("--exclude", left.name).code == 0
    out = folder.with_name("out")
    assert not (out / left).exists() and all((out / path).exists() for path in made[1:])
    nothing = batch("--exclude", "*")
    assert nothing.code == 3 and "--exclude leaves nothing of 3 images" in nothing.err
