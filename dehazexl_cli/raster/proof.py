"""Does a finished file hold what was written? GDAL does not always say when it does not.

With threads that compress, GDAL (3.10) loses errors of writing, and on closing it fills the tiles that are
missing with zeros; so a file that opens and reads without an error proves nothing.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from dehazexl_cli.raster.base import Pixels

_END_OF_JPEG = b"\xff\xd9"
_ENDS = {
    ".png": b"IEND\xaeB`\x82",
    ".jpg": _END_OF_JPEG,
    ".jpeg": _END_OF_JPEG,
    ".xml": b"</PAMDataset>",
}
# Lossy compression moves the mean of some rows by far less than this share of their range; lost blocks,
# which read as zeros, by more, unless the rows were next to zero all along.
_MOST_DRIFT = 0.05


class _Part(NamedTuple):
    """What is remembered of some rows."""

    where: Window
    pixels: int  # checksum
    mask: int | None  # checksum, if there is one
    means: NDArray[np.float64] | None  # [count], of the finite pixels, where that is good enough
    spread: float  # from the least to the greatest


class Proof:
    """Checksums of the rows of blocks as they are written, to compare with the file when it is done.

    `roughly` is for compression that may lose detail: then rows need only be as bright on average.
    """

    def __init__(self, roughly: bool = False) -> None:
        self._roughly = roughly
        self._parts: list[_Part] = []

    def note(self, where: Window, rows: Pixels, mask: Pixels | None) -> None:
        """Remember rows [count, height, width] and their mask [height, width], written to a window."""
        of_mask = None if mask is None else _checksum(mask[np.newaxis])
        means = _means(rows) if self._roughly else (None, 0.0)
        self._parts.append(_Part(where, _checksum(rows), of_mask, *means))

    def holds_for(self, dataset: Any) -> bool:
        """Read an open dataset from top to bottom and compare; raises what GDAL raises if it cannot."""
        for part in self._parts:
            rows = dataset.read(window=part.where)
            if _checksum(rows) != part.pixels and not _near(part, rows):
                return False
            if part.mask is not None and part.mask != _checksum(dataset.read_masks([1], window=part.where)):
                return False
        return True


def ends_as_it_must(path: Path) -> bool:
    """Whether a file that may have been cut after its last pixel, or has none, has its end."""
    end = _ENDS.get(path.suffix.lower())
    if end is None:
        return True
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(-min(64, size), os.SEEK_END)
        tail = file.read()
        if end is _END_OF_JPEG and not tail.endswith(end):
            # GDAL puts a mask behind the image, and last where the image ends.
            file.seek(min(max(0, int.from_bytes(tail[-4:], "little") - 2), size))
            tail = file.read(2)
    return end in tail


def _near(part: _Part, rows: Pixels) -> bool:
    if part.means is None:
        return False
    means, spread = _means(rows)
    allowed = _MOST_DRIFT * max(spread, part.spread) + 1e-6
    return bool((np.abs(means - part.means) <= allowed).all())


def _means(rows: Pixels) -> tuple[NDArray[np.float64], float]:
    means, low, high = np.zeros(len(rows)), np.inf, -np.inf
    for index, band in enumerate(rows):
        finite = band[np.isfinite(band)] if band.dtype.kind == "f" else band
        if finite.size:
            means[index] = finite.mean(dtype=np.float64)
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return means, max(0.0, high - low)


def _checksum(rows: Pixels) -> int:
    checksum = 0
    for band in rows:  # one by one, as a slice of rows is contiguous only within a band
        checksum = zlib.crc32(np.ascontiguousarray(band).data, checksum)
    return checksum
