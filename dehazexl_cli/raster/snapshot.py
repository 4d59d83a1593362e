"""All that an open raster says beside its pixels, by field: what went in is compared with what came out."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import tifffile
from rasterio.enums import ColorInterp

from dehazexl_cli.raster.epoch import coordinate_epoch
from dehazexl_cli.raster.labels import descriptions_of, units_of
from dehazexl_cli.raster.metadata import carried_tags, has_mask

_NAMED_AT_MOST = 12
_RELATIVE_ERROR = 1e-9  # text with 15 digits is good enough for a coordinate
# Said by another field, or only by how one format writes it down.
_NOT_FIELDS = {(0, "RPC"): None, (0, "COLOR_PROFILE"): {"SOURCE_ICC_PROFILE"}}


def metadata_snapshot(dataset: Any) -> dict[str, Any]:
    """What an open dataset states, by field; defaults state nothing and are left out."""
    points, points_crs = dataset.gcps
    rpcs = dataset.rpcs
    stated = {
        "CRS": dataset.crs or None,
        "transform": None if dataset.transform.is_identity else tuple(dataset.transform),
        "ground control points": ([(p.row, p.col, p.x, p.y, p.z) for p in points], points_crs or None)
        if points
        else None,
        "RPCs": rpcs and rpcs.to_dict(),
        "mask": has_mask(dataset) or None,
        "coordinate epoch": coordinate_epoch(dataset),
        "TIFF orientation": _orientation(dataset),
    }
    stated |= _of_bands("nodata", dataset.nodatavals, None)
    stated |= _of_bands("colour", dataset.colorinterp, ColorInterp.undefined)
    stated |= _of_bands("description", descriptions_of(dataset), None)
    stated |= _of_bands("scale", dataset.scales, 1.0)
    stated |= _of_bands("offset", dataset.offsets, 0.0)
    stated |= _of_bands("unit", [unit or None for unit in units_of(dataset)], None)
    stated |= _of_bands("colour table", [_colour_table(dataset, b) for b in dataset.indexes], None)
    return {name: value for name, value in (stated | _tags(dataset)).items() if value is not None}


def place_of(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Of an inventory, what differs between a raster and a part of it."""
    return {name: stated[name] for name in ("transform", "ground control points", "RPCs") if name in stated}


def without_bands(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Only what an inventory says of the whole."""
    return {name: value for name, value in stated.items() if " of band " not in name}


def missing_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Fields of an inventory that another lacks or states differently."""
    return [name for name, value in before.items() if not _alike(value, after.get(name))]


def in_words(fields: Sequence[str]) -> str:
    """Names of fields for a message."""
    more = len(fields) - _NAMED_AT_MOST
    return ", ".join(fields[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _orientation(dataset: Any) -> int | None:
    """How a TIFF is to be turned when shown, 2 to 8, or None; GDAL neither tells nor writes it."""
    if dataset.driver != "GTiff" or not os.path.isfile(dataset.name):
        return None
    try:
        with tifffile.TiffFile(dataset.name) as file:
            tag = file.pages.first.tags.get("Orientation")
            return None if tag is None or tag.value == 1 else int(tag.value)
    except (ValueError, OSError, LookupError, AttributeError, struct.error):
        return None  # GDAL forgives more than tifffile does


def _of_bands(name: str, values: Sequence[Any], default: Any) -> dict[str, Any]:
    return {f"{name} of band {band}": value for band, value in enumerate(values, 1) if value != default}


def _colour_table(dataset: Any, band: int) -> Any:
    try:
        return dataset.colormap(band)
    except ValueError:  # rasterio's way to say that there is none
        return None


def _tags(dataset: Any) -> dict[str, Any]:
    stated: dict[str, Any] = {}
    for band, namespace, tags in carried_tags(dataset):
        only = _NOT_FIELDS.get((band, namespace), tags.keys())
        for name, value in tags.items():
            if only is not None and name in only:
                stated[_tag_name(band, namespace, name)] = _tidy(value)
    # A pixel is an area unless something else is said.
    if stated.get("tag AREA_OR_POINT") == "Area":
        del stated["tag AREA_OR_POINT"]
    return stated


def _tidy(text: str) -> str:
    """Text without how XML is written: white space, quotes, a packet's wrapper, which GDAL sets anew."""
    try:
        document = ElementTree.tostring(ElementTree.fromstring(text), encoding="unicode")
    except ElementTree.ParseError:
        return text.strip()
    return ElementTree.canonicalize(document, strip_text=True)


def _tag_name(band: int, namespace: str, name: str) -> str:
    if namespace == "COLOR_PROFILE":
        return "ICC profile"
    if namespace.startswith("xml:"):
        return namespace.removeprefix("xml:")
    where = f" of band {band}" if band else ""
    return f"tag {namespace}:{name}{where}" if namespace else f"tag {name}{where}"


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_RELATIVE_ERROR) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return bool(a == b)
