"""What can be written, and how GDAL is told to: GeoTIFF and PNG, by the suffix of the target."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster.base import RasterInfo
from dehazexl_cli.raster.session import GdalSession

_TIFF_SUFFIXES = (".tif", ".tiff")
_PNG_SUFFIX = ".png"
_PNG_TYPES = ("uint8", "uint16")
_PNG_COUNTS_WITH_ALPHA = (2, 4)
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def is_png(path: str) -> bool:
    """Whether the suffix means PNG or else GeoTIFF; raises OutputError for any other."""
    suffix = Path(path).suffix.lower()
    if suffix not in (*_TIFF_SUFFIXES, _PNG_SUFFIX):
        raise OutputError(
            f"{path}: cannot be written as {suffix or 'a file without a suffix'}",
            "give it one of .tif, .tiff, .png (a JPEG would lose detail, so none is written)",
        )
    return suffix == _PNG_SUFFIX


def require_png_can_hold(path: str, info: RasterInfo, colours: Sequence[ColorInterp]) -> None:
    """Raises OutputError unless a PNG can say what these bands of this type are."""
    trouble = _what_a_png_cannot_say(info, colours)
    if trouble:
        raise OutputError(f"{path}: {trouble}", f"write a GeoTIFF: {Path(path).with_suffix('.tif')}")


def band_colours(info: RasterInfo) -> list[ColorInterp]:
    """What the bands mean where no file says it: three are red, green and blue, others only bands."""
    meanings = [ColorInterp.undefined] * info.count
    colour = [index for index in range(info.count) if index + 1 != info.alpha]
    names = _RGB if len(colour) == len(_RGB) else (ColorInterp.gray,)
    for index, name in zip(colour, names, strict=False):
        meanings[index] = name
    if info.alpha is not None:
        meanings[info.alpha - 1] = ColorInterp.alpha
    return meanings


def create_tiff(path: Path, info: RasterInfo, as_lines: bool, gdal: GdalSession) -> Any:
    """An open, empty GeoTIFF: in tiles, or in thin strips where it is soon read line by line."""
    predictor = 3 if info.dtype.startswith("float") else 2
    options = {"compress": "DEFLATE", "predictor": predictor, "bigtiff": "IF_SAFER", "interleave": "PIXEL"}
    if as_lines:
        options |= {"blockysize": 16, "zlevel": 1}
    else:
        options |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if not gdal.threads_are_set:
        options["num_threads"] = "ALL_CPUS"
    shape = {"height": info.height, "width": info.width, "count": info.count, "dtype": info.dtype}
    with gdal(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, "w", driver="GTiff", **shape, **options)


def _what_a_png_cannot_say(info: RasterInfo, colours: Sequence[ColorInterp]) -> str:
    if info.dtype not in _PNG_TYPES:
        return f"a PNG has 8 or 16 bits, not {info.dtype}"
    if info.count > max(_PNG_COUNTS_WITH_ALPHA):
        return f"a PNG has 1 to 4 bands, not {info.count}"
    # Whoever opens the file would take another band there for transparency.
    if info.count in _PNG_COUNTS_WITH_ALPHA and info.alpha != info.count:
        return f"band {info.count} of a PNG is its alpha, and here it is not"
    for index, colour in enumerate(_RGB):
        if colour in colours and colours.index(colour) != index:
            return f"band {index + 1} of a PNG is {colour.name}, and here it is not"
    return ""
