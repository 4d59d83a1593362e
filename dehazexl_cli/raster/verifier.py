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
# Lossy compression moves means of cells by far less than this share of their spread, or of the mean; lost
# blocks, which read as zeros, by more, unless the cell was next to zero all along.
_OF_SPREAD, _OF_MEAN = 0.1, 0.002
_CELL = 256  # columns


class _Part(NamedTuple):
    """What is remembered of some rows."""

    where: Window
    pixels: int  # checksum
    mask: int | None  # checksum, if there is one
    cells: _Cells | None  # where that is good enough


class _Cells(NamedTuple):
    """Some rows, cut into cells of some columns."""

    means: NDArray[np.float64]  # [count, cells], of the finite pixels
    spread: NDArray[np.float64]  # [count, cells], from the least to the greatest


class WriteVerifier:
    """Checksums of the rows of blocks as they are written, to compare with the file when it is done.

    A `drift` is for compression that may lose detail: then cells need only be as bright on average, but for
    their spread and so much.
    """

    def __init__(self, drift: float | None = None) -> None:
        self._drift = drift
        self._parts: list[_Part] = []

    def note(self, where: Window, rows: Pixels, mask: Pixels | None) -> None:
        """Remember rows [count, height, width] and their mask [height, width], written to a window."""
        of_mask = None if mask is None else _checksum(mask[np.newaxis])
        cells = None if self._drift is None else _cells(rows)
        self._parts.append(_Part(where, _checksum(rows), of_mask, cells))

    def holds_for(self, dataset: Any) -> bool:
        """Read an open dataset from top to bottom and compare; raises what GDAL raises if it cannot."""
        for part in self._parts:
            rows = dataset.read(window=part.where)
            if _checksum(rows) != part.pixels and not self._is_near(part, rows):
                return False
            if part.mask is not None and part.mask != _checksum(dataset.read_masks([1], window=part.where)):
                return False
        return True

    def _is_near(self, part: _Part, rows: Pixels) -> bool:
        if part.cells is None or self._drift is None:
            return False
        found, before = _cells(rows), part.cells
        spread = np.maximum(found.spread, before.spread)
        allowed = self._drift + _OF_SPREAD * spread + _OF_MEAN * np.abs(before.means) + 1e-6
        return bool((np.abs(found.means - before.means) <= allowed).all())


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


def _cells(rows: Pixels) -> _Cells:
    starts = np.arange(0, rows.shape[2], _CELL)
    means = np.zeros((len(rows), len(starts)))
    spread = np.zeros_like(means)
    for index, band in enumerate(rows):
        finite = np.isfinite(band) if band.dtype.kind == "f" else np.ones(band.shape, bool)
        values = np.where(finite, band, 0).sum(axis=0, dtype=np.float64)
        count = np.add.reduceat(finite.sum(axis=0), starts)
        low = np.minimum.reduceat(np.where(finite, band, np.inf).min(axis=0), starts)
        high = np.maximum.reduceat(np.where(finite, band, -np.inf).max(axis=0), starts)
        some = count > 0
        means[index, some] = np.add.reduceat(values, starts)[some] / count[some]
        spread[index, some] = (high - low)[some]
    return _Cells(means, spread)


def _checksum(rows: Pixels) -> int:
    checksum = 0
    for band in rows:  # one by one, as a slice of rows is contiguous only within a band
        checksum = zlib.crc32(np.ascontiguousarray(band).data, checksum)
    return checksum
