"""Rows that arrive from top to bottom: counted, checked, and regrouped to whole rows of blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dehazexl_cli.raster.base import Pixels, RasterInfo


class RowCounter:
    """Knows how much of a scene has come; what does not fit is a bug of the caller, so a ValueError."""

    def __init__(self, info: RasterInfo) -> None:
        self._info = info
        self.done = 0  # rows so far

    def accept(self, rows: Pixels) -> int:
        """Count rows [count, height, width] in and return the scene row of the first."""
        info = self._info
        if rows.ndim != 3 or rows.shape[0] != info.count or rows.shape[2] != info.width:
            raise ValueError(f"rows {rows.shape} do not fit {info.count} bands of width {info.width}")
        if rows.dtype != np.dtype(info.dtype):
            raise ValueError(f"rows of type {rows.dtype} given for a raster of type {info.dtype}")
        if self.done + rows.shape[1] > info.height:
            raise ValueError(f"{self.done + rows.shape[1]} rows given for a raster of {info.height}")
        top = self.done
        self.done += rows.shape[1]
        return top

    def require_all(self) -> None:
        """Raises ValueError if rows are missing."""
        if self.done != self._info.height:
            raise ValueError(f"only {self.done} of {self._info.height} rows were written")


class BlockRows:
    """Regroups strips of any height into whole rows of blocks: GDAL writes part of a block badly."""

    def __init__(self, info: RasterInfo, block_height: int) -> None:
        self._info = info
        self._block_height = block_height
        self._top = 0  # scene row of the block row being filled
        self._held = 0  # rows of it that wait in the buffer
        self._buffer = np.empty((info.count, min(block_height, info.height), info.width), info.dtype)

    def push(self, rows: Pixels) -> Iterator[tuple[int, Pixels]]:
        """Yield (top, rows [count, block height, width]); use each before asking for the next."""
        start = 0
        while start < rows.shape[1]:
            goal = min(self._block_height, self._info.height - self._top)
            taken = min(goal - self._held, rows.shape[1] - start)
            piece = rows[:, start : start + taken]
            start += taken
            if taken < goal:  # a strip that brings a whole block row is passed on without a copy
                self._buffer[:, self._held : self._held + taken] = piece
                piece = self._buffer[:, :goal]
            self._held += taken
            if self._held == goal:
                yield self._top, piece
                self._top += goal
                self._held = 0
