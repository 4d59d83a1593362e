"""What a raster says beside its pixels, carried from the source to the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rasterio.crs import CRS
from rasterio.enums import MaskFlags

from dehazexl_cli.raster.labels import descriptions_of, tags_of, units_of
from dehazexl_cli.raster.palette import has_palette

# They describe how the source's file was stored, or name datasets that only the source has.
_OF_THE_FILE = frozenset({"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "xml:VRT"})

# rasterio takes tags as keyword arguments, beside two of its own.
_NAMES_OF_RASTERIO = frozenset({"bidx", "ns"})


def carry_metadata(source: Any, target: Any) -> None:
    """Copy everything but pixels and mask from an open dataset to one just created, of the same size.

    Call it before the first pixel: a GeoTIFF fixes colour meanings then. Carried are place (CRS with
    transform or ground control points; RPCs), nodata, and per band the colour interpretation, description,
    scale, offset and unit; tags of every namespace, of the dataset and of the bands, but not statistics,
    as the pixels change. A target with other bands than the source is told nothing of bands. A mask band
    (see `has_mask`) goes with the rows, as it is as large as a band.
    """
    _carry_tags(source, target)
    _carry_frame(source, target)
    if has_same_bands(source, target.count):
        _carry_band_facts(source, target)
    if source.nodata is not None and not has_palette(source):
        target.nodata = source.nodata


def carried_tags(source: Any) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield (band, namespace, tags) of all that is to be carried; 0 is the dataset, "" the plain tags.

    A namespace xml:NAME has one tag of that same name: a document.
    """
    for band in range(source.count + 1):
        for namespace in ["", *source.tag_namespaces(band)]:
            if namespace not in _OF_THE_FILE:
                tags = tags_of(source, band, namespace)
                kept = {name: value for name, value in tags.items() if not _is_stale(name)}
                if kept:
                    yield band, namespace, kept


def has_same_bands(source: Any, count: int) -> bool:
    """Whether a raster of `count` bands made from an open dataset has its bands: not if it was expanded."""
    return source.count == count and not has_palette(source)


def has_mask(source: Any) -> bool:
    """Whether there is a mask band: alpha is a band like others, and nodata values are carried as such."""
    flags = set(source.mask_flag_enums[0])
    return MaskFlags.per_dataset in flags and not flags & {MaskFlags.alpha, MaskFlags.nodata}


def carry_place(source: Any, target: Any) -> None:
    """Copy only what says where the pixels lie: CRS with transform or ground control points, and RPCs."""
    _carry_frame(source, target)
    if source.rpcs is not None:
        target.rpcs = source.rpcs


def _carry_frame(source: Any, target: Any) -> None:
    points, points_crs = source.gcps
    if points:
        target.gcps = (points, points_crs or CRS())  # rasterio takes no None here, though it gives one
        return
    if source.crs:
        target.crs = source.crs
    if not source.transform.is_identity:
        target.transform = source.transform


def _carry_band_facts(source: Any, target: Any) -> None:
    target.colorinterp = source.colorinterp
    for band, description in enumerate(descriptions_of(source), 1):
        if description:
            target.set_band_description(band, description)
    # Setting a default would write it out where the source is silent.
    if any(scale != 1 for scale in source.scales):
        target.scales = source.scales
    if any(offset != 0 for offset in source.offsets):
        target.offsets = source.offsets
    units = units_of(source)
    if any(units):
        target.units = tuple(unit or "" for unit in units)


def _carry_tags(source: Any, target: Any) -> None:
    for band, namespace, tags in carried_tags(source):
        if band and not has_same_bands(source, target.count):
            continue
        if namespace.startswith("xml:"):
            # GDAL stores the text NAME=VALUE, so a document cut at its first = is stored as that document.
            name, _, value = tags[namespace].partition("=")
            target.update_tags(band, ns=namespace, **{name: value})
        else:
            settable = {name: value for name, value in tags.items() if name not in _NAMES_OF_RASTERIO}
            target.update_tags(band, ns=namespace or None, **settable)


def _is_stale(name: str) -> bool:
    """Whether a tag tells of pixels or overviews that are no more."""
    return name.startswith("STATISTICS_") or name == "OVR_RESAMPLING_ALG"
