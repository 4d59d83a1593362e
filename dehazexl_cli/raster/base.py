"""What the engine may know of a raster: its numbers, its value range, and how to read and write boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from dehazexl_cli.grid import Box

Pixels = np.ndarray[Any, np.dtype[Any]]
TOP_PERCENTILE = 99.8
BOTTOM_PERCENTILE = 0.2


@dataclass(frozen=True)
class RasterInfo:
    """The shape and type of a raster, and what a person calls it."""

    name: str
    driver: str  # GDAL's short name, or "MEM" for arrays
    height: int
    width: int
    count: int  # bands, alpha included
    dtype: str  # numpy's name of the pixel type, the same for all bands
    nodata: float | None = None
    alpha: int | None = None  # 1-based index of the alpha band
    georeferenced: bool = False
    bits: int | None = None  # in use, where the file says that they are fewer than the type's
    scales: tuple[float, ...] = ()  # per band, value = scale · number + offset; empty: 1 and 0
    offsets: tuple[float, ...] = ()
    cache_bytes: int = 0  # what the library that reads it may keep of what is read and written
    notes: tuple[str, ...] = ()  # what a user should know of how it is read
    indexed: bool = False  # whether its numbers stood in a colour table, and were expanded
    meanings: tuple[str, ...] = ()  # per band its colour interpretation: red, nir, …; "" where none is said
    descriptions: tuple[str, ...] = ()  # per band what the file calls it, with its wavelength if it has one


@dataclass(frozen=True)
class ValueRange:
    """One value range for the whole scene: `low` is shown to the model as 0, `high` as 1."""

    low: float
    high: float
    source: str  # where the range comes from, for the report: "dtype", "given" or "percentiles"

    @property
    def scale(self) -> float:
        """Source units per unit of the model's range."""
        return self.high - self.low


@dataclass(frozen=True)
class Trust:
    """What of a file's word is taken."""

    alpha: bool = True  # that a band is alpha; else it is one like others
    size: bool = False  # that a file of next to no bytes holds gigabytes of pixels; else it is refused


USUAL = Trust()


class RasterReader(Protocol):
    """Reads boxes of the source's own numbers. Safe to use from one thread at a time.

    Reading raises InputError where the source is damaged, ValueError for a box outside the scene.
    """

    @property
    def info(self) -> RasterInfo: ...

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        """Pixels [bands, height, width] of a box inside the scene, 1-based bands, the source's dtype."""
        ...

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        """Which pixels of the box are ground [height, width] bool, by these bands; None where all are.

        Not ground is where every one of the bands is nodata, any of them is NaN or infinite, a mask band
        says so, or alpha is 0.
        """
        ...

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        """Values [bands, n] of pixels valid by these bands, evenly thinned to at most side x side."""
        ...

    def close(self) -> None: ...


class RasterWriter(Protocol):
    """Takes the scene from top to bottom; the file exists under its name only after `commit`.

    As a context manager: leaving it without `commit`, for whatever reason, leaves nothing behind.
    """

    def write(self, rows: Pixels) -> None:
        """Append rows [count, height, width] in the source's dtype below those written so far.

        Raises ValueError if they do not fit the raster, OutputError if they cannot be stored.
        """
        ...

    def commit(self) -> None:
        """Finish the file and give it its name; ValueError if rows are missing, OutputError if it fails."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class FileWriter(RasterWriter, Protocol):
    """Writes a file, of a format that may not hold all that the source says."""

    warnings: list[str]  # after `commit`: what was lost, in sentences


def white_of(info: RasterInfo) -> float:
    """The largest number that a type's pixels can have; 1 of floats."""
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return 1.0
    return 2.0**info.bits - 1 if info.bits else float(np.iinfo(dtype).max)


def range_of(values: Pixels) -> ValueRange:
    """The range of sampled values; [0, 1] if there are none to judge by."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return ValueRange(0.0, 1.0, "percentiles")
    low, high = np.percentile(finite, (BOTTOM_PERCENTILE, TOP_PERCENTILE))
    low = min(0.0, float(low))
    # An even scene has no range of its own; any positive one shows it as it is.
    return ValueRange(low, max(float(high), low + abs(low) * 1e-6 + 1e-6), "percentiles")


def keep_off_nodata(values: Pixels, before: Pixels, nodata: float | None) -> None:
    """Move ground that became the nodata value by the least step of its type, or it would be a hole.

    `before` are the same pixels as they were; those that were nodata already are left.
    """
    if nodata is None or np.isnan(nodata):
        return
    became = (values == nodata) & (before != nodata)
    if became.any():
        values[became] = step_from(nodata, values.dtype)


def step_from(value: float, dtype: np.dtype[Any]) -> Any:
    """The number next to a value in its type: above it, or below where there is none above."""
    if dtype.kind == "f":
        return np.nextafter(dtype.type(value), dtype.type(np.inf))
    return dtype.type(value + 1 if value < np.iinfo(dtype).max else value - 1)
