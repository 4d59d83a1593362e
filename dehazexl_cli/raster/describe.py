"""What can be told of a raster before anything is done with it: place, storage, bands and what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dehazexl_cli.errors import InputError
from dehazexl_cli.raster import origin_of
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.base import RasterInfo, RasterReader
from dehazexl_cli.raster.fingerprint import files_of
from dehazexl_cli.raster.gdal_info import damaged, files_of_dataset, meaning, open_dataset
from dehazexl_cli.raster.labels import descriptions_of, units_of
from dehazexl_cli.raster.metadata import has_mask, has_same_bands
from dehazexl_cli.raster.palette import NAMES, Palette, has_palette
from dehazexl_cli.raster.pixels import thinned
from dehazexl_cli.raster.session import GDAL_ERRORS, GdalSession
from dehazexl_cli.raster.tiff import TiffReader

SAMPLE_SIDE = 512  # pixels; ranges are those of a thinned view
_BANDS_AT_ONCE = 16  # where there are more bands than that; else each is judged by itself


@dataclass(frozen=True)
class Band:
    """One band: what the file says of it, and what a sample of its ground holds."""

    number: int  # from 1
    meaning: str  # red, grey, alpha, …; "" where the file does not say
    description: str
    unit: str
    scale: float
    offset: float
    low: float | None  # least and largest stored number of the sample; None where it has no ground
    high: float | None


@dataclass(frozen=True)
class Place:
    """Where a raster lies; each None or 0 where the file does not say."""

    crs: str | None  # EPSG:32633, or as WKT
    crs_name: str | None
    unit: str | None  # of coordinates
    pixel: tuple[float, float] | None  # height and width of a pixel in that unit
    rotated: bool
    bounds: tuple[float, float, float, float] | None  # xmin, ymin, xmax, ymax
    control_points: int
    rpcs: bool


@dataclass(frozen=True)
class Storage:
    """How the file is stored."""

    driver: str
    size_bytes: int | None  # with side files; None where it is no file on a disk
    compression: str | None
    block: tuple[int, int]  # height and width
    overviews: tuple[int, ...]  # factors
    decoder: str  # "GDAL", or "tifffile" where GDAL cannot


@dataclass(frozen=True)
class Description:
    """All of it."""

    storage: Storage
    bits: int | None  # in use, where they are fewer than the type's
    place: Place
    bands: tuple[Band, ...]
    nodata: tuple[float | None, ...]  # per band
    mask: bool  # whether there is a mask band
    alpha: int | None
    palette: str | None  # what its numbers are expanded to
    valid_share: float  # of the sample that is ground


def describe_raster(reader: RasterReader) -> Description:
    """What a file and a thinned view of it tell; InputError where it is damaged."""
    path = origin_of(reader).path
    assert path is not None, "arrays have no facts"
    decoder = "tifffile" if isinstance(reader, TiffReader) else "GDAL"
    gdal = GdalSession()
    with gdal(), open_dataset(path, gdal) as dataset:
        try:
            ranges, share = _sampled(reader)
            return Description(
                storage=_storage(dataset, files_of(reader), decoder),
                bits=reader.info.bits,
                place=_place(dataset),
                bands=tuple(_bands(dataset, reader.info, ranges)),
                nodata=tuple(dataset.nodatavals),
                mask=has_mask(dataset),
                alpha=reader.info.alpha,
                palette=NAMES[Palette(path, dataset).count] if has_palette(dataset) else None,
                valid_share=share,
            )
        except GDAL_ERRORS as error:
            raise damaged(reader.info.name, "its description", error) from error


def _sampled(reader: RasterReader) -> tuple[list[tuple[float, float] | None], float]:
    """Least and largest number of each band in a thinned view, and the share of it that is ground."""
    info = reader.info
    ranges: list[tuple[float, float] | None] = []
    at_once = 1 if info.count <= _BANDS_AT_ONCE else _BANDS_AT_ONCE
    for first in range(1, info.count + 1, at_once):
        bands = range(first, min(first + at_once, info.count + 1))
        values = reader.sample(bands, SAMPLE_SIDE)
        for row in values:
            finite = row[np.isfinite(row)]
            ranges.append((finite.min().item(), finite.max().item()) if finite.size else None)
    looked_at = thinned(info.height, SAMPLE_SIDE).size * thinned(info.width, SAMPLE_SIDE).size
    return ranges, reader.sample(_judges(info), SAMPLE_SIDE).shape[1] / looked_at


def _judges(info: RasterInfo) -> Sequence[int]:
    """The bands that say which pixels are ground; all of a raster of which none can be dehazed."""
    try:
        return choose_bands(info).dehazed
    except InputError:
        return range(1, info.count + 1)


def _bands(dataset: Any, info: RasterInfo, ranges: list[tuple[float, float] | None]) -> Iterator[Band]:
    """Bands as they are read: those of a colour table are its colours, of which the file says no more."""
    said = has_same_bands(dataset, info.count)
    descriptions, units = descriptions_of(dataset), units_of(dataset)
    for index, found in enumerate(ranges):
        low, high = found or (None, None)
        if said:
            yield Band(
                index + 1,
                meaning(dataset.colorinterp[index].name),
                descriptions[index] or "",
                units[index] or "",
                dataset.scales[index],
                dataset.offsets[index],
                low,
                high,
            )
        else:
            yield Band(index + 1, "alpha" if index + 1 == info.alpha else "", "", "", 1.0, 0.0, low, high)


def _place(dataset: Any) -> Place:
    crs, transform = dataset.crs, dataset.transform
    points, points_crs = dataset.gcps
    crs = crs or points_crs or None
    placed = not transform.is_identity
    height, width = dataset.shape
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    xs = [transform.c + transform.a * col + transform.b * row for row, col in corners]
    ys = [transform.f + transform.d * col + transform.e * row for row, col in corners]
    return Place(
        crs=crs.to_string() if crs else None,
        crs_name=_name_of(crs) if crs else None,
        unit=crs.units_factor[0] if crs else None,
        pixel=(float(np.hypot(transform.b, transform.e)), float(np.hypot(transform.a, transform.d)))
        if placed
        else None,
        rotated=placed and bool(transform.b or transform.d),
        bounds=(min(xs), min(ys), max(xs), max(ys)) if placed else None,
        control_points=len(points),
        rpcs=dataset.rpcs is not None,
    )


def _name_of(crs: Any) -> str | None:
    """The first name in its WKT, which is that of the whole."""
    parts = crs.to_wkt().split('"')
    return parts[1] if len(parts) > 1 else None


def _storage(dataset: Any, read: list[str], decoder: str) -> Storage:
    files = [Path(file) for file in {*files_of_dataset(dataset), *read}]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    said = dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    return Storage(
        driver=dataset.driver,
        size_bytes=sum(sizes) if sizes else None,
        compression=said if decoder == "GDAL" else None,
        block=tuple(dataset.block_shapes[0]),
        overviews=tuple(dataset.overviews(1)),
        decoder=decoder,
    )
