"""Whether a TIFF's first image is a picture, by its own tags: GDAL shows mosaics and Lab as any bands."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from rasterio.enums import ColorInterp

from dehazexl_cli.errors import InputError
from dehazexl_cli.raster.bands import no_light
from dehazexl_cli.raster.ink import is_ink

_RAW = {32803: "the mosaic of a camera's colour filter", 34892: "a camera's raw colours"}
_NO_LIGHT = {
    5: "ink (CMYK)",
    6: "luma and chroma (YCbCr)",
    8: "CIELAB",
    9: "ICC Lab",
    10: "ITU Lab",
    32844: "LogL",
    32845: "LogLuv",
}
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
# GDAL forgives more than tifffile does.
_UNLIKE_TIFFFILE = (ValueError, OSError, LookupError, AttributeError, TypeError, struct.error)
_MOST_PAGES = 64  # thumbnails and the image they stand for are among the first
_THUMBNAIL = 4  # times as many pixels as the first image: another one is what the file is about


def require_picture(path: str, dataset: Any) -> None:
    """Raises InputError, with what to do, for an open TIFF whose bands are no light, or not those wanted.

    That is a camera's raw data, ink, Lab and the like that GDAL does not convert, and a thumbnail before its
    image. A file that is not on this machine is judged by what GDAL says of it alone.
    """
    if dataset.driver != "GTiff" or not Path(path).is_file():
        return
    try:
        with tifffile.TiffFile(path) as file:
            first = file.pages.first
            others = list(_others(file, first, several=len(dataset.subdatasets) > 1))
            _require_no_raw(path, [first, *others])
            _require_light(path, first, dataset)
            _require_no_thumbnail(path, first, others)
    except _UNLIKE_TIFFFILE:
        return


def stored_share(path: str, dataset: Any) -> float:
    """What share of an open dataset's pixels its file holds: mosaics leave out tiles that are empty."""
    if dataset.driver != "GTiff" or not Path(path).is_file():
        return 1.0
    try:
        with tifffile.TiffFile(path) as file:
            sizes = np.asarray(file.pages.first.databytecounts)
        return float((sizes > 0).mean())
    except _UNLIKE_TIFFFILE:
        return 1.0


def _others(file: tifffile.TiffFile, first: Any, several: bool) -> Iterator[Any]:
    """Images that the file may be about instead of the first: those inside of it, and those behind it."""
    yield from first.pages or ()
    if several or first.is_reduced:  # else only overviews and masks follow, perhaps many
        for index in range(1, min(len(file.pages), _MOST_PAGES)):
            yield file.pages[index].aspage()


def _require_no_raw(path: str, pages: list[Any]) -> None:
    for page in pages:
        kind = _RAW.get(int(page.photometric))
        if kind is not None:
            raise InputError(
                f"{path}: is a raw photograph, and holds {kind}",
                "develop it first with a raw converter, such as darktable-cli IN OUT.tif or dcraw -T IN",
            )


def _require_light(path: str, page: Any, dataset: Any) -> None:
    kind = _NO_LIGHT.get(int(page.photometric))
    converted = tuple(dataset.colorinterp[:3]) == _RGB or is_ink(dataset)
    if kind is not None and not converted:
        raise no_light(path, kind)


def _require_no_thumbnail(path: str, first: Any, others: list[Any]) -> None:
    def size(page: Any) -> int:
        return int(page.imagelength * page.imagewidth)

    largest = max(others, key=size, default=first)
    if first.is_reduced and largest is first:
        return  # somebody cut an overview out
    if size(largest) > size(first) * (1 if first.is_reduced else _THUMBNAIL):
        raise InputError(
            f"{path}: its first image is a thumbnail of {first.imagewidth} x {first.imagelength} pixels, of "
            f"one of {largest.imagewidth} x {largest.imagelength}",
            f"name that one: GTIFF_DIR:off:{largest.offset}:{path} (GTIFF_DIR:1:{path} is the first)",
        )
