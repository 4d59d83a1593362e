# SPDX-License-Identifier: GPL-2.0-or-later
"""From layers and extents of QGIS to what the command understands. Needs no QGIS."""

from __future__ import annotations

import os
import re

from .command import CommandFailed

Bounds = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax

_EXPORT = "export it (right-click the layer > Export > Save As…, as raw data) and take the file it gives"
_OPTIONS = re.compile(r"\|(option|credential):")


def dataset_name(layer: str, provider: str, source: str) -> str:
    """Return the name by which GDAL opens a layer's data outside of QGIS.

    `provider` and `source` are what QGIS says of the layer. Raises CommandFailed for data that only QGIS can
    read.
    """
    if provider != "gdal":
        raise CommandFailed(
            f"{layer}: its pixels come from QGIS itself (provider {provider}), not from a file", _EXPORT
        )
    if _OPTIONS.search(source) or "authcfg=" in source:
        raise CommandFailed(f"{layer}: QGIS opens it with options or a login that only QGIS has", _EXPORT)
    if source.startswith("/vsimem/"):
        raise CommandFailed(f"{layer}: lies in the memory of QGIS, where no other program sees it", _EXPORT)
    if os.path.exists(source) or source.startswith("/vsi") or _holds_a_file(source):
        return source
    raise CommandFailed(f"{layer}: {source} is no file that is there", _EXPORT)


def _holds_a_file(source: str) -> bool:
    """Tell whether the name of a subdataset, like GPKG:/a/b.gpkg:june, holds that of a file that is there."""
    parts = source.split(":")
    return any(
        os.path.exists(":".join(parts[first:last]).strip('"'))
        for first in range(1, len(parts))
        for last in range(first + 1, len(parts) + 1)
    )


def part_options(wanted: Bounds, layer: Bounds, width: int, height: int) -> list[str]:
    """Return the options for a part of a layer of this extent and so many pixels.

    `wanted` is in the layer's own coordinates, which are those of its file, whatever system the user says
    they are in. Pictures without coordinates, which QGIS shows right of and below the origin, are cut by
    pixels. Raises CommandFailed for a part outside.
    """
    left, bottom, right, top = (
        *(max(a, b) for a, b in zip(wanted[:2], layer[:2])),
        *(min(a, b) for a, b in zip(wanted[2:], layer[2:])),
    )
    if not (left < right and bottom < top):
        raise CommandFailed(
            "the extent lies outside of the layer", "draw it on the layer, or leave it out for all"
        )
    if layer != (0, -height, width, 0):
        return [f"--bbox={left!r},{bottom!r},{right!r},{top!r}"]
    column, row = int(left), int(-top)
    columns, rows = -int(-right // 1) - column, -int(bottom // 1) - row
    return [f"--window={column},{row},{columns},{rows}"]
