"""What creation options make of pixels, found out before work on a small raster of the same kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.shutil
from rasterio.enums import ColorInterp, Compression, MaskFlags

from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster import formats
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.metadata import carry_place
from dehazexl_cli.raster.session import GdalSession, in_memory

SIDE = 128  # pixels; the upper half is even squares, the lower noise
_SQUARE = 16
_MOST_BANDS = 16  # of the small raster
_RUIN = 0.7  # of the range: even the worst JPEG keeps brightness better; what was not written reads as 0
_MARGIN = 1.5  # the largest drift of a few squares is not the largest there is


@dataclass(frozen=True)
class Outcome:
    """What a file of some format and options is to the pixels it is given."""

    exact: bool = True  # whether all come out as they went in
    drift: float = 0.0  # by how much the mean of even pixels may differ
    keeps_nodata: bool = True  # whether nodata stays nodata
    keeps_alpha: bool = True  # whether every alpha is as it was
    alpha_as_mask: bool = False  # whether the last band, alpha, becomes a mask

    def in_words(self, format: formats.Format) -> Iterator[str]:
        """What a user should know of it."""
        changes = f"a {format} so compressed changes pixels a little, so"
        if not self.keeps_nodata:
            yield f"{changes} some may be no longer exactly nodata; compression without loss keeps them"
        if not self.keeps_alpha:
            yield f"{changes} alpha may be no longer exactly as it was; compression without loss keeps it"
        if self.alpha_as_mask:
            yield f"a {format} so compressed keeps alpha as a mask: a pixel is there or it is not"


def rehearse(
    format: formats.Format,
    info: RasterInfo,
    options: dict[str, str],
    colours: Sequence[ColorInterp],
    source: Any,
    gdal: GdalSession,
) -> Outcome:
    """Make a small file in memory as the whole is to be made.

    `source` is an open dataset that says the place of the whole; None if there is none. Raises OutputError
    for options that change size, place, type or bands, or ruin pixels, and what GDAL raises.
    """
    count = min(info.count, _MOST_BANDS)
    alpha = info.alpha if info.alpha is not None and info.alpha <= count else None
    small = replace(info, height=SIDE, width=SIDE, count=count, alpha=alpha)
    pixels = rehearsed_pixels(small, options)
    if format in (formats.GTIFF, formats.COG):
        options = options | {"NUM_THREADS": "1"}  # GDAL's threads lose errors, and print them
    with in_memory("tif") as scratch, in_memory(format.suffixes[0].lstrip(".")) as result:
        first = scratch if format.scratch else result
        of_first = formats.scratch_options(format, small) if format.scratch else options
        with formats.create_tiff(Path(first), small, of_first, gdal) as made:
            made.colorinterp = colours[:count]
            if info.nodata is not None and formats.is_held(info.nodata, info.dtype):
                made.nodata = info.nodata
            if source is not None:
                carry_place(source, made)
            made.write(pixels)
        if format.scratch:
            rasterio.shutil.copy(scratch, result, driver=format.driver, **options)
        with gdal.open(result) as made, gdal.open(first) as asked:
            _require_same_raster(made, asked, format)
            outcome = _compare(made, pixels, small)
    if outcome.drift / _MARGIN > _RUIN * float(np.ptp(pixels[:, SIDE // 2 :])):
        raise OutputError(
            f"these creation options make a {format} that cannot hold pixels of {info.dtype}",
            "leave out --co, or choose a compression for such pixels: DEFLATE, ZSTD or LZW",
        )
    return outcome


def rehearsed_pixels(info: RasterInfo, options: dict[str, str]) -> Pixels:
    """Even squares, noise and waves [count, SIDE, SIDE] over the range of the type; some without ground."""
    dtype, random = np.dtype(info.dtype), np.random.default_rng(0)
    even: Pixels
    noise: Pixels
    squares, half = (info.count, SIDE // 2 // _SQUARE, SIDE // _SQUARE), SIDE // 2
    waves = 0.5 + 0.3 * np.sin(np.hypot(*np.mgrid[:half, :half]) / 9)
    if dtype.kind == "f":
        even, noise = random.random(squares), random.random((info.count, half, SIDE))
        noise[:, :, half:] = waves
    else:
        bits = formats.bits_of(options) or info.bits
        top = int(np.iinfo(dtype).max) if bits is None else 2**bits - 1
        even = random.integers(0, top, squares, dtype=np.uint64, endpoint=True)
        noise = random.integers(0, top, (info.count, half, SIDE), dtype=np.uint64, endpoint=True)
        noise[:, :, half:] = top * waves
    pixels = np.concatenate([even.repeat(_SQUARE, 1).repeat(_SQUARE, 2), noise], axis=1).astype(dtype)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    hidden = (rows < _SQUARE) | (cols % 40 == 0) | ((rows > half) & (rows + cols > 200))
    if info.nodata is not None and formats.is_held(info.nodata, info.dtype):
        pixels[:, hidden] = info.nodata
    if info.alpha is not None:
        pixels[info.alpha - 1] = 255 if dtype.kind == "u" else 1
        pixels[info.alpha - 1, hidden] = 0
    return pixels


def _compare(made: Any, pixels: Pixels, info: RasterInfo) -> Outcome:
    found = made.read()
    as_mask = len(found) == len(pixels) - 1
    kept = pixels[: len(found)]
    drift = _MARGIN * float(np.abs(_means(found[:, _SQUARE:]) - _means(kept[:, _SQUARE:])).max())
    if np.array_equal(found, kept, equal_nan=True):
        return Outcome(drift=drift, alpha_as_mask=as_mask)
    # WebP packs alpha by itself. That a few pixels of others came out as they were proves nothing.
    apart = made.driver == "WEBP" or made.compression is Compression.webp
    keeps_alpha = info.alpha is None or as_mask
    if apart and not keeps_alpha:
        keeps_alpha = np.array_equal(found[info.alpha - 1], pixels[info.alpha - 1])  # type: ignore[operator]
    return Outcome(False, drift, info.nodata is None, keeps_alpha, as_mask)


def _means(pixels: Pixels) -> Pixels:
    count, height, width = pixels.shape
    squares = pixels.reshape(count, height // _SQUARE, _SQUARE, width // _SQUARE, _SQUARE)
    means: Pixels = squares.mean(axis=(2, 4), dtype=np.float64)
    return means


def _require_same_raster(made: Any, asked: Any, format: formats.Format) -> None:
    """Raises OutputError for a file of another size, place, type or number of bands than asked for."""
    on_grid = format is formats.COG  # which alone may be warped; others leave places to side files
    changed = [
        what
        for what, same in (
            ("size", made.shape == asked.shape),
            ("place", not on_grid or made.transform.almost_equals(asked.transform)),
            ("coordinate system", not on_grid or made.crs == asked.crs),
            ("type", made.dtypes[0] == asked.dtypes[0]),
            ("number of bands", made.count == asked.count or _has_alpha_as_mask(made, asked)),
        )
        if not same
    ]
    if changed:
        raise OutputError(
            f"these creation options make a {format} of another {' and '.join(changed)}",
            "write OUT without them, and make that file of it with gdalwarp or gdal_translate",
        )


def _has_alpha_as_mask(made: Any, asked: Any) -> bool:
    masked = MaskFlags.per_dataset in made.mask_flag_enums[0]
    alpha_last = asked.colorinterp[-1] is ColorInterp.alpha
    return masked and alpha_last and made.count == asked.count - 1
