"""A raster as tiles of colours, of its own pixels and of halves of halves of them."""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterReader

TILE = 512  # pixels per side
KEPT_FROM = 8  # halves this small and smaller are kept ready; larger ones are made of what the file has
STRIP = 64  # rows of those that are made at a time
ACROSS = 1024  # and columns
RGBA = 4


class Pyramid:
    """Tiles of one raster, for several threads; `close` closes its readers.

    `readers` are the raster, under 1, and its overviews by how many pixels one of theirs stands for along a
    side. `show` makes colours [3, h, w] uint8 of numbers [bands, h, w].
    """

    def __init__(
        self,
        readers: dict[int, RasterReader],
        bands: Sequence[int],
        show: Callable[[Pixels], Pixels],
    ) -> None:
        self._readers = {factor: (reader, threading.Lock()) for factor, reader in readers.items()}
        self._bands, self._show = bands, show
        self._kept: dict[int, Pixels] = {}
        self._scratch: IO[bytes] | None = None
        self.height, self.width = readers[1].info.height, readers[1].info.width
        self.smallest = 1  # of the halves: the first that is a single tile
        while max(self.height, self.width) > TILE * self.smallest:
            self.smallest *= 2

    @property
    def rows_to_prepare(self) -> int:
        """How many rows `prepare` makes of the source; none of a small raster."""
        return self._size(KEPT_FROM).height if self.smallest >= KEPT_FROM else 0

    def prepare(self, folder: Path | None, made: Callable[[int], None]) -> None:
        """Make the small halves, in a file without a name in a folder, of which nothing is ever left.

        All of the raster is read for it, or a fitting overview; `made` is told of every few rows. Raises
        InputError where the raster is damaged, OutputError where the file cannot be written.
        """
        if not self.rows_to_prepare:
            return
        try:
            self._scratch = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._keep(KEPT_FROM, self._averaged, made)
            while max(self._kept) < self.smallest:
                self._keep(2 * max(self._kept), self._halved, lambda rows: None)
        except OSError as error:
            why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise OutputError(
                f"{folder or tempfile.gettempdir()}: cannot hold small copies of the rasters ({why})",
                "name a folder with more room with --tmp-dir",
            ) from error

    def tile(self, factor: int, row: int, col: int) -> Pixels:
        """Colours and alpha [4, height, width] uint8 of a tile, each pixel made of factor x factor.

        Raises LookupError where there is none, InputError where the raster is damaged.
        """
        if factor.bit_count() != 1 or factor > self.smallest:
            raise LookupError(f"no tiles of 1:{factor}")
        box = Box(row * TILE, col * TILE, TILE, TILE).within(self._size(factor))
        if not box.pixels:
            raise LookupError(f"no tile {row}, {col} of 1:{factor}")
        if factor in self._kept:
            kept = self._kept[factor][box.top : box.bottom, box.left : box.right]
            return np.moveaxis(kept, 2, 0)
        return self._averaged(factor, box)

    def close(self) -> None:
        """Let go of all files, when what is being read is; nothing more is read then."""
        for reader, lock in self._readers.values():
            lock.acquire()  # for ever, as threads that wait for it would find the file closed
            reader.close()
        if self._scratch is not None:
            self._scratch.close()

    def _size(self, factor: int) -> Box:
        return Box(0, 0, -(-self.height // factor), -(-self.width // factor))

    def _averaged(self, factor: int, box: Box) -> Pixels:
        """A box of a half from the nearest that the file has: the averages of the source's numbers."""
        nearest = max(each for each in self._readers if each <= factor)
        reader, lock = self._readers[nearest]
        part = magnified(box, factor // nearest).within(self._size(nearest))
        with lock:
            pixels, valid = reader.read(part, self._bands), reader.valid(part, self._bands)
        means, share = averaged(pixels, valid, factor // nearest)
        return with_alpha(self._show(means), share)

    def _halved(self, factor: int, box: Box) -> Pixels:
        """A box of a half from the one before, which is kept."""
        part = magnified(box, 2).within(self._size(factor // 2))
        before = self._kept[factor // 2][part.top : part.bottom, part.left : part.right]
        colours, alpha = np.split(np.moveaxis(before, 2, 0), [3])
        means, share = averaged(colours, alpha[0] / np.float32(255), 2)
        return with_alpha(means.round().astype(np.uint8), share)

    def _keep(self, factor: int, make: Callable[[int, Box], Pixels], made: Callable[[int], None]) -> None:
        """Write a half row by row into the file, and show it as an array [height, width, 4]."""
        assert self._scratch is not None
        size, start = self._size(factor), self._scratch.seek(0, 2)
        for top in range(0, size.height, STRIP):
            parts = [Box(top, left, STRIP, ACROSS).within(size) for left in range(0, size.width, ACROSS)]
            strip = np.concatenate([make(factor, part) for part in parts], axis=2)
            self._scratch.write(np.moveaxis(strip, 0, 2).tobytes())
            made(strip.shape[1])
        self._scratch.flush()
        shape = (size.height, size.width, RGBA)
        self._kept[factor] = np.memmap(self._scratch, np.uint8, "r", start, shape)


def magnified(box: Box, times: int) -> Box:
    """The box in pixels so many times smaller."""
    return Box(*(number * times for number in box))


def averaged(pixels: Pixels, weights: Pixels | None, size: int) -> tuple[Pixels, Pixels | None]:
    """Means of squares of size x size pixels [bands, h, w] by weights [h, w] from 0 to 1, and theirs.

    What has no weight may be no number. No weights are weights of 1.
    """
    if size == 1:
        return pixels, weights
    if weights is None:
        return squares(pixels, size) / size**2, None
    sums = squares(np.where(weights > 0, pixels, pixels.dtype.type(0)) * weights, size)
    (weights,) = squares(weights[None], size)
    return sums / np.where(weights > 0, weights, 1), weights / size**2


def squares(pixels: Pixels, size: int) -> Pixels:
    """Sums [bands, h, w] float64 of squares; pixels at the edge stand for those that it cuts off."""
    down, right = (-side % size for side in pixels.shape[1:])
    if down or right:
        pixels = np.pad(pixels, ((0, 0), (0, down), (0, right)), "edge")
    bands, height, width = pixels.shape
    rows: Pixels = pixels.reshape(bands, height // size, size, width).sum(axis=2, dtype=np.float64)
    sums: Pixels = rows.reshape(bands, height // size, width // size, size).sum(axis=3)
    return sums


def with_alpha(colours: Pixels, share: Pixels | None) -> Pixels:
    """Colours [3, h, w] uint8 above an alpha of so much of each pixel as is valid."""
    alpha: Any = 255 if share is None else (share * np.float32(255)).round()
    return np.concatenate([colours, np.broadcast_to(alpha, (1, *colours.shape[1:])).astype(np.uint8)])
