"""What is asked of every raster alike: a supported pixel type, boxes inside the scene, even thinning."""

from __future__ import annotations

import numpy as np

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterInfo

PIXEL_TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
# Read as the next wider type, whether GDAL knows them (3.11 and later) or not.
_WIDENED = {"float16": "float32"}


def require_supported(name: str, dtype: str) -> None:
    """Raises InputError unless every band of this type can be read, processed and written back."""
    if dtype in PIXEL_TYPES:
        return
    if dtype.startswith("complex"):
        raise InputError(
            f"{name}: complex pixels ({dtype}) are not supported",
            "convert them to amplitudes first; only real values can be dehazed",
        )
    raise InputError(
        f"{name}: pixels of type {dtype} are not supported",
        f"convert it to one of {', '.join(PIXEL_TYPES)}",
    )


def widened(dtype: str) -> str:
    """Name the type that pixels of a type are read as: itself, or one that holds its values."""
    return _WIDENED.get(dtype, dtype)


def window(box: Box, info: RasterInfo) -> tuple[slice, slice]:
    """Rows and columns of a box; ValueError unless it lies inside the scene, as no pixels are made up."""
    if min(box) < 0 or min(box.height, box.width) < 1 or box.bottom > info.height or box.right > info.width:
        raise ValueError(f"{box} is not inside {info.name} ({info.height}x{info.width} pixels)")
    return slice(box.top, box.bottom), slice(box.left, box.right)


def thinned(size: int, most: int) -> Pixels:
    """At most `most` indices of an axis of `size` pixels, [n], each in the middle of its stretch."""
    n = min(size, most)
    return ((np.arange(n) + 0.5) * size / n).astype(np.intp)


def interleaved(pixels: Pixels) -> Pixels:
    """Pixels [bands, height, width] as codecs take them: a copy [height, width, bands].

    Of a view whose sides have one pixel numpy says that it is in order, whatever its strides; codecs do not.
    """
    return np.moveaxis(pixels, 0, 2).copy(order="C")
