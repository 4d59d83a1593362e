"""Images of four inks, read as the light that they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from dehazexl_cli.raster.base import Pixels

_INKS = (ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black)
_CONVERTED = frozenset({"CMYK", "CIELAB"})  # by GDAL, where pixels have 8 bits


class Ink:
    """Cyan, magenta, yellow and black of 16 bits as red, green and blue, by the formula GDAL has for 8."""

    count = 3
    dtype = "uint16"
    stored = (1, 2, 3, 4)  # bands of the file
    note = (
        "its cyan, magenta, yellow and black were converted to red, green and blue; how its colour profile "
        "would have it is not heeded"
    )

    def read(self, inks: Pixels, bands: list[int]) -> Pixels:
        """Colours [bands, height, width] of inks [4, height, width], 1-based bands, in the same type."""
        top = int(np.iinfo(inks.dtype).max)
        light = top - inks.astype(np.uint64)
        colours = [(light[band - 1] * light[3] + top // 2) // top for band in bands]
        return np.stack(colours).astype(inks.dtype)


def is_ink(dataset: Any) -> bool:
    """Whether the bands of an open dataset are four inks that can be read as light."""
    return (
        tuple(dataset.colorinterp) == _INKS and set(dataset.dtypes) == {"uint16"} and dataset.nodata is None
    )


def is_converted(dataset: Any) -> bool:
    """Whether pixels are read in another space than that of their file, whose profile then is not theirs."""
    return is_ink(dataset) or dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") in _CONVERTED
