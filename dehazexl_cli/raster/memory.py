"""Arrays as rasters, for the Python interface and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.pixels import require_supported, thinned, window
from dehazexl_cli.raster.rows import RowCounter
from dehazexl_cli.raster.views import sample_by_rows

Layout = Literal["hw", "hwc", "chw"]


class ArrayReader:
    """Reads an array [h, w] or [h, w, c] as a scene, or [c, h, w] if `channels_first`.

    The array is not copied, so it must not change meanwhile. Raises InputError for an array of another
    shape, an empty one, a masked one, a type that is not supported, or `valid` of another size: [h, w], False
    where there is no ground, beside what nodata, alpha and NaN say.
    """

    def __init__(
        self,
        array: Pixels,
        channels_first: bool = False,
        nodata: float | None = None,
        alpha: int | None = None,  # 1-based
        name: str = "array",
        valid: Pixels | None = None,
    ) -> None:
        self.layout = _layout(array, channels_first, name)
        self._bands = _bands_first(array, self.layout)  # [c, h, w], a view
        count, height, width = self._bands.shape
        dtype = array.dtype.newbyteorder("=").name
        require_supported(name, dtype)
        if alpha is not None and not 1 <= alpha <= count:
            raise InputError(f"{name}: there is no band {alpha} to be its alpha", f"name one of 1 to {count}")
        self.info = RasterInfo(name, "MEM", height, width, count, dtype, nodata, alpha)
        self._valid = _of_size(valid, self.info)

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene, 1-based bands: a copy."""
        return self._take(bands, *window(box, self.info))

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground [height, width] bool, by these bands; None where all are.

        Not ground: every one of the bands is nodata, any of them is NaN or infinite, alpha is 0.
        """
        ground = self._ground(bands, *window(box, self.info))
        return None if ground is None or ground.all() else ground

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of pixels valid by these bands, evenly thinned to at most side x side."""
        rows, cols = thinned(self.info.height, side), thinned(self.info.width, side)
        values = self._take(bands, rows, cols)
        ground = self._ground(bands, rows, cols)
        return values.reshape(len(bands), -1) if ground is None else values[:, ground]

    def close(self) -> None:
        """Nothing is held open; the array stays with its owner."""

    def _take(self, bands: Sequence[int], rows: slice | Pixels, cols: slice | Pixels) -> Pixels:
        taken = [self._bands[band - 1][rows][:, cols] for band in bands]
        return np.stack(taken).astype(self.info.dtype, copy=False)

    def _ground(self, bands: Sequence[int], rows: slice | Pixels, cols: slice | Pixels) -> Pixels | None:
        info = self.info
        checks, is_float = [], info.dtype.startswith("float")
        pixels = self._take(bands, rows, cols) if is_float or info.nodata is not None else None
        if pixels is not None and info.nodata is not None:
            checks.append((pixels != info.nodata).any(axis=0))
        if pixels is not None and is_float:
            checks.append(np.isfinite(pixels).all(axis=0))
        if info.alpha is not None:
            checks.append(self._take([info.alpha], rows, cols)[0] != 0)
        if self._valid is not None:
            checks.append(self._valid[rows][:, cols])
        return reduce(np.logical_and, checks) if checks else None


