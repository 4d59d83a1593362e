"""The formats that are written: chosen by suffix or name, with GDAL's options, and the pixels they keep."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import Result, names

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import DehazeError, OutputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.formats import FORMATS, choose_format
from dehazexl_cli.raster.memory import ArrayReader

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
HEIGHT, WIDTH = 700, 600
SMOOTH = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[None] * np.array([1, 2, 3])[:, None, None] / 6
NOISE = np.random.default_rng(0).integers(0, 9, (3, HEIGHT, WIDTH))
SCENE = (SMOOTH * 0.25 + NOISE + 1).astype(np.uint8)
PLACE = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}


def source(folder: Path, pixels: np.ndarray = SCENE, **profile: Any) -> Path:
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    path = folder / "in.tif"
    with rasterio.open(path, "w", driver="GTiff", **shape, **PLACE, **profile) as made:
        made.write(pixels)
    return path


def store(path: Path, target: Path, *creation: str, **overrides: Any) -> list[str]:
    reader = open_reader(path)
    pairs = tuple((name, value) for name, _, value in (text.partition("=") for text in creation))
    with open_writer(target, reader, storage=Storage(creation=pairs, **overrides)) as writer:
        bands = range(1, reader.info.count + 1)
        for top in range(0, reader.info.height, 100):
            writer.write(reader.read(Box(top, 0, 100, reader.info.width), bands))
        writer.commit()
    return writer.warnings


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as made:
        return made.read()


def halved(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(3, HEIGHT // 2, 2, WIDTH // 2, 2).mean((2, 4))


@pytest.mark.parametrize(
    ("name", "wanted", "driver"),
    [
        ("a.TIF", None, "GTiff"),
        ("a.tiff", None, "GTiff"),
        ("a.png", None, "PNG"),
        ("a.JPEG", None, "JPEG"),
        ("a.jp2", None, "JP2OpenJPEG"),
        ("a.webp", None, "WEBP"),
        ("a.tif", "cog", "COG"),
        ("a", "GTiff", "GTiff"),
        ("a.img", "PNG", "PNG"),
        ("a.jp2", "JPEG2000", "JP2OpenJPEG"),
        ("a.vrt", None, "VRT"),
    ],
)
def test_the_suffix_or_the_name_tells_the_format(name: str, wanted: str | None, driver: str) -> None:
    assert choose_format(name, wanted).driver == driver


@pytest.mark.parametrize(
    ("name", "wanted", "kind", "what"),
    [
        ("a.gif", None, OutputError, "cannot be written as .gif"),
        ("a", None, OutputError, "without a suffix"),
        ("a.tif", "GIF", UsageError, "none that can be written"),
        ("a.png", "COG", OutputError, "no suffix of a COG"),
        ("a.tif", "PNG", OutputError, "no suffix of a PNG"),
        ("a.vrt", "GTiff", OutputError, "no suffix of a GeoTIFF"),
    ],
)
def test_a_format_that_is_none_or_another_is_refused(
    name: str, wanted: str | None, kind: type[DehazeError], what: str
) -> None:
    with pytest.raises(kind, match=what) as caught:
        choose_format(name, wanted)
    assert caught.value.hint


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("format", [format for format in FORMATS if format.driver != "JPEG"], ids=str)
def test_every_lossless_format_gives_the_pixels_back(tmp_path: Path, format: Any, dtype: str) -> None:
    pixels = SCENE.astype(dtype) * (1 if dtype == "uint8" else 100)
    target = tmp_path / f"out{format.suffixes[0]}"
    if dtype not in format.dtypes:
        with pytest.raises(OutputError, match="pixels of a") as caught:
            store(source(tmp_path, pixels), target, format=format.driver)
        assert "out.tif" in caught.value.hint
        return
    store(source(tmp_path, pixels), target, format=format.driver)
    assert np.array_equal(read(target), pixels)
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    with rasterio.open(target) as made:
        assert made.crs.to_epsg() == 32633 and made.transform == PLACE["transform"]


@pytest.mark.parametrize(
    ("name", "height", "width", "what"),
    [("o.webp", 10, 16_384, "a side"), ("o.webp", 9000, 9000, "in memory"), ("o.jpg", 65_501, 9, "a side")],
)
def test_what_is_too_large_for_a_format_is_refused(
    tmp_path: Path, name: str, height: int, width: int, what: str
) -> None:
    reader = ArrayReader(np.broadcast_to(np.uint8(1), (height, width, 3)))
    with pytest.raises(OutputError, match=what) as caught:
        open_writer(tmp_path / name, reader)
    assert "o.tif" in caught.value.hint and not names(tmp_path)


def test_a_jpeg_is_nearly_the_scene(tmp_path: Path) -> None:
    assert store(source(tmp_path), tmp_path / "out.jpg") == []
    assert np.abs(read(tmp_path / "out.jpg").astype(int) - SCENE).mean() < 3


def test_a_picture_keeps_its_alpha_exactly(tmp_path: Path) -> None:
    alpha = np.where(SMOOTH[:1] > 100, 255, 0).astype(np.uint8)
    pixels = np.concatenate([SCENE, alpha])
    reader = ArrayReader(pixels, channels_first=True, alpha=4)
    for name in ("out.webp", "out.jp2", "out.png"):
        with open_writer(tmp_path / name, reader) as writer:
            writer.write(pixels)
            writer.commit()
        assert np.array_equal(read(tmp_path / name), pixels), name
        assert open_reader(tmp_path / name).info.alpha == 4


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_cog_is_valid_and_its_overviews_are_of_its_own_pixels(tmp_path: Path, dtype: str) -> None:
    cogeo = pytest.importorskip("rio_cogeo.cogeo")
    path = source(tmp_path, SCENE.astype(dtype), nodata=0)
    assert store(path, tmp_path / "out.tif", format="COG") == []
    valid, errors, warnings = cogeo.cog_validate(tmp_path / "out.tif", strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.overviews(1) == [2]
        assert made.profile["compress"] == "deflate" and made.profile["tiled"]
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as smaller:
        assert np.abs(smaller.read() - halved(SCENE)).max() <= 0.5


def test_a_cog_keeps_mask_and_tags_of_bands_and_namespaces_together(tmp_path: Path) -> None:
    with rasterio.open(source(tmp_path), "r+") as made:
        made.update_tags(2, wavelength="560")
        made.update_tags(ns="SENSOR", gain="2")
        made.write_mask(SCENE[0] > 40)
    assert store(tmp_path / "in.tif", tmp_path / "out.tif", format="COG") == []
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags(2)["wavelength"] == "560" and made.tags(ns="SENSOR") == {"gain": "2"}
        assert np.array_equal(made.read_masks(1) != 0, SCENE[0] > 40)


def test_a_geotiff_is_tiled_and_deflated_with_the_predictor_of_its_type(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for dtype, predictor in [("uint8", 2), ("int16", 2), ("float32", 3), ("float64", 3)]:
        store(source(tmp_path, SCENE.astype(dtype)), tmp_path / f"{dtype}.tif")
        with tifffile.TiffFile(tmp_path / f"{dtype}.tif") as made:
            page = made.pages[0]
            assert (page.is_tiled, page.compression.name) == (True, "ADOBE_DEFLATE")
            assert page.predictor == predictor


def test_overviews_are_added_on_request_and_are_of_the_output(tmp_path: Path) -> None:
    store(source(tmp_path), tmp_path / "out.tif", overviews=True)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.overviews(1) == [2, 4]
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as smaller:
        assert np.abs(smaller.read() - halved(SCENE)).max() <= 0.5
    assert np.array_equal(read(tmp_path / "out.tif"), SCENE)
    assert names(tmp_path) == {"in.tif", "out.tif"}
    with pytest.raises(OutputError, match="no overviews"):
        store(tmp_path / "in.tif", tmp_path / "out.png", overviews=True)


@pytest.mark.parametrize(
    ("target", "creation", "seen"),
    [
        ("o.tif", ["COMPRESS=ZSTD", "ZSTD_LEVEL=3"], {"compress": "zstd", "tiled": True}),
        ("o.tif", ["compress=lzw", "TILED=NO"], {"compress": "lzw", "tiled": False}),
        ("o.tif", ["BLOCKXSIZE=512", "BLOCKYSIZE=128"], {"blockxsize": 512, "blockysize": 128}),
        ("o.tif", ["COMPRESS=NONE", "INTERLEAVE=BAND"], {"interleave": "band"}),
    ],
)
def test_creation_options_reach_gdal_and_win(
    tmp_path: Path, target: str, creation: list[str], seen: dict[str, Any]
) -> None:
    store(source(tmp_path), tmp_path / target, *creation)
    with rasterio.open(tmp_path / target) as made:
        assert {name: made.profile[name] for name in seen} == seen
    assert np.array_equal(read(tmp_path / target), SCENE)


@pytest.mark.parametrize(
    ("target", "creation"),
    [
        ("o.tif", ["COMPRESS=JPEG", "PHOTOMETRIC=YCBCR"]),
        ("o.tif", ["COMPRESS=LERC", "MAX_Z_ERROR=2"]),
        ("o.tif", ["DISCARD_LSB=2"]),
        ("o.jpg", ["QUALITY=60"]),
        ("o.webp", ["QUALITY=80"]),
        ("o.jp2", ["QUALITY=20"]),
    ],
)
def test_pixels_may_change_a_little_where_that_was_asked_for(
    tmp_path: Path, target: str, creation: list[str]
) -> None:
    store(source(tmp_path), tmp_path / target, *creation)
    difference = np.abs(read(tmp_path / target).astype(int) - SCENE)
    assert 0 < difference.mean() < 6


def test_an_unknown_creation_option_is_gdals_to_warn_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store(source(tmp_path), tmp_path / "out.tif", "NO_SUCH_OPTION=1", "COMPRESS=NEVER")
    assert "NO_SUCH_OPTION" in caplog.text and "COMPRESS=NEVER" in caplog.text


def test_a_creation_option_that_gdal_refuses_is_blamed(tmp_path: Path) -> None:
    path = source(tmp_path)
    with pytest.raises(OutputError, match="creation options") as caught:
        store(path, tmp_path / "o.tif", "BLOCKXSIZE=100")
    assert "--co" in caught.value.hint
    assert names(tmp_path) == {"in.tif"}


def test_the_command_line_takes_format_options_and_overviews(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    path = source(tmp_path, SCENE[:, :100, :120])
    options = ["--weights", tiny_weights, "-q"]
    cog = dehazexl("run", path, tmp_path / "c.tif", *options, "-f", "COG", "--co", "BLOCKSIZE=128")
    assert (cog.code, cog.err) == (0, "")
    with rasterio.open(tmp_path / "c.tif") as made:
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and made.block_shapes[0] == (128, 128)
    twice = ["-co", "COMPRESS=ZSTD", "-co", "ZSTD_LEVEL=1"]
    assert dehazexl("run", path, tmp_path / "z.tif", *options, *twice).code == 0
    with rasterio.open(tmp_path / "z.tif") as made:
        assert made.profile["compress"] == "zstd"
    for name in ("o.jpg", "o.jp2", "o.webp"):
        assert dehazexl("run", path, tmp_path / name, *options).code == 0
    bad = dehazexl("run", path, tmp_path / "x.tif", *options, "--co", "COMPRESS")
    assert bad.code == 2 and "NAME=VALUE" not in bad.err and "COMPRESS=ZSTD" in bad.err
    assert dehazexl("run", path, tmp_path / "x.tif", *options, "-f", "XYZ").code == 2


def test_what_is_lost_is_in_the_report_and_on_stderr(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    path = source(tmp_path, SCENE[:, :100, :120], nodata=0)
    result = dehazexl("run", path, tmp_path / "o.jpg", "--weights", tiny_weights, "--json")
    assert "warning: a JPEG so compressed changes pixels a little" in result.err
    assert '"a JPEG so compressed changes pixels' in result.out


def test_a_photograph_held_upright_only_by_its_tag_stays_so_or_says_so(tmp_path: Path) -> None:
    with rasterio.open(source(tmp_path), "r+") as made:
        made.update_tags(EXIF_Orientation="6")
    assert store(tmp_path / "in.tif", tmp_path / "photo.jpg") == []
    reader = open_reader(tmp_path / "photo.jpg")
    assert (reader.info.height, reader.info.width) == (HEIGHT, WIDTH)  # as stored, not as shown
    assert store(tmp_path / "photo.jpg", tmp_path / "again.jpg") == []
    (tmp_path / "again.jpg.aux.xml").unlink()
    with rasterio.open(tmp_path / "again.jpg") as made:
        assert made.tags()["EXIF_Orientation"] == "6"
    (warning,) = store(tmp_path / "photo.jpg", tmp_path / "out.tif")
    assert "turned" in warning


def test_the_orientation_of_a_tiff_that_gdal_cannot_write_is_named(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    extra = [(274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "in.tif", np.moveaxis(SCENE, 0, 2), photometric="rgb", extratags=extra)
    (warning,) = store(tmp_path / "in.tif", tmp_path / "out.tif")
    assert warning.endswith("TIFF orientation")
