"""What cannot be read says what is wrong and what to do; it is never half read."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from conftest import Result

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader

NOISE = np.random.default_rng(0).integers(0, 255, (3, 200, 300)).astype(np.uint8)


def make(path: Path, pixels: np.ndarray = NOISE, **profile: Any) -> Path:
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **place, **profile}) as target:
        target.write(pixels)
    return path


def cut(path: Path, keep: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return path


def text(folder: Path) -> Path:
    path = folder / "in.tif"
    path.write_text("this is no raster\n")
    return path


def empty(folder: Path) -> Path:
    path = folder / "in.tif"
    path.write_bytes(b"")
    return path


def header_only(folder: Path) -> Path:
    # The directory lies at the end of this file, so nothing can be known of it.
    path = folder / "in.tif"
    tifffile.imwrite(path, NOISE, photometric="rgb", planarconfig="separate")
    start = struct.unpack("<I", path.read_bytes()[4:8])[0]
    path.write_bytes(path.read_bytes()[: start + 6])
    return path


def palette(folder: Path) -> Path:
    path = make(folder / "in.tif", NOISE[:2], photometric="palette")
    with rasterio.open(path, "r+") as made:
        made.write_colormap(1, {0: (255, 0, 0, 255)})
    return path


def no_bands(folder: Path) -> Path:
    path = folder / "in.vrt"
    path.write_text('<VRTDataset rasterXSize="10" rasterYSize="10"></VRTDataset>')
    return path


def mixed_types(folder: Path) -> Path:
    make(folder / "a.tif", NOISE[:1])
    make(folder / "b.tif", NOISE[:1].astype(np.uint16))
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">'
        f"{name}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for band, (kind, name) in enumerate([("Byte", "a.tif"), ("UInt16", "b.tif")], 1)
    )
    path = folder / "in.vrt"
    path.write_text(f'<VRTDataset rasterXSize="300" rasterYSize="200">{bands}</VRTDataset>')
    return path


def several(folder: Path) -> Path:
    path = folder / "in.gpkg"
    for table, append in [("first", "NO"), ("second", "YES")]:
        make(path, driver="GPKG", crs="EPSG:3857", RASTER_TABLE=table, APPEND_SUBDATASET=append)
    return path


def unknown_codec(folder: Path) -> Path:
    path = folder / "in.tif"
    tifffile.imwrite(path, NOISE[0], compression="jpegxr")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(64_999)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda folder: folder / "gone.tif", "no such file", "spelling"),
    "folder": (lambda folder: folder, "is a folder", "name a file"),
    "empty": (empty, "empty", "again"),
    "text": (text, "cannot be opened as a raster", "gdalinfo"),
    "header cut": (header_only, "cannot be opened as a raster", "damaged"),
    "no bands": (no_bands, "cannot be opened as a raster", "gdalinfo"),
    "several": (several, "several rasters", "GPKG:"),
    "palette": (palette, "colour table beside other bands", "-expand rgb"),
    "mixed types": (mixed_types, "different types (uint8, uint16)", "-ot"),
    "complex": (lambda folder: make(folder / "in.tif", NOISE.astype("complex64")), "complex64", "amplitudes"),
    "int8": (lambda folder: make(folder / "in.tif", NOISE.astype("int8")), "int8", "uint8"),
    "uint64": (lambda folder: make(folder / "in.tif", NOISE.astype("uint64")), "uint64", "uint32"),
    "codec": (unknown_codec, "cannot decode its compression", "gdal_translate"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_unusable_input_says_what_and_what_to_do(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    build, what, todo = BAD[kind]
    path = build(tmp_path)
    with pytest.raises(InputError) as caught:
        open_reader(path)
    error = caught.value
    assert error.exit_code == 3
    assert str(path) in error.message and what in error.message
    assert todo in error.hint
    assert "\n" not in error.message + error.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JPEG"])
def test_a_file_cut_in_its_data_fails_when_that_part_is_read(
    tmp_path: Path, driver: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = cut(make(tmp_path / "in.any", driver=driver), 0.6)
    reader = open_reader(path)
    for ask in [
        lambda: reader.read(Box(190, 0, 10, 300), [1, 2, 3]),
        lambda: reader.read(Box(0, 0, 200, 300), [1, 2, 3]),
        lambda: reader.sample([1, 2, 3], 200),
    ]:
        with pytest.raises(InputError) as caught:
            ask()
        assert "cannot be read" in caught.value.message and "damaged" in caught.value.hint
        assert "See previous exception" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_the_named_subdataset_can_be_opened(tmp_path: Path) -> None:
    path = several(tmp_path)
    with pytest.raises(InputError) as caught:
        open_reader(path)
    name = caught.value.hint.split(": ", 1)[1].split(", ")[0]
    reader = open_reader(name)
    assert (reader.info.height, reader.info.width) == (200, 300)


def test_the_first_page_of_several_is_read_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tifffile.TiffWriter(tmp_path / "in.tif") as pages:
        for band in NOISE:
            pages.write(band)
    with caplog.at_level(logging.WARNING):
        reader = open_reader(tmp_path / "in.tif")
    assert np.array_equal(reader.read(Box(0, 0, 200, 300), [1])[0], NOISE[0])
    assert "3 rasters" in caplog.text


def test_a_vrt_whose_source_is_gone_fails_when_read(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", NOISE[:1])
    (tmp_path / "in.vrt").write_text(
        '<VRTDataset rasterXSize="300" rasterYSize="200"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "a.tif").unlink()
    reader = open_reader(tmp_path / "in.vrt")
    with pytest.raises(InputError, match=r"a\.tif"):
        reader.read(Box(0, 0, 9, 9), [1])


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    reader = open_reader(make(tmp_path / "in.tif"))
    reader.close()
    reader.close()


def test_what_gdal_forgives_is_said_only_to_those_who_ask(
    dehazexl: Callable[..., Result], tmp_path: Path, tiny_weights: Path
) -> None:
    """Photogrammetry writes a nodata of -10000 into files of bytes, where alpha tells what is ground."""
    nodata = (42113, "s", 0, "-10000", True)
    tifffile.imwrite(tmp_path / "in.tif", np.moveaxis(NOISE, 0, 2), photometric="rgb", extratags=[nodata])
    words = ("run", tmp_path / "in.tif", tmp_path / "o.tif", "--weights", tiny_weights, "--overwrite")
    assert "-10000" not in dehazexl(*words).err
    assert "-10000" in dehazexl(*words, "--verbose").err
