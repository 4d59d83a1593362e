"""TIFFs that GDAL refuses, or reads only in part, are read through tifffile with all they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from conftest import Identity, Result

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.gdal import GdalReader
from dehazexl_cli.raster.gdal_info import UnsupportedByGdal
from dehazexl_cli.raster.tiff import TiffReader

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
HEIGHT, WIDTH = 200, 300
RGB = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] * [1, 1.2, 0.8] / 4 + 1).astype(np.uint8)
WORDS = RGB.astype(np.uint16) * 200
FLOATS = (RGB / 256).astype(np.float32)
HALVES = FLOATS.astype(np.float16)
TILES = {"tile": (64, 64)}
PLANES = {"planarconfig": "separate"}
GEO_TAGS = (33550, 33922, 34735, 34736, 34737, 42112, 42113)  # GeoTIFF, GDAL_METADATA, GDAL_NODATA

# what: (pixels, options of tifffile); all of it is refused by GDAL
REFUSED: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "JPEG XL, tiles": (RGB, {"compression": "jpegxl", **TILES}),
    "JPEG XL, strips": (WORDS, {"compression": "jpegxl", "rowsperstrip": 33}),
    "JPEG XL, one strip": (RGB, {"compression": "jpegxl"}),
    "JPEG XL, planes": (RGB, {"compression": "jpegxl", **PLANES, **TILES}),
    "JPEG XL, float32": (FLOATS, {"compression": "jpegxl", **TILES}),
    "JPEG XL, float16": (HALVES, {"compression": "jpegxl", **TILES}),
    "JPEG XL, one band": (WORDS[..., 0], {"compression": "jpegxl", **TILES}),
    "PixTIFF, big-endian": (WORDS, {"compression": "pixtiff", "byteorder": ">"}),
    "JPEG XL, BigTIFF": (WORDS, {"compression": "jpegxl", "bigtiff": True, **TILES}),
    "JPEG XR": (WORDS, {"compression": "jpegxr", **TILES}),
    "JPEG 2000": (WORDS, {"compression": "jpeg2000", **TILES}),
    "PNG": (WORDS, {"compression": "png", **TILES}),
    "PixTIFF, float16": (HALVES, {"compression": "pixtiff", **TILES}),
    "JPEG of 12 bits": (WORDS // 16, {"compression": "jpeg", "compressionargs": {"level": 100}, **TILES}),
    "OME channels": (WORDS, {"ome": True, "metadata": {"axes": "CYX"}}),
    "OME channels, JPEG XL": (WORDS, {"ome": True, "metadata": {"axes": "CYX"}, "compression": "jpegxl"}),
    "ImageJ channels": (WORDS, {"imagej": True, "metadata": {"axes": "CYX"}}),
}
# These GDAL reads by itself, so they go its way.
READ_BY_GDAL: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "float16": (HALVES, {"compression": "deflate", "predictor": 3, **TILES}),
    "float16, big-endian": (HALVES, {"byteorder": ">"}),
    "LERC": (FLOATS, {"compression": "lerc", **TILES}),
    "WebP": (RGB, {"compression": "webp", "compressionargs": {"lossless": True}}),
    "planes": (WORDS, {"compression": "zstd", "predictor": True, **PLANES, **TILES}),
    "odd strips": (RGB, {"compression": "lzma", "rowsperstrip": 7}),
    "OME, one image": (WORDS, {"ome": True}),
}


def save(folder: Path, pixels: np.ndarray, options: dict[str, Any]) -> tuple[Path, np.ndarray]:
    """A TIFF, and what it holds [bands, height, width]."""
    path = folder / "in.tif"
    options = dict(options)
    of_file = {
        name: options.pop(name) for name in ("ome", "imagej", "bigtiff", "byteorder") if name in options
    }
    channels = options.get("metadata", {}).get("axes") == "CYX"
    bands = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    stored = bands if channels or options.get("planarconfig") == "separate" else pixels
    kind = "minisblack" if channels or pixels.ndim == 2 else "rgb"
    with tifffile.TiffWriter(path, **of_file) as file:
        file.write(stored, photometric=kind, **options)
    return path, bands


def whole(reader: Any) -> np.ndarray:
    info = reader.info
    return reader.read(Box(0, 0, info.height, info.width), range(1, info.count + 1))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_gdal_refuses_is_read(tmp_path: Path, kind: str) -> None:
    path, expected = save(tmp_path, *REFUSED[kind])
    with pytest.raises(UnsupportedByGdal, match="GDAL"):
        GdalReader(str(path))
    reader = open_reader(path)
    assert isinstance(reader, TiffReader)
    assert (reader.info.count, reader.info.height, reader.info.width) == expected.shape
    found = whole(reader)
    assert found.dtype == ("float32" if expected.dtype == "float16" else expected.dtype)
    assert np.abs(found.astype(float) - expected).mean() <= (20 if "12 bits" in kind else 0)
    random = np.random.default_rng(0)
    for _ in range(20):
        top, left = int(random.integers(HEIGHT)), int(random.integers(WIDTH))
        box = Box(
            top, left, int(random.integers(1, HEIGHT - top + 1)), int(random.integers(1, WIDTH - left + 1))
        )
        bands = [int(band) for band in random.permutation(len(expected))[:2] + 1]
        part = found[[band - 1 for band in bands], box.top : box.bottom, box.left : box.right]
        assert np.array_equal(reader.read(box, bands), part)
    assert reader.valid(box, [1]) is None
    assert reader.sample([1], 50).shape == (1, 2500)
    reader.close()


@pytest.mark.parametrize("kind", READ_BY_GDAL)
def test_what_gdal_reads_goes_its_way_and_is_the_same(tmp_path: Path, kind: str) -> None:
    path, expected = save(tmp_path, *READ_BY_GDAL[kind])
    reader = open_reader(path)
    assert isinstance(reader, GdalReader)
    assert np.array_equal(whole(reader), expected)


def geotiff_in_jpegxl(folder: Path, pixels: np.ndarray, **said: Any) -> Path:
    """A GeoTIFF as GDAL makes it, recompressed."""
    shape = {"height": HEIGHT, "width": WIDTH, "count": pixels.shape[2], "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}
    with rasterio.open(folder / "plain.tif", "w", driver="GTiff", **shape, **place, **said) as made:
        made.write(np.moveaxis(pixels, 2, 0))
        made.update_tags(MISSION="one")
        made.update_tags(2, wavelength="560")
        made.scales = (0.5,) * pixels.shape[2]
    with tifffile.TiffFile(folder / "plain.tif") as plain:
        tags = [
            (t.code, int(t.dtype), t.count, t.value, True) for t in plain.pages[0].tags if t.code in GEO_TAGS
        ]
        samples = [t.value for t in plain.pages[0].tags if t.code == 338]
    extra = {"extrasamples": ["unassalpha"]} if samples else {}
    path = folder / "in & out.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", compression="jpegxl", extratags=tags, metadata=None, **TILES, **extra
    )
    return path


def test_all_it_says_is_carried_to_the_output(tmp_path: Path) -> None:
    path = geotiff_in_jpegxl(tmp_path, RGB, nodata=7)
    with closing(open_reader(path)) as reader:
        report = run(reader, lambda: open_writer(tmp_path / "out.tif", reader), Identity(), EngineOptions())
    with rasterio.open(tmp_path / "out.tif") as made, rasterio.open(tmp_path / "plain.tif") as plain:
        assert (made.crs, made.transform, made.nodata) == (plain.crs, plain.transform, 7)
        assert made.tags()["MISSION"] == "one" and made.tags(2)["wavelength"] == "560"
        assert made.scales == plain.scales
        assert np.array_equal(made.read(), np.moveaxis(RGB, 2, 0))
    nodata = (RGB == 7).all(axis=2)
    assert report.invalid_pixels == nodata.sum()


def test_transparent_and_unknown_pixels_are_no_ground(tmp_path: Path) -> None:
    alpha = np.where(RGB[..., :1] > 90, 255, 0).astype(np.uint8)
    reader = open_reader(geotiff_in_jpegxl(tmp_path, np.concatenate([RGB, alpha], axis=2)))
    assert isinstance(reader, TiffReader) and reader.info.alpha == 4
    ground = reader.valid(Box(0, 0, HEIGHT, WIDTH), [1, 2, 3])
    reader.close()
    assert np.array_equal(ground, alpha[..., 0] != 0)
    holed = FLOATS.copy()
    holed[5, 6, 1] = np.nan
    path, _ = save(tmp_path, holed, {"compression": "pixtiff"})
    with closing(open_reader(path)) as reader:
        ground = reader.valid(Box(0, 0, HEIGHT, WIDTH), [1, 2, 3])
    assert ground is not None and np.argwhere(~ground).tolist() == [[5, 6]]


def test_only_the_tiles_asked_for_are_decoded_and_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = save(tmp_path, RGB, {"compression": "jpegxl", **TILES})
    with closing(open_reader(path)) as reader:
        assert isinstance(reader, TiffReader)
        reader.read(Box(70, 70, 10, 10), [1])
        assert list(reader._kept) == [(0, 6)]
        monkeypatch.setattr("dehazexl_cli.raster.tiff.CACHE_BYTES", 3 * 64 * 64 * 3)
        assert np.array_equal(whole(reader), expected)
        assert len(reader._kept) == 3


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_damaged_one_says_so(tmp_path: Path, keep: float) -> None:
    path, _ = save(tmp_path, RGB, {"compression": "jpegxl", **TILES})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with (
        closing(open_reader(path)) as reader,
        pytest.raises(InputError, match="rows 0 to 199 cannot be read") as caught,
    ):
        whole(reader)
    assert "again" in caught.value.hint and "\n" not in caught.value.message


def test_what_neither_library_reads_keeps_gdals_word(tmp_path: Path) -> None:
    path, _ = save(tmp_path, RGB, {"compression": "jpegxl"})
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[259].valueoffset
    data[at : at + 2] = (64_999).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="64999"):
        whole(open_reader(path))


def test_a_stack_that_is_no_image_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "in.tif", ome=True) as file:
        file.write(np.moveaxis(WORDS, 2, 0), photometric="minisblack", metadata={"axes": "TYX"})
    with pytest.raises(InputError, match="stack of images along T"):
        open_reader(tmp_path / "in.tif")


def test_the_command_dehazes_one(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    path = geotiff_in_jpegxl(tmp_path, RGB)
    result = dehazexl("run", path, tmp_path / "out.tif", "--weights", tiny_weights, "-q")
    assert (result.code, result.err) == (0, "")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.crs.to_epsg() == 32633 and made.shape == (HEIGHT, WIDTH)


def test_information_is_a_value(tmp_path: Path) -> None:
    path, _ = save(tmp_path, RGB, {"compression": "jpegxl"})
    with closing(open_reader(path)) as reader:
        assert dataclasses.asdict(reader.info)["name"] == str(path)
