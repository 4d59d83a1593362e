"""Images whose pixels are numbers in a colour table, read as the colours that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from dehazexl_cli.errors import InputError
from dehazexl_cli.raster.base import Pixels

GREY, RGB, RGBA = 1, 3, 4
NAMES = {GREY: "grey", RGB: "red, green and blue", RGBA: "red, green, blue and alpha"}


class Palette:
    """The colour table of a dataset of one band: a row [grey], [red, green, blue] or [.., alpha] per number.

    A table of greys only, such as that of a TIFF in which 0 is white, gives one band. Numbers that are
    nodata or transparent give an alpha band. Raises InputError for a table beside other bands.
    """

    stored = (1,)  # bands of the file

    def __init__(self, path: str, dataset: Any) -> None:
        if dataset.count != 1:
            raise InputError(
                f"{path}: has a colour table beside other bands",
                "expand it first: gdal_translate -expand rgb IN OUT.tif",
            )
        entries = dataset.colormap(1)
        size = int(np.iinfo(dataset.dtypes[0]).max) + 1
        table = np.zeros((size, RGBA), np.uint8)
        table[:, 3] = 255
        for number, colour in entries.items():
            if 0 <= number < size:
                table[number] = colour
        if dataset.nodata is not None and 0 <= dataset.nodata < size:
            table[int(dataset.nodata), 3] = 0
        clear = (table[:, 3] < 255).any()
        even = (table[:, :1] == table[:, 1:3]).all()
        self.dtype = "uint8"
        self.count = RGBA if clear else GREY if even else RGB
        self._table = table
        self.note = f"the numbers of its colour table were expanded to {NAMES[self.count]} of 8 bits"

    def read(self, numbers: Pixels, bands: list[int]) -> Pixels:
        """Colours [bands, height, width] uint8 of numbers [1, height, width], 1-based bands."""
        colours: Pixels = np.stack([self._table[:, band - 1][numbers[0]] for band in bands])
        return colours


def has_palette(dataset: Any) -> bool:
    """Whether a band of an open dataset has a colour table."""
    return ColorInterp.palette in dataset.colorinterp
