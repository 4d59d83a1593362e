"""A scene small enough to look at, from overviews where a file has some."""

from __future__ import annotations

import imagecodecs
import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterInfo, RasterReader
from dehazexl_cli.raster.gdal import GdalReader
from dehazexl_cli.raster.gdal_info import open_dataset
from dehazexl_cli.raster.pixels import interleaved, thinned
from dehazexl_cli.raster.session import GdalSession


def thumbnail(reader: RasterReader, bands: tuple[int, ...], side: int) -> Pixels:
    """The whole scene [bands, height, width] in its own numbers, its longer side at most `side` pixels.

    Made of overviews, averaged, or of evenly spaced pixels where a file has none, as averaging would read
    all of it. Raises InputError where the file is damaged.
    """
    info = reader.info
    height, width = smaller(info, side)
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


def thumbnail_ground(reader: RasterReader, bands: tuple[int, ...], side: int) -> Pixels | None:
    """Which pixels of a thumbnail are ground [height, width] bool, by these bands; None where all are.

    Raises InputError where the file is damaged.
    """
    info = reader.info
    height, width = smaller(info, side)
    if isinstance(reader, GdalReader):
        return reader.thinned_ground(bands, height, width)
    cols = thinned(info.width, width)
    ground = np.ones((height, width), bool)
    for place, row in enumerate(thinned(info.height, height)):
        valid = reader.valid(Box(int(row), 0, 1, info.width), bands)
        if valid is not None:
            ground[place] = valid[0, cols]
    return None if ground.all() else ground


def smaller(info: RasterInfo, side: int) -> tuple[int, int]:
    """Height and width of a thumbnail whose longer side is at most `side` pixels."""
    scale = max(1.0, max(info.height, info.width) / side)
    return max(1, round(info.height / scale)), max(1, round(info.width / scale))


def png(pixels: Pixels) -> bytes:
    """A picture [3, height, width] uint8 as a file, without loss."""
    return bytes(imagecodecs.png_encode(interleaved(pixels), level=6))
