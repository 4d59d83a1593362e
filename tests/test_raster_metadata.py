"""What a raster says beside its pixels comes through reading and writing: one row per field."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp as Colour
from rasterio.rpc import RPC

from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.memory import ArrayReader

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
HEIGHT, WIDTH = 300, 270
PIXELS = np.random.default_rng(0).integers(1, 255, (4, HEIGHT, WIDTH)).astype(np.uint8)
POINTS = [GroundControlPoint(r, c, 10 + c / 100, 50 - r / 100, 3) for r in (0, 299) for c in (0, 269)]
RPCS = RPC(
    height_off=10.5, height_scale=500.25, lat_off=45.1, lat_scale=0.05, long_off=7.2, long_scale=0.07,
    line_off=150, line_scale=150.5, samp_off=135, samp_scale=135.5, err_bias=1.5, err_rand=0.25,
    line_num_coeff=[i / 7 for i in range(20)], line_den_coeff=[1.0] * 20,
    samp_num_coeff=[i / 9 for i in range(20)], samp_den_coeff=[1.0] * 20,
)  # fmt: skip
LAEA = "+proj=laea +lat_0=52 +lon_0=10 +units=m"
WHEN = "2020:01:02 03:04:05"
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><drone yaw="12.5">a=b, Müller</drone></x:xmpmeta>'


def make(path: Path, count: int, change: Callable[[Any], None] | None = None, **profile: Any) -> Path:
    shape = {"count": count, "height": HEIGHT, "width": WIDTH, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as target:
        if change is not None:
            change(target)
        target.write(PIXELS[:count])
    return path


def rewrite(source: Path, target: Path, overwrite: bool = False) -> Path:
    reader = open_reader(source)
    info = reader.info
    with open_writer(target, reader, overwrite=overwrite) as writer:
        for top in range(0, info.height, 70):
            height = min(70, info.height - top)
            writer.write(reader.read(Box(top, 0, height, info.width), range(1, info.count + 1)))
        writer.commit()
    return target


def setting(name: str, value: Any) -> Callable[[Any], None]:
    return lambda dataset: setattr(dataset, name, value)


def tagging(**tags: str) -> Callable[[Any], None]:
    return lambda dataset: dataset.update_tags(**tags)


def tags_of_bands(namespace: str | None) -> Callable[[Any], Any]:
    return lambda dataset: [dataset.tags(band, ns=namespace) for band in (1, 2, 3)]


def points_of(dataset: Any) -> Any:
    points, crs = dataset.gcps
    return [(p.row, p.col, p.x, p.y, p.z) for p in points], crs


def mask(dataset: Any) -> None:
    dataset.write_mask((PIXELS[0] > 99).astype(np.uint8) * 255)


def point_pixels(dataset: Any) -> None:
    dataset.update_tags(AREA_OR_POINT="Point")
    dataset.crs, dataset.transform = "EPSG:32633", Affine(2, 0, 5e5, 0, -3, 4e6)


# field: (bands, how the source gets it, how to look at it)
Row = tuple[int, Callable[[Any], None], Callable[[Any], Any]]
FIELDS: dict[str, Row] = {
    "crs": (3, setting("crs", "EPSG:2056"), lambda d: d.crs),
    "crs of its own": (1, setting("crs", LAEA), lambda d: d.crs and d.crs.to_wkt()),
    "transform": (3, setting("transform", Affine(0.25, 0, 5e5, 0, -0.5, 4e6)), lambda d: d.transform),
    "rotated transform": (3, setting("transform", Affine(1, 0.5, 9, 0.5, -1, 8)), lambda d: d.transform),
    "gcps": (1, setting("gcps", (POINTS, "EPSG:4326")), points_of),
    "gcps without crs": (1, setting("gcps", (POINTS, CRS())), points_of),
    "rpcs": (1, setting("rpcs", RPCS), lambda d: d.rpcs),
    "pixel is point": (1, point_pixels, lambda d: (d.transform, d.tags()["AREA_OR_POINT"])),
    "nodata": (3, setting("nodata", 7), lambda d: (d.nodatavals, d.dataset_mask().tobytes())),
    "mask": (3, mask, lambda d: (d.mask_flag_enums, d.read_masks(1).tobytes())),
    "three grey bands": (3, setting("colorinterp", [Colour.gray, Colour.undefined, Colour.undefined]), None),
    "red green blue": (3, setting("colorinterp", [Colour.red, Colour.green, Colour.blue]), None),
    "blue green red": (3, setting("colorinterp", [Colour.blue, Colour.green, Colour.red]), None),
    "with infrared": (4, setting("colorinterp", [Colour.red, Colour.green, Colour.blue, Colour.nir]), None),
    "with alpha": (4, setting("colorinterp", [Colour.red, Colour.green, Colour.blue, Colour.alpha]), None),
    "alpha first": (4, setting("colorinterp", [Colour.alpha, Colour.red, Colour.green, Colour.blue]), None),
    "descriptions": (3, setting("descriptions", ("rouge", "", "bleu")), lambda d: d.descriptions),
    "scales": (3, setting("scales", (0.1, 1.0, 3.0)), lambda d: d.scales),
    "offsets": (3, setting("offsets", (-0.1, 0.0, 1000.0)), lambda d: d.offsets),
    "units": (3, setting("units", ("W/m2", "", "m")), lambda d: d.units),
    "tags": (3, tagging(MISSION="a=b", NOTE="two\nlines, Müller"), lambda d: d.tags()),
    "tiff tags": (3, tagging(TIFFTAG_ARTIST="me", TIFFTAG_DATETIME=WHEN), lambda d: d.tags()),
    "namespace": (3, tagging(ns="SENSOR", gain="2"), lambda d: d.tags(ns="SENSOR")),
    "IMD namespace": (3, tagging(ns="IMD", satId='"QB02"'), lambda d: d.tags(ns="IMD")),
    "XMP": (3, tagging(ns="xml:XMP", **dict([XMP.split("=", 1)])), lambda d: d.tags(ns="xml:XMP")),
    "band tags": (3, tagging(bidx=2, wavelength="560"), tags_of_bands(None)),
    "band namespace": (3, tagging(bidx=3, ns="CAL", bias="1"), tags_of_bands("CAL")),
}  # fmt: skip
NOT_IN_PNG = {"blue green red", "three grey bands", "with infrared", "alpha first"}
AS_GDAL_WOULD = {"red green blue", "with alpha"}


def look(path: Path, field: str) -> Any:
    seen = FIELDS[field][2] or (lambda dataset: dataset.colorinterp)
    with rasterio.open(path) as dataset:
        return seen(dataset)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_survives(tmp_path: Path, field: str, suffix: str) -> None:
    if suffix == ".png" and field in NOT_IN_PNG:
        pytest.skip("a PNG cannot say it")
    count, change, _ = FIELDS[field]
    plain = look(make(tmp_path / "plain.tif", count), field) if field != "pixel is point" else None
    source = make(tmp_path / "in.tif", count, change)
    expected = look(source, field)
    assert expected != plain or field in AS_GDAL_WOULD  # else the row proves nothing
    target = rewrite(source, tmp_path / f"out{suffix}")
    found = look(target, field)
    if isinstance(expected, dict):
        found = {name: re.sub(r">\s+<", "><", found[name]).strip() for name in expected}
    assert found == expected


def test_bands_in_an_order_a_png_cannot_say_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", *FIELDS["blue green red"][:2])
    with pytest.raises(OutputError, match="band 1 of a PNG is red") as caught:
        rewrite(source, tmp_path / "out.png")
    assert "out.tif" in caught.value.hint
    assert list(tmp_path.iterdir()) == [source]


def test_statistics_of_the_old_pixels_are_dropped(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", 3, tagging(bidx=1, STATISTICS_MEAN="5", wavelength="1"))
    with rasterio.open(rewrite(source, tmp_path / "out.tif")) as made:
        assert made.tags(1) == {"wavelength": "1"}


def test_a_namespace_about_the_source_file_is_not_carried(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", 3, compress="lzw", interleave="band")
    with rasterio.open(rewrite(source, tmp_path / "out.tif")) as made:
        assert made.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert not made.tags(ns="SUBDATASETS")


def test_the_drones_xmp_of_a_jpeg_comes_along(tmp_path: Path) -> None:
    make(tmp_path / "in.tif", 3)
    rasterio.shutil.copy(str(tmp_path / "in.tif"), str(tmp_path / "in.jpg"), driver="JPEG")
    jpeg, segment = (tmp_path / "in.jpg").read_bytes(), b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()
    marked = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
    (tmp_path / "in.jpg").write_bytes(marked)
    with rasterio.open(rewrite(tmp_path / "in.jpg", tmp_path / "out.tif")) as made:
        assert made.tags(ns="xml:XMP") == {"xml:XMP": XMP}


def test_a_tag_that_rasterio_cannot_take_is_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make(tmp_path / "in.tif", 1, tagging(kept="1"))
    text = '<PAMDataset><Metadata><MDI key="ns">x</MDI><MDI key="kept">1</MDI></Metadata></PAMDataset>'
    (tmp_path / "in.tif.aux.xml").write_text(text)
    with rasterio.open(rewrite(source, tmp_path / "out.tif")) as made:
        assert made.tags()["kept"] == "1" and "ns" not in made.tags()
    assert "ns cannot be carried" in caplog.text


def test_an_array_has_nothing_to_carry_but_nodata_and_alpha(tmp_path: Path) -> None:
    reader = ArrayReader(PIXELS, channels_first=True, nodata=3, alpha=2)
    with open_writer(tmp_path / "out.tif", reader) as writer:
        writer.write(PIXELS)
        writer.commit()
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.nodata == 3
        assert made.colorinterp == (Colour.red, Colour.alpha, Colour.green, Colour.blue)
