"""The moment that coordinates are of, where the ground moves in their system: rasterio has no word for it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import rasterio
import rasterio.shutil

from dehazexl_cli.raster.session import GDAL_ERRORS, in_memory, unwarned

_EPOCH = "coordinateEpoch"


def coordinate_epoch(dataset: Any) -> str | None:
    """The epoch of an open dataset's coordinates as a year, such as "2021.3"; None if it says none."""
    element = system_with_epoch(dataset)
    return None if element is None else element.get(_EPOCH)


def system_with_epoch(dataset: Any) -> ElementTree.Element | None:
    """The coordinate system of an open dataset as GDAL writes it into XML, if it says an epoch."""
    if not dataset.crs or dataset.mode != "r":
        return None
    with in_memory("vrt") as path:
        try:
            rasterio.shutil.copy(dataset, path, driver="VRT")
        except (*GDAL_ERRORS, SystemError):
            return (
                None  # nothing that GDAL writes down, or names with options, which it refuses without a word
            )
        with unwarned(), rasterio.open(path) as vrt:
            root = ElementTree.fromstring(vrt.tags(ns="xml:VRT")["xml:VRT"])
    element = root.find("SRS")
    return element if element is not None and element.get(_EPOCH) else None
