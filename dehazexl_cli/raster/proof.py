"""Does a finished file hold what was written? GDAL does not always say when it does not.

With threads that compress, GDAL (3.10) loses errors of writing, and on closing it fills the tiles that are
missing with zeros; so a file that opens and reads without an error proves nothing.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from dehazexl_cli.raster.base import Pixels

_ENDS = {".png": b"IEND\xaeB`\x82", ".xml": b"</PAMDataset>"}


class Proof:
    """Checksums of the rows of blocks as they are written, to compare with the file when it is done."""

    def __init__(self) -> None:
        self._parts: list[tuple[Window, int, int | None]] = []  # where, of the pixels, of the mask if any

    def note(self, where: Window, rows: Pixels, mask: Pixels | None) -> None:
        """Remember rows [count, height, width] and their mask [height, width], written to a window."""
        self._parts.append((where, _checksum(rows), None if mask is None else _checksum(mask[np.newaxis])))

    def holds_for(self, dataset: Any) -> bool:
        """Read an open dataset from top to bottom and compare; raises what GDAL raises if it cannot."""
        for where, of_rows, of_mask in self._parts:
            if _checksum(dataset.read(window=where)) != of_rows:
                return False
            if of_mask is not None and _checksum(dataset.read_masks([1], window=where)) != of_mask:
                return False
        return True


def ends_as_it_must(path: Path) -> bool:
    """Whether a file that may have been cut after its last pixel, or has none, has its end."""
    end = _ENDS.get(path.suffix.lower())
    if end is None:
        return True
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        return end in file.read()


def _checksum(rows: Pixels) -> int:
    checksum = 0
    for band in rows:  # one by one, as a slice of rows is contiguous only within a band
        checksum = zlib.crc32(np.ascontiguousarray(band).data, checksum)
    return checksum
