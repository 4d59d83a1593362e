"""Rasters by path: `open_reader` and `open_writer` are the only functions that take one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import InputError, OutputError
from dehazexl_cli.paths import is_same, require_apart
from dehazexl_cli.raster.base import USUAL, FileWriter, RasterInfo, RasterReader, Trust

if TYPE_CHECKING:
    from dehazexl_cli.grid import Box
    from dehazexl_cli.raster.gdal_writer import Origin
    from dehazexl_cli.raster.mosaic import PartMaker


def open_reader(path: str | os.PathLike[str], trust: Trust = USUAL) -> RasterReader:
    """Open a raster of any format that GDAL reads, or a TIFF that tifffile reads where GDAL cannot.

    Raises InputError, with a hint, if it cannot be used, or not with this much `trust`.

    A path, or a name GDAL understands: /vsizip/scenes.zip/a.tif, GPKG:file:table, https://…
    """
    # Here and below: whoever only needs the interface (raster.base) must not pay for loading GDAL.
    from dehazexl_cli.raster.gdal import GdalReader
    from dehazexl_cli.raster.gdal_info import UnsupportedByGdal

    try:
        return GdalReader(os.fspath(path), trust)
    except UnsupportedByGdal as refused:
        from dehazexl_cli.raster.tiff import TiffReader

        return TiffReader(os.fspath(path), refused, trust)


def find_box(
    reader: RasterReader,
    bounds: tuple[float, float, float, float],
    crs: str | None = None,
    said: str | None = None,
) -> Box:
    """The pixels of a file's raster that bounds (xmin, ymin, xmax, ymax) touch; `crs` None is its own.

    `said` is how the user named the place, if not by a --bbox.

    Raises UsageError for bounds or a system that are none or lie outside, InputError where pixels have no
    coordinates.
    """
    from dehazexl_cli.raster.gdal_info import open_dataset
    from dehazexl_cli.raster.georef import box_of_bounds
    from dehazexl_cli.raster.session import GdalSession

    session = GdalSession()
    path = origin_of(reader).path
    if path is None:
        raise InputError(f"{reader.info.name}: an array has no coordinates", "name pixels instead")
    with session(), open_dataset(path, session) as dataset:
        return box_of_bounds(dataset, bounds, crs, said)


def require_same_place(mask: RasterReader, scene: RasterReader) -> None:
    """Raises InputError for a mask that says that it lies elsewhere than the scene whose size it has."""
    from dehazexl_cli.raster.gdal_info import open_dataset
    from dehazexl_cli.raster.georef import is_elsewhere
    from dehazexl_cli.raster.session import GdalSession

    session = GdalSession()
    paths = [origin_of(reader).path or "" for reader in (mask, scene)]
    with session(), open_dataset(paths[0], session) as one, open_dataset(paths[1], session) as other:
        if is_elsewhere(one, other):
            raise InputError(
                f"the mask {mask.info.name} lies elsewhere than {scene.info.name}",
                "bring it there, for example with: gdalwarp -t_srs … -te … -ts … MASK OUT.tif",
            )


def require_placed(path: str, hint: str) -> None:
    """Raises InputError, with the hint, for a file whose pixels have no coordinates on Earth."""
    from dehazexl_cli.raster.gdal_info import open_dataset
    from dehazexl_cli.raster.session import GdalSession

    session = GdalSession()
    with session(), open_dataset(path, session) as dataset:
        if not dataset.crs:
            raise InputError(f"{path}: says no place on Earth", hint)


def covers_the_same(reader: RasterReader, other: RasterReader) -> bool:
    """Whether two files say that they lie in one place, whatever the size of their pixels."""
    from dehazexl_cli.raster.gdal_info import open_dataset
    from dehazexl_cli.raster.georef import covers_the_same
    from dehazexl_cli.raster.session import GdalSession

    session = GdalSession()
    paths = [origin_of(each).path or "" for each in (reader, other)]
    with session(), open_dataset(paths[0], session) as one, open_dataset(paths[1], session) as two:
        return covers_the_same(one, two)


def open_writer(
    path: str | os.PathLike[str],
    like: RasterReader,
    overwrite: bool = False,
    storage: Storage | None = None,
    info: RasterInfo | None = None,
    in_place: bool = False,
    maker: PartMaker | None = None,
) -> FileWriter:
    """Create a raster of the shape and type of `like`, with all that its file says beside the pixels.

    With `info` the pixels are of another kind, and of what `like` says only its place is carried over.
    `maker` writes the parts of a VRT.
    The suffix tells the format (GeoTIFF, PNG, JPEG, JPEG 2000, WebP, or VRT with GeoTIFFs in a folder
    beside it), unless `storage` does. Raises UsageError for a format that is none, OutputError if the target
    exists (unless `overwrite`), is a file that `like` is read from (unless it is the raster itself, which is
    to be replaced `in_place`), cannot be written, or its format cannot hold such pixels. Use it in a `with`
    statement.
    """
    from dehazexl_cli.raster.formats import VRT, choose_format
    from dehazexl_cli.raster.gdal_writer import GdalWriter
    from dehazexl_cli.raster.mosaic import MosaicWriter

    origin, path, storage = origin_of(like), os.fspath(path), storage or Storage()
    if info is not None:
        origin = origin._replace(place_only=True)
    require_sources_stay(path, like, in_place)
    info, overwrite = info or like.info, overwrite or in_place
    if choose_format(path, storage.format) is VRT:
        return MosaicWriter(path, info, origin, overwrite, storage, maker)
    return GdalWriter(path, info, origin, overwrite, storage)


def require_sources_stay(path: str, reader: RasterReader, in_place: bool = False) -> None:
    """Raises OutputError for a path to be written that is read; `in_place` admits the raster itself."""
    from dehazexl_cli.raster.fingerprint import files_of, readers_of

    if not os.path.exists(path):
        return
    itself = origin_of(reader).path
    if itself is not None and is_same(path, itself):
        if not in_place:
            raise OutputError(
                f"{path}: is IN itself, and the original would be lost",
                "give OUT another name; --in-place replaces IN by its result",
            )
        return
    require_apart(path, [name for each in readers_of(reader) for name in files_of(each)])


def origin_of(reader: RasterReader) -> Origin:
    """The file that a reader reads, and the box of it."""
    from dehazexl_cli.raster.gdal import GdalReader
    from dehazexl_cli.raster.gdal_writer import Origin
    from dehazexl_cli.raster.tiff import TiffReader
    from dehazexl_cli.raster.views import MaskedReader, WindowedReader

    if isinstance(reader, WindowedReader):
        path, outer, _ = origin_of(reader.whole)
        box = reader.box
        return Origin(path, box if outer is None else box.moved(outer.top, outer.left))
    if isinstance(reader, MaskedReader):
        return origin_of(reader.whole)
    return Origin(reader.path if isinstance(reader, GdalReader | TiffReader) else None)
