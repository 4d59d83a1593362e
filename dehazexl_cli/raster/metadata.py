"""What a raster says beside its pixels, carried from the source to the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rasterio.crs import CRS
from rasterio.enums import MaskFlags

from dehazexl_cli.raster.ink import is_converted, is_ink
from dehazexl_cli.raster.labels import descriptions_of, tags_of, units_of
from dehazexl_cli.raster.palette import has_palette

PROVENANCE = "DEHAZEXL_"  # what tags begin with that say how a raster was dehazed

# They describe how the source's file was stored, or name datasets that only the source has.
_OF_THE_FILE = frozenset({"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "xml:VRT"})

_IN_A_FILE_OF_THE_STEM = "IMD"

# rasterio takes tags as keyword arguments, beside two of its own.
_NAMES_OF_RASTERIO = frozenset({"bidx", "ns"})


def carry_metadata(source: Any, target: Any) -> None:
    """Copy everything but pixels and mask from an open dataset to one just created, of the same size.

    Call it before the first pixel: a GeoTIFF fixes colour meanings then. Carried are place (CRS with
    transform or ground control points; RPCs), nodata, and per band the colour interpretation, description,
    scale, offset and unit; tags of every namespace, of the dataset and of the bands, but not statistics,
    as the pixels change, and not what an earlier run was made with. A target with other bands than the source
    is told nothing of bands, and one that was converted from another colour space nothing of its profile. A
    mask band (see `has_mask`) goes with the rows, as it is as large as a band. For `product_tags` of a
    GeoTIFF see there.
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
    left_out = _OF_THE_FILE | ({"COLOR_PROFILE"} if is_converted(source) else set())
    for band in range(source.count + 1):
        for namespace in ["", *source.tag_namespaces(band)]:
            if namespace not in left_out:
                tags = tags_of(source, band, namespace)
                kept = {name: value for name, value in tags.items() if not _is_stale(name)}
                if kept:
                    yield band, namespace, kept


def product_tags(source: Any) -> list[tuple[int, str, dict[str, str]]]:
    """Of what is carried, the tags that GDAL would put into a file NAME.IMD beside a NAME.tif, or read from
    one.

    Such a file is another's as well if other rasters have that name; so they go into NAME.tif.aux.xml.
    """
    return [each for each in carried_tags(source) if each[:2] == (0, _IN_A_FILE_OF_THE_STEM)]


def has_same_bands(source: Any, count: int) -> bool:
    """Whether a raster of `count` bands made from an open dataset has its bands: not if it was expanded."""
    return source.count == count and not has_palette(source) and not is_ink(source)


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
        if namespace == _IN_A_FILE_OF_THE_STEM and target.driver == "GTiff":
            continue
        if namespace.startswith("xml:"):
            # GDAL stores the text NAME=VALUE, so a document cut at its first = is stored as that document.
            name, _, value = tags[namespace].partition("=")
            target.update_tags(band, ns=namespace, **{name: value})
        else:
            settable = {name: value for name, value in tags.items() if name not in _NAMES_OF_RASTERIO}
            target.update_tags(band, ns=namespace or None, **settable)


def _is_stale(name: str) -> bool:
    """Whether a tag tells of pixels or overviews that are no more, or how those were made."""
    return name.startswith(("STATISTICS_", PROVENANCE)) or name == "OVR_RESAMPLING_ALG"
