"""TIFFs whose pixels GDAL cannot decode: through tifffile and imagecodecs, tile by tile."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import USUAL, Pixels, RasterInfo, Trust
from dehazexl_cli.raster.gdal_info import UnsupportedByGdal, damaged, describe
from dehazexl_cli.raster.ink import is_ink
from dehazexl_cli.raster.palette import has_palette
from dehazexl_cli.raster.patched_tiff import PatchedTiff
from dehazexl_cli.raster.pixels import thinned, widened, window
from dehazexl_cli.raster.session import CACHE_BYTES, GDAL_ERRORS, GdalSession

# A tile is decoded as a whole; one of this size takes seconds, and a larger one is no tile but an attack.
_LARGEST_TILE_BYTES = 1 << 30

logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffReader:
    """Reads boxes of one TIFF; `path` is a dataset that GDAL opens, with all the file says but its pixels.

    Bands are the samples of the first image, or the pages of an OME-TIFF or ImageJ stack of channels.
    Raises InputError where the file cannot be opened, used or decoded.
    """

    def __init__(self, name: str, refused: UnsupportedByGdal, trust: Trust = USUAL) -> None:
        self._name, self._trust = name, trust
        if not Path(name).is_file():  # nothing inside archives or on the net
            raise refused
        self._gdal = GdalSession()
        self._using = threading.RLock()  # a run that is stopped closes it while another thread still reads
        with self._decoding("its description"):
            self._file = tifffile.TiffFile(name)
        self._dataset: Any = None
        self._shell: PatchedTiff | None = None
        try:
            with self._decoding("its description"):
                self._pages = _pages_of_bands(self._file)
                self._shell = PatchedTiff(name, self._file)
            self.path = self._shell.path
            self._dataset = self._open_shell(refused)
            self.info = self._describe(refused)
        except BaseException:
            self.close()
            raise
        self._masked = MaskFlags.per_dataset in self._dataset.mask_flag_enums[0] and self.info.alpha is None
        self._kept: OrderedDict[tuple[int, int], Pixels | None] = OrderedDict()
        self._kept_bytes = 0

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene, 1-based bands, the source's dtype.

        Raises InputError if the file is damaged there.
        """
        window(box, self.info)
        out = np.full((len(bands), box.height, box.width), self.info.nodata or 0, self.info.dtype)
        with self._decoding(f"rows {box.top} to {box.bottom - 1}"):
            for number, page in enumerate(self._pages):
                for place, pixels in self._segments(number, page, box, bands):
                    self._lay(out, box, bands, number, place, pixels)
        return out

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground [height, width] bool, by these bands; None where all are.

        Not ground: every one of the bands is nodata, any of them is NaN or infinite, alpha is 0, or a mask
        band says so.
        """
        info = self.info
        ground = np.ones((box.height, box.width), bool)
        if info.nodata is not None or info.dtype.startswith("float"):
            pixels = self.read(box, bands)
            ground &= np.isfinite(pixels).all(axis=0)
            if info.nodata is not None:
                ground &= (pixels != info.nodata).any(axis=0)
        if info.alpha is not None:
            ground &= self.read(box, [info.alpha])[0] != 0
        if self._masked:
            with self._decoding("its mask"), self._gdal():
                where = Window(box.left, box.top, box.width, box.height)
                ground &= self._dataset.read_masks(1, window=where) != 0
        return None if ground.all() else ground

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of valid pixels, evenly thinned to at most side x side of the scene."""
        cols = thinned(self.info.width, side)
        values = []
        for row in thinned(self.info.height, side):
            line = Box(int(row), 0, 1, self.info.width)
            ground = self.valid(line, bands)
            pixels = self.read(line, bands)[:, 0, cols]
            values.append(pixels if ground is None else pixels[:, ground[0, cols]])
        return np.concatenate(values, axis=1)

    @property
    def files(self) -> list[str]:
        """The names of all files that this raster is read from."""
        return [self._name]

    def close(self) -> None:
        """Let go of the file; may be called twice. Waits for what is being read."""
        with self._using:
            self._file.close()
            if self._dataset is not None:
                with self._gdal():
                    self._dataset.close()
            if self._shell is not None:
                self._shell.close()

    def _open_shell(self, refused: UnsupportedByGdal) -> Any:
        try:
            return self._gdal.open(self.path)
        except GDAL_ERRORS as error:
            raise refused from error

    def _describe(self, refused: UnsupportedByGdal) -> RasterInfo:
        info, page = describe(self._name, self._dataset, self._trust), self._pages[0]
        dtype = str(page.dtype)
        samples = page.samplesperpixel * len(self._pages)
        same = (page.imagelength, page.imagewidth) == (info.height, info.width)
        if not _has_codec(page) or has_palette(self._dataset) or is_ink(self._dataset):
            raise refused
        if not same or widened(dtype) != info.dtype or page.imagedepth > 1:
            raise refused
        if len(self._pages) == 1 and samples != info.count:
            raise refused
        length, width = _segment_shape(page)
        tile_bytes = length * width * page.samplesperpixel * np.dtype(info.dtype).itemsize
        if tile_bytes > _LARGEST_TILE_BYTES:
            raise InputError(
                f"{self._name}: is cut into pieces of {tile_bytes >> 20} MB, which are decoded as a whole",
                "save it in tiles, of 256 pixels for example, with the program that made it",
            )
        if len(self._pages) > 1:  # the file says nothing of bands that are pages
            return replace(info, count=samples, alpha=None, meanings=(), descriptions=())
        return replace(info, count=samples)

    def _segments(
        self, number: int, page: Any, box: Box, bands: Sequence[int]
    ) -> Iterator[tuple[Any, Pixels]]:
        """Tiles or strips that meet the box and hold wanted bands, each with where it lies."""
        length, width = _segment_shape(page)
        rows, cols = -(-page.imagelength // length), -(-page.imagewidth // width)
        planes = range(page.samplesperpixel) if page.planarconfig == 2 else range(1)
        for plane in planes:
            if page.planarconfig == 2 and plane + 1 not in bands:
                continue
            for row in range(box.top // length, -(-box.bottom // length)):
                for col in range(box.left // width, -(-box.right // width)):
                    pixels = self._decoded(number, page, (plane * rows + row) * cols + col)
                    if pixels is not None:
                        yield (plane, row * length, col * width), pixels

    def _decoded(self, number: int, page: Any, index: int) -> Pixels | None:
        """One tile or strip [height, width, samples], from the cache if it was wanted lately."""
        key = number, index
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        pixels = _decode(self._file, page, index)
        self._kept[key] = pixels
        self._kept_bytes += 0 if pixels is None else pixels.nbytes
        while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= 0 if oldest is None else oldest.nbytes
        return pixels

    def _lay(
        self,
        out: Pixels,
        box: Box,
        bands: Sequence[int],
        number: int,
        place: tuple[int, int, int],
        part: Pixels,
    ) -> None:
        """Copy what a tile and the box share."""
        plane, top, left = place
        first, last = max(top, box.top), min(top + part.shape[0], box.bottom)
        west, east = max(left, box.left), min(left + part.shape[1], box.right)
        if first >= last or west >= east:
            return
        shared = part[first - top : last - top, west - left : east - left]
        for index, band in enumerate(bands):
            sample = band - 1 - number - plane  # in this part; one of the two is always 0
            if 0 <= sample < part.shape[2] and (len(self._pages) == 1 or band - 1 == number):
                out[index, first - box.top : last - box.top, west - box.left : east - box.left] = shared[
                    :, :, sample
                ]

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        try:
            with self._using:
                yield
        except (InputError, MemoryError):
            raise
        except Exception as error:  # each codec raises its own, and some only RuntimeError or ValueError
            raise damaged(self._name, what, error) from error


def _pages_of_bands(file: tifffile.TiffFile) -> list[Any]:
    """The first page, or one page per band where the first series is a stack of channels."""
    first = file.pages[0]
    if not (file.is_ome or file.is_imagej) or len(file.pages) == 1:
        return [first]
    series = file.series[0]
    if series.axes != "CYX" or len(series.pages) != series.shape[0]:
        raise InputError(
            f"{file.filename}: is a stack of images along {' '.join(series.axes[:-2])}",
            "save the image you mean, or its channels, as a file of its own",
        )
    return [page.aspage() for page in series.pages if page is not None]


def _has_codec(page: Any) -> bool:
    try:
        return page.compression == 1 or bool(tifffile.TIFF.DECOMPRESSORS[page.compression])
    except KeyError:
        return False


def _segment_shape(page: Any) -> tuple[int, int]:
    """Height and width of a page's tiles or strips."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _decode(file: tifffile.TiffFile, page: Any, index: int) -> Pixels | None:
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if count == 0:
        return None
    file.filehandle.seek(offset)
    data = file.filehandle.read(count)
    if len(data) < count:
        raise ValueError(f"{count - len(data)} bytes are missing at {offset}")
    tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
    segment, _, shape = page.decode(data, index, **tables)
    if segment is None:
        return None
    pixels: Pixels = segment[0, : shape[1], : shape[2]]
    return pixels.astype(widened(pixels.dtype.name), copy=False)
