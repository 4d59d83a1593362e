"""Rasters by path: `open_reader` and `open_writer` are the only functions that take one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dehazexl_cli.raster.base import FileWriter, RasterReader

if TYPE_CHECKING:
    from dehazexl_cli.raster.formats import Storage


def open_reader(path: str | os.PathLike[str]) -> RasterReader:
    """Open a raster of any format that GDAL reads, or a TIFF that tifffile reads where GDAL cannot.

    Raises InputError, with a hint, if it cannot be used.

    A path, or a name GDAL understands: /vsizip/scenes.zip/a.tif, GPKG:file:table, https://…
    """
    # Here and below: whoever only needs the interface (raster.base) must not pay for loading GDAL.
    from dehazexl_cli.raster.gdal import BeyondGdal, GdalReader

    try:
        return GdalReader(os.fspath(path))
    except BeyondGdal as refused:
        from dehazexl_cli.raster.tiff import TiffReader

        return TiffReader(os.fspath(path), refused)


def open_writer(
    path: str | os.PathLike[str],
    like: RasterReader,
    overwrite: bool = False,
    storage: Storage | None = None,
) -> FileWriter:
    """Create a raster of the shape and type of `like`, with all that its file says beside the pixels.

    The suffix tells the format (GeoTIFF, PNG, JPEG, JPEG 2000, WebP), unless `storage` does. Raises
    UsageError for a format that is none, OutputError if the target exists (unless `overwrite`), cannot be
    written, or its format cannot hold such pixels. Use it in a `with` statement.
    """
    from dehazexl_cli.raster.formats import Storage
    from dehazexl_cli.raster.gdal import GdalReader
    from dehazexl_cli.raster.gdal_writer import GdalWriter
    from dehazexl_cli.raster.tiff import TiffReader

    source = like.path if isinstance(like, GdalReader | TiffReader) else None
    return GdalWriter(os.fspath(path), like.info, source, overwrite, storage or Storage())
