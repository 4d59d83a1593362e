"""A scene small enough to look at, from overviews where a file has some."""

from __future__ import annotations

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterReader
from dehazexl_cli.raster.gdal import GdalReader, open_dataset
from dehazexl_cli.raster.pixels import thinned
from dehazexl_cli.raster.session import GdalSession


def thumbnail(reader: RasterReader, bands: tuple[int, ...], side: int) -> Pixels:
    """The whole scene [bands, height, width] in its own numbers, its longer side at most `side` pixels.

    Made of overviews, averaged, or of evenly spaced pixels where a file has none, as averaging would read
    all of it. Raises InputError where the file is damaged.
    """
    info = reader.info
    scale = max(1.0, max(info.height, info.width) / side)
    height, width = (max(1, round(size / scale)) for size in (info.height, info.width))
    if isinstance(reader, GdalReader):
        with open_dataset(reader.path, GdalSession()) as dataset:
            if dataset.overviews(bands[0]):
                pixels: Pixels = dataset.read(
                    list(bands),
                    window=Window(0, 0, info.width, info.height),
                    out_shape=(len(bands), height, width),
                    resampling=Resampling.average,
                )
                return pixels
    cols = thinned(info.width, width)
    rows = [
        reader.read(Box(int(row), 0, 1, info.width), bands)[:, :, cols]
        for row in thinned(info.height, height)
    ]
    return np.concatenate(rows, axis=1)