class DataArrayReader(ArrayReader):
    """Reads a DataArray of xarray by windows: what is on disk or in Dask's chunks is never here as a whole.

    `dims` are the names of the dimensions of rows and columns, after that of the bands if there is one.
    """

    def __init__(self, array: Any, dims: Sequence[str], nodata: float | None, valid: Pixels | None) -> None:
        name = str(array.name or "DataArray")
        height, width = (array.sizes[dim] for dim in dims[-2:])
        count = array.sizes[dims[0]] if len(dims) == 3 else 1
        if array.size == 0:
            raise InputError(
                f"{name}: it has no pixels {array.shape}", "pass at least one row and one column"
            )
        dtype = array.dtype.newbyteorder("=").name
        require_supported(name, dtype)
        self._array, self._dims = array, list(dims)
        self._last: tuple[Any, Pixels] = None, np.empty(0)
        self.info = RasterInfo(
            name,
            "MEM",
            height,
            width,
            count,
            dtype,
            nodata,
            descriptions=_band_names(array, dims, count),
        )
        self._valid = _of_size(valid, self.info)

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values of valid pixels; see RasterReader.sample.

        Dask makes each chunk once for it. Of a file the rows are read, as what is between would come along.
        """
        return super().sample(bands, side) if self._array.chunks else sample_by_rows(self, bands, side)

    def _take(self, bands: Sequence[int], rows: slice | Pixels, cols: slice | Pixels) -> Pixels:
        asked = (list(bands), rows, cols) if isinstance(rows, slice) else None
        if asked is None or asked != self._last[0]:  # what is ground is asked just before the same pixels
            at: list[Any] = [[band - 1 for band in bands], rows, cols]
            part = self._array.isel(dict(zip(self._dims, at[-len(self._dims) :], strict=True)))
            pixels = np.transpose(part.values, [part.dims.index(dim) for dim in self._dims])
            pixels = pixels.astype(self.info.dtype, copy=False)
            self._last = asked, pixels if pixels.ndim == 3 else pixels[np.newaxis]
        return self._last[1].copy()


class ArrayWriter:
    """Collects rows in an array of the given layout; `array` has it after `commit`."""

    def __init__(self, info: RasterInfo, layout: Layout = "hwc") -> None:
        if layout == "hw" and info.count != 1:
            raise ValueError(f"{info.count} bands do not fit the layout hw")
        self._counter = RowCounter(info)
        sizes = {"h": info.height, "w": info.width, "c": info.count}
        self._array: Pixels | None = np.empty([sizes[axis] for axis in layout], info.dtype)
        self._bands = _bands_first(self._array, layout)  # [c, h, w], a view
        self._committed = False

    @property
    def array(self) -> Pixels:
        """The whole scene; ValueError before `commit`, as half a scene is no scene."""
        if self._array is None or not self._committed:
            raise ValueError("there is no array before commit")
        return self._array

    def write(self, rows: Pixels) -> None:
        """Append rows [count, height, width] in the raster's dtype; ValueError if they do not fit."""
        if self._array is None or self._committed:
            raise ValueError("this writer is finished")
        top = self._counter.accept(rows)
        self._bands[:, top : top + rows.shape[1]] = rows

    def commit(self) -> None:
        """Give out the array; ValueError if rows are missing."""
        self._counter.require_all()
        self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._committed:
            self._array = None
            self._bands = np.empty((0, 0, 0))


def _layout(array: Pixels, channels_first: bool, name: str) -> Layout:
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name}: its mask would be lost", "pass array.filled(VALUE) and nodata=VALUE")
    if array.size == 0:
        raise InputError(f"{name}: it has no pixels {array.shape}", "pass at least one row and one column")
    if array.ndim == 2:
        return "hw"
    if array.ndim == 3:
        return "chw" if channels_first else "hwc"
    raise InputError(
        f"{name}: it has {array.ndim} axes", "pass [h, w], [h, w, c], or [c, h, w] marked as such"
    )


def _of_size(valid: Pixels | None, info: RasterInfo) -> Pixels | None:
    if valid is not None and valid.shape != (info.height, info.width):
        raise InputError(
            f"a mask {list(valid.shape)} does not fit an image of [{info.height}, {info.width}] pixels",
            "pass one of the same height and width, without an axis for bands",
        )
    return valid


def _band_names(array: Any, dims: Sequence[str], count: int) -> tuple[str, ...]:
    """What the bands are called, by their coordinate or as rioxarray keeps the names in a file."""
    if len(dims) == 3 and dims[0] in array.coords and array.coords[dims[0]].dtype.kind in "UOT":
        return tuple(map(str, array.coords[dims[0]].values))
    names = array.attrs.get("long_name")
    return tuple(map(str, names)) if isinstance(names, tuple | list) and len(names) == count else ()


def _bands_first(array: Pixels, layout: Layout) -> Pixels:
    if layout == "hw":
        return array[np.newaxis]
    return array if layout == "chw" else np.moveaxis(array, 2, 0)
