"""What tells a raster from every other: all bytes of its files, or what can be seen of one that has none."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dehazexl_cli.raster.base import RasterReader
from dehazexl_cli.raster.gdal import GdalReader
from dehazexl_cli.raster.tiff import TiffReader
from dehazexl_cli.raster.views import LockedReader, MaskedReader, WindowedReader

SAMPLE_SIDE = 1024  # of the thinned view that stands for a raster on a server or in memory


def fingerprint(reader: RasterReader) -> str:
    """SHA-256 over the contents of a raster's files, side files and those it is put together of included.

    Their names do not count. Of what is no file on this machine, size, type and a thinned view are taken.
    """
    seen = hashlib.sha256()
    for each in readers_of(reader):
        files = [Path(name) for name in files_of(each)]
        info = each.info
        if not files or not all(path.is_file() for path in files):
            values = each.sample(range(1, info.count + 1), SAMPLE_SIDE)
            seen.update(repr((info.height, info.width, info.count, info.dtype, info.nodata)).encode())
            seen.update(values.tobytes())
        for path in files:
            if path.is_file():
                with path.open("rb") as file:
                    seen.update(hashlib.file_digest(file, "sha256").digest())
    return seen.hexdigest()


def readers_of(reader: RasterReader) -> list[RasterReader]:
    """The rasters that a view looks at."""
    if isinstance(reader, WindowedReader | LockedReader):
        return readers_of(reader.whole)
    if isinstance(reader, MaskedReader):
        mask = [] if reader.mask is None else readers_of(reader.mask)
        return [*readers_of(reader.whole), *mask]
    return [reader]


def files_of(reader: RasterReader) -> list[str]:
    """The files that GDAL reads of a raster; none of an array."""
    return sorted(reader.files) if isinstance(reader, GdalReader | TiffReader) else []
