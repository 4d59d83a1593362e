"""What a raster says beside its pixels comes through reading and writing: one row per field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from compare_metadata import said_by
from metadata_table import (
    FIELDS,
    FORMATS,
    PIXELS,
    TYPES,
    XMP,
    Field,
    fate,
    kept,
    look,
    make,
    rewrite,
    tagging,
)
from rasterio.enums import ColorInterp as Colour

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.base import RasterInfo
from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.raster.snapshot import missing_fields

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
# What GDAL takes three or four bands for: bytes for colours, other types for bands.
SAME_AS_SILENCE = {"red green blue", "with alpha", "three grey bands"}
ORDERS = {"blue green red", "with infrared", "alpha first"}  # of bands, that a picture cannot say
REFUSED = {
    "PNG": ORDERS,
    "JPEG": {*ORDERS, "with alpha"},
    "WEBP": ORDERS,
}
NAMED = {
    "PNG": {"three grey bands"},
    "JPEG": {"three grey bands"},
    "WEBP": {"three grey bands"},
    "JP2OpenJPEG": {"three grey bands", "with infrared", "GCPs without CRS"},
}
HOLDS = {"PNG": {"uint8", "uint16"}, "JPEG": {"uint8"}, "WEBP": {"uint8"}, "JP2OpenJPEG": {"uint8", "uint16"}}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_survives_in_a_geotiff(tmp_path: Path, name: str, dtype: str) -> None:
    field = FIELDS[name]
    source = make(tmp_path / "in.tif", field, dtype)
    expected = look(source, field)
    if name not in SAME_AS_SILENCE:  # else the row would prove nothing
        assert not kept(look(make(tmp_path / "plain.tif", None, dtype, field.count), field), expected)
    assert rewrite(source, tmp_path / "out.tif") == []
    assert kept(look(tmp_path / "out.tif", field), expected)


def check_other_formats(folder: Path, name: str, dtype: str, formats: list[str]) -> None:
    for format in formats:
        place = folder / format
        place.mkdir()
        found = fate(FIELDS[name], dtype, format, place)
        if dtype not in HOLDS.get(format, set(TYPES)) or name in REFUSED.get(format, set()):
            assert found == "-", format
        elif name in NAMED.get(format, set()):
            assert found == "named", format
        else:
            assert found in ("yes", "beside"), format


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_survives_in_other_formats(tmp_path: Path, name: str) -> None:
    check_other_formats(tmp_path, name, "uint8", ["COG", "VRT", "PNG"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_survives_or_is_named_in_every_format(tmp_path: Path, name: str, dtype: str) -> None:
    check_other_formats(tmp_path, name, dtype, [format for format in FORMATS if format != "GTiff"])


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", FIELDS["three grey bands"], "uint8")
    (warning,) = rewrite(source, tmp_path / "out.png")
    assert warning == "a PNG cannot hold all that the input says: colour of band 1"


def test_a_jpeg_says_that_its_nodata_is_not_exact(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", FIELDS["nodata"], "uint8")
    (warning,) = rewrite(source, tmp_path / "out.jpg")
    assert "no longer exactly nodata" in warning


def test_bands_in_an_order_a_png_cannot_say_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", FIELDS["blue green red"], "uint8")
    with pytest.raises(OutputError, match="band 1 of a PNG is red") as caught:
        rewrite(source, tmp_path / "out.png")
    assert "out.tif" in caught.value.hint
    assert list(tmp_path.iterdir()) == [source]


def test_statistics_of_the_old_pixels_are_dropped(tmp_path: Path) -> None:
    said = Field(tagging(bidx=1, STATISTICS_MEAN="5", OVR_RESAMPLING_ALG="CUBIC", wavelength="1"))  # type: ignore[arg-type]
    assert rewrite(make(tmp_path / "in.tif", said, "uint8"), tmp_path / "out.tif") == []
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags(1) == {"wavelength": "1"}


def test_a_namespace_about_the_source_file_is_not_carried(tmp_path: Path) -> None:
    make(tmp_path / "plain.tif", None, "uint8")
    rasterio.shutil.copy(tmp_path / "plain.tif", tmp_path / "in.tif", compress="lzw", interleave="band")
    rewrite(tmp_path / "in.tif", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert not made.tags(ns="SUBDATASETS")


def test_the_drones_xmp_of_a_jpeg_comes_along(tmp_path: Path) -> None:
    make(tmp_path / "in.tif", None, "uint8")
    rasterio.shutil.copy(str(tmp_path / "in.tif"), str(tmp_path / "in.jpg"), driver="JPEG")
    jpeg, segment = (tmp_path / "in.jpg").read_bytes(), b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()
    marked = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
    (tmp_path / "in.jpg").write_bytes(marked)
    rewrite(tmp_path / "in.jpg", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags(ns="xml:XMP") == {"xml:XMP": XMP}


def test_a_tag_that_rasterio_cannot_take_is_left_out_and_named(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", Field(tagging(kept="1")), "uint8")
    text = '<PAMDataset><Metadata><MDI key="ns">x</MDI><MDI key="kept">1</MDI></Metadata></PAMDataset>'
    (tmp_path / "in.tif.aux.xml").write_text(text)
    (warning,) = rewrite(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags()["kept"] == "1" and "ns" not in made.tags()
    assert warning.endswith("tag ns")


def test_an_array_has_nothing_to_carry_but_nodata_and_alpha(tmp_path: Path) -> None:
    reader = ArrayReader(PIXELS, channels_first=True, nodata=3, alpha=2)
    with open_writer(tmp_path / "out.tif", reader) as writer:
        writer.write(PIXELS)
        writer.commit()
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.nodata == 3
        assert made.colorinterp == (Colour.red, Colour.alpha, Colour.green, Colour.blue)


@pytest.mark.parametrize("format", ["GTiff", "COG"])
@pytest.mark.parametrize("name", ["gcps", "mosaic_uint16_3band", "naip_wetland_4band", "orthophoto_alpha"])
def test_a_real_scene_says_the_same_before_and_after(
    shared: Path, tmp_path: Path, name: str, format: str
) -> None:
    source, target = shared / "data" / "try" / f"{name}.tif", tmp_path / "out.tif"
    assert rewrite(source, target, format) == []
    before, after = said_by(str(source)), said_by(str(target))
    assert missing_fields(before, after) == missing_fields(after, before) == []
    assert len(before) > 8


def test_a_mask_is_written_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_NUM_THREADS", "4")
    source = make(tmp_path / "in.tif", FIELDS["internal mask"], "uint16")
    for number in range(20):
        rewrite(source, tmp_path / f"{number}.tif")
    assert capfd.readouterr().err == ""


def test_pixels_of_another_kind_get_the_place_and_nothing_else(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", count=2, height=6, width=5, dtype="uint8", nodata=7,
        crs="EPSG:32633", transform=Affine(2, 0, 5e5, 0, -2, 4e6),
    ) as made:  # fmt: skip
        made.write(np.ones((2, 6, 5), np.uint8))
        made.update_tags(SENSOR="x")
        made.scales, made.offsets, made.descriptions = (0.1, 0.1), (3, 3), ("red", "green")
    info = RasterInfo("map", "GTiff", 6, 5, 2, "float32", nodata=float("nan"))
    storage = Storage(descriptions=("first", "second"))
    with open_writer(
        tmp_path / "out.tif", open_reader(tmp_path / "in.tif"), storage=storage, info=info
    ) as writer:
        writer.write(np.full((2, 6, 5), -0.5, np.float32))
        writer.commit()
    with rasterio.open(tmp_path / "out.tif") as made:
        assert (made.crs, made.transform) == ("EPSG:32633", Affine(2, 0, 5e5, 0, -2, 4e6))
        assert made.dtypes == ("float32", "float32") and np.isnan(made.nodata)
        assert made.descriptions == ("first", "second")
        assert made.scales == (1, 1) and made.offsets == (0, 0) and "SENSOR" not in made.tags()
        assert (made.read() == -0.5).all()
