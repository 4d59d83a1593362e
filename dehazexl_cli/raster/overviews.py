"""Smaller versions of a scene inside its file, made of the pixels that were written."""

from __future__ import annotations

from typing import Any

from rasterio.enums import Resampling
from rasterio.windows import Window

from dehazexl_cli.raster.base import USUAL, RasterReader, Trust
from dehazexl_cli.raster.gdal import GdalReader
from dehazexl_cli.raster.session import GdalSession

_SMALLEST = 256  # pixels; a scene of this size needs no smaller version


def add_overviews(path: str, gdal: GdalSession) -> None:
    """Add halves of halves to a GeoTIFF until the longer side fits a tile; raises what GDAL raises."""
    with gdal.open(path, "r+") as dataset:
        factors: list[int] = []
        while max(dataset.height, dataset.width) > _SMALLEST * 2 ** len(factors):
            factors.append(2 ** (len(factors) + 1))
        if factors:
            # Averages never overshoot, so no overview has a value that the scene has not.
            dataset.build_overviews(factors, Resampling.average)


def open_overviews(reader: RasterReader, trust: Trust = USUAL) -> dict[int, RasterReader]:
    """Open a file's halves of halves, by how many of its pixels one of theirs stands for along a side.

    Those of other sizes are left out, as their pixels lie across those of the scene.
    """
    found: dict[int, RasterReader] = {}
    if not isinstance(reader, GdalReader):
        return found
    height, width = reader.info.height, reader.info.width
    for level, factor in enumerate(reader.overviews):
        if factor.bit_count() == 1 and factor not in found:
            smaller = GdalReader(reader.path, trust, level)
            if (smaller.info.height, smaller.info.width) == (-(-height // factor), -(-width // factor)):
                found[factor] = smaller
            else:
                smaller.close()
    return found


def read_overviews(path: str, gdal: GdalSession) -> None:
    """Decode every overview once; raises what GDAL raises, which says little while it writes."""
    with gdal.open(path) as dataset:
        levels = len(dataset.overviews(1))
    for level in range(levels):
        with gdal.open(path, overview_level=level) as smaller:
            _read_all(smaller)


def _read_all(dataset: Any) -> None:
    height = dataset.block_shapes[0][0]
    for top in range(0, dataset.height, height):
        dataset.read(window=Window(0, top, dataset.width, min(height, dataset.height - top)))
