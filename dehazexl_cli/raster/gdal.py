"""Scenes that GDAL opens: GeoTIFF, PNG, JPEG and the rest."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.errors import NodataShadowWarning
from rasterio.windows import Window

from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import USUAL, Pixels, Trust
from dehazexl_cli.raster.gdal_info import (
    damaged,
    describe,
    expanded,
    expansion_of,
    files_of_dataset,
    open_dataset,
    require_decodable,
)
from dehazexl_cli.raster.pixels import window
from dehazexl_cli.raster.session import GDAL_ERRORS, GdalSession


class GdalReader:
    """Reads boxes of one dataset; raises InputError where the file cannot be opened, used or decoded.

    The handle is its own, so a writer that opens the same file for its metadata shares nothing with it.
    With `overview`, from 0, it is that one of the file's smaller versions.
    """

    def __init__(self, path: str, trust: Trust = USUAL, overview: int | None = None) -> None:
        self.path = path  # as GDAL takes it: a file's name, /vsizip/…, GPKG:file:table, https://…
        self._gdal = GdalSession()
        self._using = threading.RLock()  # a run that is stopped closes it while another thread still reads
        self._dataset = open_dataset(path, self._gdal, overview)
        try:
            with self._reading("its description"):
                require_decodable(path, self._dataset)
                self.info = describe(path, self._dataset, trust)
                self._expansion = expansion_of(path, self._dataset)
                if self._expansion is not None:
                    self.info = expanded(self.info, self._expansion)
                self._mask_flags = self._dataset.mask_flag_enums
        except BaseException:
            self._dataset.close()
            raise
        self._may_be_infinite = self.info.dtype.startswith("float")
        # With alpha and nodata rasterio warns at every read that it heeds one; here both are heeded. Said
        # once for this module, as `catch_warnings` around reads would not be safe in threads.
        warnings.filterwarnings("ignore", category=NodataShadowWarning, module=re.escape(__name__))

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene, 1-based bands, the source's dtype.

        Raises InputError if the file is damaged there.
        """
        rows, cols = window(box, self.info)
        with self._reading(_rows_named(box)):
            return self._read(bands, Window.from_slices(rows, cols), (box.height, box.width))

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground [height, width] bool, by these bands; None where all are.

        As in GDAL, a nodata value takes a pixel out only where every one of the bands has it, and a mask band
        stands before nodata values. Beyond GDAL, an alpha of 0 always takes a pixel out, and so does NaN
        or infinity in any of the bands: one of them would spread through the whole scene.
        """
        rows, cols = window(box, self.info)
        with self._reading(_rows_named(box)):
            ground = self._ground(bands, Window.from_slices(rows, cols), (box.height, box.width))
        return None if ground is None or ground.all() else ground

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of pixels valid by these bands, evenly thinned to at most side x side.

        GDAL thins (nearest neighbour, from overviews where there are some), so memory is bounded by
        side² and the same file gives the same values every time.
        """
        shape = (min(side, self.info.height), min(side, self.info.width))
        scene = Window(0, 0, self.info.width, self.info.height)
        with self._reading("a thinned view"):
            values = self._read(bands, scene, shape)
            ground = self._ground(bands, scene, shape)
        return values.reshape(len(bands), -1) if ground is None else values[:, ground]

    @property
    def files(self) -> list[str]:
        """The names of all files that this raster is read from."""
        with self._gdal():
            return files_of_dataset(self._dataset)

    @property
    def overviews(self) -> tuple[int, ...]:
        """How much smaller each of the file's smaller versions is, those that GDAL can open."""
        with self._gdal():
            return tuple(self._dataset.overviews(1))

    def thinned_ground(self, bands: Sequence[int], height: int, width: int) -> Pixels | None:
        """Which pixels of the scene, thinned to that size, are ground [height, width]; None where all are.

        From overviews where there are some. Raises InputError if the file is damaged.
        """
        with self._reading("a thinned view"):
            whole = Window(0, 0, self.info.width, self.info.height)
            ground = self._ground(bands, whole, (height, width))
        return None if ground is None or ground.all() else ground

    def close(self) -> None:
        """Let go of the file; may be called twice. Waits for what is being read."""
        with self._using, self._gdal():
            self._dataset.close()

    def _read(self, bands: Sequence[int], where: Window, shape: tuple[int, int]) -> Pixels:
        """Pixels [bands, *shape] of a window, thinned where the shape is smaller."""
        if self._expansion is not None:
            stored = self._expansion.stored
            numbers = self._dataset.read(stored, window=where, out_shape=(len(stored), *shape))
            return self._expansion.read(numbers, list(bands))
        pixels: Pixels = self._dataset.read(list(bands), window=where, out_shape=(len(bands), *shape))
        return pixels.astype(self.info.dtype, copy=False)

    def _ground(self, bands: Sequence[int], where: Window, shape: tuple[int, int]) -> Pixels | None:
        """Which pixels are ground [shape], one band in memory at a time; None if nothing can be invalid."""
        checks: list[Pixels] = []
        masked = self._masked(bands)
        if masked:
            mask = np.zeros(shape, bool)
            for band in masked:
                mask |= self._dataset.read_masks(band, window=where, out_shape=shape) != 0
            checks.append(mask)
        if self.info.alpha is not None:
            checks.append(self._read([self.info.alpha], where, shape)[0] != 0)
        if self._may_be_infinite:
            finite = np.ones(shape, bool)
            for band in bands:
                finite &= np.isfinite(self._dataset.read(band, window=where, out_shape=shape))
            checks.append(finite)
        return reduce(np.logical_and, checks) if checks else None

    def _masked(self, bands: Sequence[int]) -> Sequence[int]:
        """Bands whose GDAL masks, OR-ed, tell ground from nodata; none where only alpha or nothing does."""
        flags = self._mask_flags
        if self._expansion is not None:  # of a colour table, with an alpha band where there is nodata
            return (1,) if MaskFlags.per_dataset in flags[0] else ()
        if MaskFlags.per_dataset in flags[0] and MaskFlags.alpha not in flags[0]:
            return (1,)
        # One band without nodata makes every pixel valid; an alpha band is looked at for itself.
        always = {MaskFlags.all_valid, MaskFlags.alpha}
        return () if any(always.intersection(flags[band - 1]) for band in bands) else bands

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            with self._using, self._gdal():
                yield
        except GDAL_ERRORS as error:
            raise damaged(self.path, what, error) from error


def _rows_named(box: Box) -> str:
    return f"rows {box.top} to {box.bottom - 1}"
