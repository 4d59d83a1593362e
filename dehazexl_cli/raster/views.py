"""Rasters seen in another way: a part of one, one with fewer valid pixels, one that threads share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterInfo, RasterReader
from dehazexl_cli.raster.pixels import thinned, window


class WindowedReader:
    """A box of another raster as a raster of its own; `close` closes both.

    Raises ValueError for a box that is not inside.
    """

    def __init__(self, whole: RasterReader, box: Box) -> None:
        window(box, whole.info)
        self.whole, self.box = whole, box
        self.info: RasterInfo = replace(whole.info, height=box.height, width=box.width)

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the part; see RasterReader.read."""
        return self.whole.read(self._placed(box), bands)

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground; see RasterReader.valid."""
        return self.whole.valid(self._placed(box), bands)

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of valid pixels, evenly thinned to at most side x side of the part."""
        return sample_by_rows(self, bands, side)

    def close(self) -> None:
        """Close the whole raster."""
        self.whole.close()

    def _placed(self, box: Box) -> Box:
        window(box, self.info)
        return box.moved(self.box.top, self.box.left)


class MaskedReader:
    """Another raster of which fewer pixels are ground; `close` closes it and the mask.

    Not ground, beside what the raster itself says: every band asked for has the value `nodata`, or the
    mask, a raster of the same size, is 0 in all its colour bands or has no ground itself. Raises InputError
    for a mask of another size.
    """

    def __init__(
        self, whole: RasterReader, nodata: float | None = None, mask: RasterReader | None = None
    ) -> None:
        if mask is not None:
            _require_same_size(mask.info, whole.info)
        self.whole, self.mask = whole, mask
        self.info: RasterInfo = whole.info if nodata is None else replace(whole.info, nodata=nodata)
        self._nodata = nodata

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene; see RasterReader.read."""
        return self.whole.read(box, bands)

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground [height, width] bool; None where all of them are."""
        ground = self.whole.valid(box, bands)
        checks = [] if ground is None else [ground]
        if self._nodata is not None:
            # NaN is no ground already, and equal to nothing.
            checks.append((self.whole.read(box, bands) != self._nodata).any(axis=0))
        if self.mask is not None:
            of_mask = colour_bands(self.mask.info)
            checks.append((self.mask.read(box, of_mask) != 0).any(axis=0))
            known = self.mask.valid(box, of_mask)
            checks += [] if known is None else [known]
        together = np.logical_and.reduce(checks) if checks else None
        return None if together is None or together.all() else together

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of valid pixels, evenly thinned to at most side x side of the scene."""
        return sample_by_rows(self, bands, side)

    def close(self) -> None:
        """Close the raster and its mask."""
        self.whole.close()
        if self.mask is not None:
            self.mask.close()


class LockedReader:
    """Another raster that several threads may use, one at a time."""

    def __init__(self, whole: RasterReader) -> None:
        self.whole, self.info = whole, whole.info
        self._lock = threading.Lock()

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene; see RasterReader.read."""
        with self._lock:
            return self.whole.read(box, bands)

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground; see RasterReader.valid."""
        with self._lock:
            return self.whole.valid(box, bands)

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of valid pixels; see RasterReader.sample."""
        with self._lock:
            return self.whole.sample(bands, side)

    def close(self) -> None:
        """Close the raster."""
        with self._lock:
            self.whole.close()


def colour_bands(info: RasterInfo) -> list[int]:
    """All bands but alpha, 1-based."""
    return [band for band in range(1, info.count + 1) if band != info.alpha]


def sample_by_rows(reader: RasterReader, bands: Sequence[int], side: int) -> Pixels:
    """What RasterReader.sample promises, from single rows, so that little is in memory at a time."""
    info = reader.info
    cols = thinned(info.width, side)
    values = []
    for row in thinned(info.height, side):
        box = Box(int(row), 0, 1, info.width)
        line, valid = reader.read(box, bands)[:, 0, cols], reader.valid(box, bands)
        values.append(line if valid is None else line[:, valid[0, cols]])
    return np.concatenate(values, axis=1)


def _require_same_size(mask: RasterInfo, scene: RasterInfo) -> None:
    if (mask.height, mask.width) != (scene.height, scene.width):
        raise InputError(
            f"the mask {mask.name} has {mask.width} x {mask.height} pixels, and {scene.name} has "
            f"{scene.width} x {scene.height}",
            "give a mask of the same size, for example made with: gdalwarp -te … -ts … MASK OUT.tif",
        )
