"""Print what becomes of everything a raster says beside its pixels, by field and format of the output.

    python examples/metadata_table.py [uint8 uint16 float32]

Every cell is a file made, written through dehazexl and read back: "yes" is in the file itself, "beside" in
a side file, "named" lost and named in a warning and in the report, "-" refused with a message.
"""

from __future__ import annotations

import base64
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp as Colour
from rasterio.rpc import RPC

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer

FORMATS = {
    "GTiff": ".tif", "COG": ".tif", "VRT": ".vrt", "PNG": ".png", "JPEG": ".jpg", "JP2OpenJPEG": ".jp2",
    "WEBP": ".webp",
}  # fmt: skip
TYPES = ("uint8", "uint16", "float32")
HEIGHT, WIDTH = 300, 270
PIXELS = np.random.default_rng(0).integers(1, 255, (4, HEIGHT, WIDTH)).astype(np.uint8)
MASK = np.where(PIXELS[0] > 99, 255, 0).astype(np.uint8)
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
ICC = base64.b64encode(imagecodecs.cms_profile("srgb")).decode()


class Field(NamedTuple):
    """Something a raster says, and how to look at it."""

    say: Callable[[Any], None]  # to a dataset being made
    look: Callable[[Any], Any] = lambda dataset: dataset.colorinterp
    count: int = 3
    internal_mask: bool = True


def setting(name: str, value: Any) -> Callable[[Any], None]:
    return lambda dataset: setattr(dataset, name, value)


def tagging(**tags: str) -> Callable[[Any], None]:
    return lambda dataset: dataset.update_tags(**tags)


def document(namespace: str, text: str) -> Callable[[Any], None]:
    name, _, value = text.partition("=")  # GDAL stores NAME=VALUE
    return lambda dataset: dataset.update_tags(ns=namespace, **{name: value})


def tags(namespace: str | None = None) -> Callable[[Any], dict[str, str]]:
    return lambda dataset: dataset.tags(ns=namespace)


def tags_of_bands(namespace: str | None) -> Callable[[Any], Any]:
    return lambda dataset: [dataset.tags(band, ns=namespace) for band in (1, 2, 3)]


def points_of(dataset: Any) -> Any:
    points, crs = dataset.gcps
    return [(p.row, p.col, p.x, p.y, p.z) for p in points], crs


def point_pixels(dataset: Any) -> None:
    dataset.update_tags(AREA_OR_POINT="Point")
    dataset.crs, dataset.transform = "EPSG:32633", Affine(2, 0, 5e5, 0, -3, 4e6)


def colours(*names: str) -> Field:
    return Field(setting("colorinterp", [Colour[name] for name in names]), count=len(names))


def mask_of(dataset: Any) -> Any:
    return dataset.mask_flag_enums, dataset.read_masks(1).tobytes()


FIELDS: dict[str, Field] = {
    "CRS": Field(setting("crs", "EPSG:2056"), lambda d: d.crs),
    "CRS without a code": Field(setting("crs", LAEA), lambda d: d.crs and d.crs.to_wkt()),
    "transform": Field(setting("transform", Affine(0.25, 0, 5e5, 0, -0.5, 4e6)), lambda d: d.transform),
    "rotated transform": Field(setting("transform", Affine(1, 0.5, 9, 0.5, -1, 8)), lambda d: d.transform),
    "GCPs": Field(setting("gcps", (POINTS, "EPSG:4326")), points_of),
    "GCPs without CRS": Field(setting("gcps", (POINTS, CRS())), points_of),
    "RPCs": Field(setting("rpcs", RPCS), lambda d: d.rpcs),
    "pixel is point": Field(point_pixels, lambda d: (d.transform, d.tags().get("AREA_OR_POINT"))),
    "nodata": Field(setting("nodata", 7), lambda d: d.nodatavals),
    "internal mask": Field(lambda d: d.write_mask(MASK), mask_of),
    "mask beside": Field(lambda d: d.write_mask(MASK), mask_of, internal_mask=False),
    "three grey bands": colours("gray", "undefined", "undefined"),
    "red green blue": colours("red", "green", "blue"),
    "blue green red": colours("blue", "green", "red"),
    "with infrared": colours("red", "green", "blue", "nir"),
    "with alpha": colours("red", "green", "blue", "alpha"),
    "alpha first": colours("alpha", "red", "green", "blue"),
    "descriptions": Field(setting("descriptions", ("rouge", "", "bleu")), lambda d: d.descriptions),
    "scales": Field(setting("scales", (0.1, 1.0, 3.0)), lambda d: d.scales),
    "offsets": Field(setting("offsets", (-0.1, 0.0, 1000.0)), lambda d: d.offsets),
    "units": Field(setting("units", ("W/m2", "", "m")), lambda d: d.units),
    "tags": Field(tagging(MISSION="a=b", NOTE="two\nlines, Müller"), tags()),
    "TIFF tags": Field(tagging(TIFFTAG_ARTIST="me", TIFFTAG_DATETIME=WHEN), tags()),
    "EXIF of a JPEG": Field(tagging(EXIF_Make="DJI", EXIF_GPSLatitude="(47) (22) (10.1)"), tags()),
    "EXIF of a TIFF": Field(tagging(ns="EXIF", EXIF_ISOSpeedRatings="200"), tags("EXIF")),
    "XMP": Field(document("xml:XMP", XMP), tags("xml:XMP")),
    "ICC profile": Field(tagging(ns="COLOR_PROFILE", SOURCE_ICC_PROFILE=ICC), tags("COLOR_PROFILE")),
    "own namespace": Field(tagging(ns="SENSOR", gain="2"), tags("SENSOR")),
    "IMD namespace": Field(tagging(ns="IMD", satId='"QB02"'), tags("IMD")),
    "own document": Field(document("xml:FLIGHT", '<flight height="120"/>'), tags("xml:FLIGHT")),
    "band tags": Field(tagging(bidx=2, wavelength="560"), tags_of_bands(None)),  # type: ignore[arg-type]
    "band namespace": Field(tagging(bidx=3, ns="CAL", bias="1"), tags_of_bands("CAL")),  # type: ignore[arg-type]
}


