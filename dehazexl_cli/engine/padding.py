"""Rows of a part become rows of the whole: what lies around the part is written as it was."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from dehazexl_cli.engine.haze import NO_GROUND
from dehazexl_cli.engine.nodata import strips
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterReader, RasterWriter


class Padding(NamedTuple):
    """What is written around the part of a raster that is worked on; `part` is inside `target`, or empty."""

    reader: RasterReader  # of the whole raster; used from the thread that writes too
    target: Box
    part: Box


class PaddingWriter:
    """A RasterWriter for rows of a part that writes rows of the target."""

    def __init__(self, writer: RasterWriter, frame: Padding, tells_haze: bool = False) -> None:
        self._writer, self._tells_haze = writer, tells_haze
        self._reader, self._target, self._part = frame
        self._next = frame.target.top  # row of the raster that is to be written next

    def write(self, rows: Pixels) -> None:
        """Append rows [count, height, width] of the part; see RasterWriter.write."""
        if self._next < self._part.top:
            self._copy(self._part.top)
        whole = rows
        if self._part.width < self._target.width:
            whole = self._source(Box(self._next, 0, rows.shape[1], self._target.width))
            left = self._part.left - self._target.left
            whole[:, :, left : left + rows.shape[2]] = rows
        self._writer.write(whole)
        self._next += rows.shape[1]

    def commit(self) -> None:
        """Write what is below the part, and finish; see RasterWriter.commit."""
        self._copy(self._target.bottom)
        self._writer.commit()

    def _copy(self, stop: int) -> None:
        for strip in strips(stop - self._next, self._target.width, self._next):
            self._writer.write(self._source(strip))
        self._next = stop

    def _source(self, rows: Box) -> Pixels:
        source = self._reader.read(rows.moved(0, self._target.left), range(1, self._reader.info.count + 1))
        if not self._tells_haze:
            return source
        unknown = np.full((1, *source.shape[1:]), NO_GROUND, np.uint8)
        return np.concatenate([source, unknown.astype(source.dtype)])

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, traceback)
