"""Which pixels of a file are worked on: what a user says of its ground, and the part that is wanted."""

from __future__ import annotations

import numpy as np

from dehazexl_cli.config import Selection
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import find_box, open_reader, require_same_place
from dehazexl_cli.raster.base import RasterInfo, RasterReader, Trust
from dehazexl_cli.raster.formats import is_held
from dehazexl_cli.raster.views import MaskedReader


def open_selected(path: str, selection: Selection) -> tuple[RasterReader, Box | None]:
    """A reader that knows what is ground, and the part that is wanted, None for all.

    Raises InputError for files that cannot be used, UsageError for a part that lies outside.
    """
    partial = (selection.window or selection.bounds) is not None and selection.context == "window"
    reader = open_reader(path, Trust(not selection.not_alpha, selection.any_size or partial))
    try:
        if selection.nodata is not None:
            _require_possible(selection.nodata, reader.info)
        if selection.nodata is not None or selection.mask is not None:
            mask = None if selection.mask is None else open_reader(selection.mask)
            scene, reader = reader, MaskedReader(reader, selection.nodata, mask)
            if mask is not None:
                require_same_place(mask, scene)
        return reader, _wanted_box(reader, selection)
    except BaseException:
        reader.close()
        raise


def _require_possible(nodata: float, info: RasterInfo) -> None:
    """Raises UsageError for a value that no pixel can have: it would take out none, in silence."""
    if not is_held(nodata, info.dtype):
        limits = np.iinfo(info.dtype)
        raise UsageError(
            f"--nodata {nodata:g} is no number that {info.name} can have",
            f"its pixels are {info.dtype}, {limits.min} to {limits.max}",
        )


def _wanted_box(reader: RasterReader, selection: Selection) -> Box | None:
    info = reader.info
    if selection.window is not None and selection.bounds is not None:
        raise UsageError("--window and --bbox both name the part to work on", "give one of them")
    if selection.bounds is not None:
        return find_box(reader, selection.bounds, selection.bounds_crs)
    if selection.window is not None:
        require_inside(selection.window, info)
    return selection.window


def require_inside(box: Box, info: RasterInfo) -> None:
    """Raises UsageError for a window that is empty or not inside a raster."""
    if min(box.height, box.width) < 1 or box.within(Box(0, 0, info.height, info.width)) != box:
        raise UsageError(
            f"--window {box.left},{box.top},{box.width},{box.height} is not inside {info.name}",
            f"it has {info.width} x {info.height} pixels; give col,row,width,height",
        )