def make(path: Path, field: Field | None, dtype: str, count: int = 3) -> Path:
    """A GeoTIFF that says one thing, or nothing."""
    factor = {"uint8": 1, "uint16": 257, "float32": 1 / 256}[dtype]
    pixels = (PIXELS[: field.count if field else count].astype("float64") * factor).astype(dtype)
    shape = {"count": len(pixels), "height": HEIGHT, "width": WIDTH, "dtype": dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=field is None or field.internal_mask),
        rasterio.open(path, "w", driver="GTiff", **shape) as target,
    ):
        if field is not None:
            field.say(target)
        target.write(pixels)
    return path


def rewrite(source: Path, target: Path, format: str | None = None) -> list[str]:
    """Write a raster as it is, strip by strip; returns the warnings."""
    reader = open_reader(source)
    info = reader.info
    with open_writer(target, reader, storage=Storage(format)) as writer:
        for top in range(0, info.height, 70):
            height = min(70, info.height - top)
            writer.write(reader.read(Box(top, 0, height, info.width), range(1, info.count + 1)))
        writer.commit()
    reader.close()
    return writer.warnings


def look(path: Path, field: Field) -> Any:
    """What a raster says of the field; white space between the elements of a document says nothing."""
    with rasterio.open(path) as dataset:
        seen = field.look(dataset)
    return tidy(seen) if isinstance(seen, dict) else seen


def tidy(tags: dict[str, str]) -> dict[str, str]:
    return {
        name: re.sub(r"\s+/>", "/>", re.sub(r">\s+<", "><", value)).strip() for name, value in tags.items()
    }


def kept(found: Any, expected: Any) -> bool:
    """Whether a field came out as it went in; a file may say more than was asked for."""
    if isinstance(expected, dict):
        return all(found.get(name) == value for name, value in expected.items())
    return bool(found == expected)


def fate(field: Field, dtype: str, format: str, folder: Path) -> str:
    """What becomes of a field: a cell of the table."""
    source, target = make(folder / "in.tif", field, dtype), folder / f"out{FORMATS[format]}"
    expected = look(source, field)
    try:
        messages = rewrite(source, target, format)
    except OutputError:
        return "-"
    if not kept(look(target, field), expected):
        return "named" if messages else "LOST"
    alone = target.rename(folder / f"alone{FORMATS[format]}")
    return "yes" if kept(look(alone, field), expected) else "beside"


def main() -> None:
    types = sys.argv[1:] or TYPES
    warnings.simplefilter("ignore")
    for dtype in types:
        print(f"\n{dtype:20}" + "".join(f"{format:>13}" for format in FORMATS))
        for name, field in FIELDS.items():
            cells = []
            for format in FORMATS:
                with tempfile.TemporaryDirectory() as folder:
                    cells.append(fate(field, dtype, format, Path(folder)))
            print(f"{name:20}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
