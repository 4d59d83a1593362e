"""Creation options that change pixels, size or place: what they do is known before work, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Identity, dehaze_file
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from test_bands import loaded, make, read
from test_stream import FP32

from dehazexl_cli.config import EngineOptions, Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster.verifier import WriteVerifier
from dehazexl_cli.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CPU = EngineOptions(**FP32)  # type: ignore[arg-type]
RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 4e6)}


def picture(count: int = 3, height: int = 90, width: int = 300) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:height, :width]
    bands = [100 + 60 * np.sin(x / (9 + 4 * k)) * np.cos(y / (11 + 3 * k)) for k in range(count)]
    return np.stack(bands).astype(np.uint8)


def dehazed(source: Path, name: str, *creation: str, format: str | None = None) -> Report:
    pairs = tuple((each.partition("=")[0], each.partition("=")[2]) for each in creation)
    return dehaze_file(
        source,
        source.with_name(name),
        model=loaded(Identity()),
        options=CPU,
        storage=Storage(format, pairs),
        provenance=False,
    )


def with_alpha(path: Path) -> Path:
    pixels = picture(4)
    pixels[3] = 255
    pixels[3, :, :100] = 0
    make(path, pixels, **PLACE)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = RGBA
    return path


EVEN = [
    ("out.jpg", ()),
    ("out.jpg", ("QUALITY=20",)),
    ("out.tif", ("COMPRESS=JPEG",)),
    ("out.tif", ("COMPRESS=JPEG", "PHOTOMETRIC=YCBCR", "JPEG_QUALITY=5")),
    ("out.tif", ("COMPRESS=WEBP", "WEBP_LEVEL=10")),
    ("out.jp2", ("QUALITY=5", "REVERSIBLE=NO")),
    ("out.webp", ("QUALITY=5",)),
    ("out.tif", ("DISCARD_LSB=4",)),
]


@pytest.mark.parametrize(("name", "creation"), EVEN)
@pytest.mark.parametrize("colour", [(36, 36, 37), (13, 13, 13), (250, 3, 128)])
def test_even_colours_in_lossy_files_raise_no_false_alarm(
    tmp_path: Path, name: str, creation: tuple[str, ...], colour: tuple[int, ...]
) -> None:
    pixels = picture(height=64)
    pixels[:, :40] = np.array(colour)[:, None, None]
    dehazed(make(tmp_path / "in.tif", pixels), name, *creation)
    assert abs(read(tmp_path / name).astype(int) - pixels).mean() < 25


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (17, 1)])
def test_tiny_pictures_may_be_lossy(tmp_path: Path, height: int, width: int) -> None:
    pixels = np.full((3, height, width), 40, np.uint8) + np.array([0, 1, 3], np.uint8)[:, None, None]
    dehazed(make(tmp_path / "in.tif", pixels), "out.jpg")
    dehazed(make(tmp_path / "in.tif", pixels), "out.tif", "COMPRESS=JPEG")
    assert abs(read(tmp_path / "out.jpg").astype(int) - pixels).max() < 5


@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_lost_blocks_are_found_in_lossy_files(tmp_path: Path, drift: float) -> None:
    rows = picture(height=64, width=2048) // 4  # dark
    proof = WriteVerifier(drift)
    proof.note(Window(0, 0, 2048, 64), rows, None)
    blurred = np.clip(rows.astype(int) + np.random.default_rng(0).integers(-3, 4, rows.shape), 0, 255)
    with rasterio.open(make(tmp_path / "fine.tif", blurred.astype(np.uint8))) as fine:
        assert proof.holds_for(fine)
    blurred[:, :, 512:768] = 0
    with rasterio.open(make(tmp_path / "lost.tif", blurred.astype(np.uint8))) as lost:
        assert not proof.holds_for(lost)


def test_what_loses_nothing_is_checked_to_the_bit(tmp_path: Path) -> None:
    dehazed(make(tmp_path / "in.tif", picture()), "out.tif", "COMPRESS=ZSTD", "ZSTD_LEVEL=3")
    assert np.array_equal(read(tmp_path / "out.tif"), picture())


LOSSY: list[tuple[str, tuple[str, ...], str | None]] = [
    ("out.jpg", (), None),
    ("out.tif", ("COMPRESS=JPEG",), None),
    ("out.tif", ("COMPRESS=WEBP", "WEBP_LEVEL=75"), None),
    ("out.tif", ("COMPRESS=JPEG",), "COG"),
    ("out.tif", ("COMPRESS=WEBP",), "COG"),
    ("out.jp2", ("QUALITY=20", "REVERSIBLE=NO"), None),
    ("out.vrt", ("COMPRESS=JPEG",), None),
]


@pytest.mark.parametrize(("name", "creation", "format"), LOSSY)
def test_nodata_that_is_no_longer_exact_is_said_whichever_way_it_was_asked_for(
    tmp_path: Path, name: str, creation: tuple[str, ...], format: str | None
) -> None:
    pixels = picture()
    pixels[:, :, :100] = 0
    source = make(tmp_path / "in.tif", pixels, nodata=0, **PLACE)
    warnings = dehazed(source, name, *creation, format=format).warnings
    assert any("may be no longer exactly nodata" in each for each in warnings)


@pytest.mark.parametrize(
    "creation", [("COMPRESS=ZSTD",), ("COMPRESS=WEBP", "WEBP_LOSSLESS=YES"), ("TILED=NO",)]
)
def test_of_nodata_that_stays_nothing_is_said(tmp_path: Path, creation: tuple[str, ...]) -> None:
    pixels = picture()
    pixels[:, :, :100] = 0
    source = make(tmp_path / "in.tif", pixels, nodata=0, **PLACE)
    assert dehazed(source, "out.tif", *creation).warnings == []


def test_alpha_in_lossy_files_is_said_to_change(tmp_path: Path) -> None:
    source = with_alpha(tmp_path / "in.tif")
    assert "alpha may be no longer exactly" in dehazed(source, "a.tif", "COMPRESS=JPEG").warnings[0]
    # WebP keeps alpha, whatever its quality.
    assert dehazed(source, "b.tif", "COMPRESS=WEBP", "WEBP_LEVEL=50").warnings == []
    assert np.array_equal(read(tmp_path / "b.tif")[3], read(source)[3])


def test_a_cog_by_jpeg_keeps_alpha_as_a_mask(tmp_path: Path) -> None:
    source = with_alpha(tmp_path / "in.tif")
    (warning,) = dehazed(source, "out.tif", "COMPRESS=JPEG", format="COG").warnings
    assert "alpha as a mask" in warning
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.count == 3
        assert np.array_equal(out.read_masks(1), read(source)[3])


REFUSED: list[tuple[str, tuple[str, ...], str | None, str]] = [
    ("uint16", ("COMPRESS=JPEG",), None, "BitsPerSample 16 not allowed"),
    ("uint16", ("COMPRESS=JPEG",), "COG", "BitsPerSample 16 not allowed"),
    ("uint8", ("TILING_SCHEME=GoogleMapsCompatible",), "COG", "another size"),
    ("uint8", ("TARGET_SRS=EPSG:3857",), "COG", "another place and coordinate system"),
    ("uint8", ("COMPRESS=CCITTFAX4",), None, "creation options"),
    ("uint8", ("BLOCKSIZE=100",), "COG", "creation options"),
]


@pytest.mark.parametrize(("dtype", "creation", "format", "said"), REFUSED)
def test_impossible_options_are_refused_before_work(
    tmp_path: Path, dtype: str, creation: tuple[str, ...], format: str | None, said: str
) -> None:
    class Never(Identity):
        def encode(self, batch: Any) -> Any:
            raise AssertionError("work has begun")

    source = make(tmp_path / "in.tif", picture().astype(dtype), **PLACE)
    pairs = tuple((each.partition("=")[0], each.partition("=")[2]) for each in creation)
    with pytest.raises(OutputError, match=said):
        dehaze_file(
            source, tmp_path / "out.tif", model=loaded(Never()), options=CPU, storage=Storage(format, pairs)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_bits_that_cannot_hold_the_numbers_are_an_error(tmp_path: Path) -> None:
    values = picture().astype(np.uint16) * 40
    source = make(tmp_path / "in.tif", values)
    with pytest.raises(OutputError, match="NBITS=12 ends at 4095"):
        dehazed(source, "out.tif", "NBITS=12")
    dehazed(source, "out.tif", "NBITS=13")
    assert np.array_equal(read(tmp_path / "out.tif"), values)
