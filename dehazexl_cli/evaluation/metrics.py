"""How alike two scenes are, in PSNR and SSIM: by rows from top to bottom, so scenes of any height fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.evaluation.seams import SeamMeter, Seams
from dehazexl_cli.grid import Box, SeamLines, strips
from dehazexl_cli.raster.base import Pixels, RasterInfo, RasterReader

WINDOW = 11  # pixels a side, for SSIM
SIGMA = 1.5  # of the window's gaussian weights, pixels
C1, C2 = 0.01**2, 0.03**2  # keep SSIM's two quotients finite where a window is black, or even
STRIP_ROWS = 64  # as many as stay in a processor's cache
FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0, "float64": 1.0}


@dataclass(frozen=True)
class Scores:
    """How close a scene is to another; higher is closer."""

    psnr: float  # decibels; inf if the scenes are identical, nan if they share no valid pixel
    ssim: float  # up to 1; nan if no 11x11 window of valid pixels fits into the scene


def compare(
    first: RasterReader,
    second: RasterReader,
    bands: Sequence[int] | None = None,
    limits: tuple[float, float] | None = None,
) -> Scores:
    """PSNR and SSIM of two scenes of one size, over `bands` (1-based), else over all colour bands.

    `limits` are the numbers that count as 0 and 1: by default those of an 8-bit or 16-bit unsigned type,
    each scene by its own, and 0 and 1 for floats. Pixels that are invalid in either scene do not count;
    nor does any SSIM window that holds one. Raises InputError for scenes that cannot be compared,
    UsageError for limits that are none.
    """
    comparison = Comparison(first.info, second.info, bands, limits)
    for box in strips(first.info.height, first.info.width, STRIP_ROWS):
        comparison.add(
            first.read(box, comparison.bands),
            second.read(box, comparison.bands),
            valid_in_both(first, second, box, comparison.bands),
        )
    return comparison.scores


class ScoringWriter:
    """A RasterWriter that keeps nothing: it compares the rows it is given with a reference scene.

    `source` is the scene that the rows were made from and says which pixels are valid. Both readers are
    used from the thread that writes, so neither may be one that the rows' maker still reads from.
    `seam_lines` tell where patches or tiles meet, if seams are to be measured.
    """

    def __init__(
        self,
        source: RasterReader,
        reference: RasterReader,
        bands: Sequence[int] | None = None,
        limits: tuple[float, float] | None = None,
        seam_lines: SeamLines | None = None,
    ) -> None:
        self._source, self._reference = source, reference
        self._comparison = Comparison(source.info, reference.info, bands, limits)
        info, count = source.info, len(self._comparison.bands)
        self._meter = None if seam_lines is None else SeamMeter(info.height, info.width, count, seam_lines)
        self._top = 0
        self._committed = False

    @property
    def scores(self) -> Scores:
        """The scores of the whole scene; ValueError before `commit`, as half a scene has none."""
        if not self._committed:
            raise ValueError("there are no scores before commit")
        return self._comparison.scores

    @property
    def seams(self) -> Seams:
        """The seams at the seam lines; ValueError before `commit`, or if none were given."""
        if not self._committed or self._meter is None:
            raise ValueError("there are no seams before commit, or without seam lines")
        return self._meter.seams

    def write(self, rows: Pixels) -> None:
        """Compare rows [count, height, width] that lie below those written so far."""
        box = Box(self._top, 0, rows.shape[1], rows.shape[2])
        bands = self._comparison.bands
        output, reference = rows[[band - 1 for band in bands]], self._reference.read(box, bands)
        valid = valid_in_both(self._source, self._reference, box, bands)
        self._comparison.add(output, reference, valid)
        if self._meter is not None:
            source = self._source.read(box, bands)
            for top in range(0, box.height, STRIP_ROWS):
                part = slice(top, top + STRIP_ROWS)
                ground = None if valid is None else valid[part]
                self._meter.add(
                    self._comparison.unit(source[:, part]),
                    self._comparison.unit(output[:, part]),
                    ground,
                    self._comparison.unit(reference[:, part], second=True),
                )
        self._top = box.bottom

    def commit(self) -> None:
        """Give out the scores; ValueError if rows are missing."""
        if self._top != self._source.info.height:
            raise ValueError(f"only {self._top} of {self._source.info.height} rows were written")
        self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


class Comparison:
    """Adds up what the scores are made of, over rows that come from top to bottom."""

    def __init__(
        self,
        first: RasterInfo,
        second: RasterInfo,
        bands: Sequence[int] | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        require_limits(limits)
        require_one_size(first, second)
        self.bands = tuple(bands) if bands is not None else shared_colours(first, second)
        require_bands(first, self.bands)
        require_bands(second, self.bands)
        self._limits = limits or (0.0, full_scale(first)), limits or (0.0, full_scale(second))
        none = np.empty((len(self.bands), 0, first.width))
        self._above = Strip(none, none, np.empty((0, first.width), bool))
        self._squares, self._values = 0.0, 0
        self._similarity, self._windows = 0.0, 0

    def add(self, first: Pixels, second: Pixels, valid: Pixels | None) -> None:
        """The next rows [bands, rows, width] in source numbers, and which of their pixels count."""
        for top in range(0, first.shape[1], STRIP_ROWS):
            rows = slice(top, top + STRIP_ROWS)
            ground = np.ones(first[0, rows].shape, bool) if valid is None else valid[rows]
            x, y = (
                np.where(ground, (pixels[:, rows].astype(np.float64) - low) / (high - low), 0)
                for pixels, (low, high) in zip((first, second), self._limits, strict=True)
            )
            self._add_strip(Strip(x, y, ground))

    def unit(self, pixels: Pixels, second: bool = False) -> Pixels:
        """Source numbers of the first scene, or of the second, in [0, 1]; float32."""
        low, high = self._limits[second]
        values: Pixels = ((pixels.astype(np.float64) - low) / (high - low)).astype(np.float32)
        return values

    @property
    def scores(self) -> Scores:
        """The scores of the rows so far."""
        if not self._values:
            return Scores(math.nan, math.nan)
        psnr = -10 * math.log10(self._squares / self._values) if self._squares else math.inf
        return Scores(psnr, self._similarity / self._windows if self._windows else math.nan)

    def _add_strip(self, strip: Strip) -> None:
        self._squares += float(np.square(strip.x - strip.y).sum())
        self._values += len(self.bands) * int(strip.valid.sum())
        joined = self._above.joined(strip)
        if min(joined.valid.shape) >= WINDOW:
            self._add_windows(joined)
        self._above = joined.last(WINDOW - 1)

    def _add_windows(self, strip: Strip) -> None:
        usable = None if strip.valid.all() else whole_windows(strip.valid)
        for x, y in zip(strip.x, strip.y, strict=True):
            found = similarity(x, y)
            counted = found if usable is None else found[usable]
            self._similarity += float(counted.sum())
            self._windows += counted.size


@dataclass(frozen=True)
class Strip:
    """Some rows of both scenes in [0, 1]; invalid pixels are 0 in both."""

    x: Pixels  # [bands, rows, width] float64
    y: Pixels
    valid: Pixels  # [rows, width] bool

    def joined(self, below: Strip) -> Strip:
        """These rows and those below them."""
        return Strip(
            np.concatenate([self.x, below.x], axis=1),
            np.concatenate([self.y, below.y], axis=1),
            np.concatenate([self.valid, below.valid]),
        )

    def last(self, rows: int) -> Strip:
        """The lowest rows, as many as there are up to `rows`."""
        return Strip(self.x[:, -rows:], self.y[:, -rows:], self.valid[-rows:])


def similarity(x: Pixels, y: Pixels) -> Pixels:
    """SSIM [h-10, w-10] of every 11x11 window that lies inside two bands [h, w] in [0, 1].

    Weights, population covariance and the border left out are those of Wang et al. 2004.
    """
    mean_x, mean_y = blurred(x), blurred(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = blurred(x * y) - product
    variances = blurred(x * x + y * y) - squares
    result: Pixels = (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return result


def blurred(x: Pixels) -> Pixels:
    """Gaussian means [h-10, w-10] of the windows of [h, w]."""
    weights = gaussian()
    for axis in (0, 1):
        size = x.shape[axis] - WINDOW + 1
        shifted = [x[at : at + size] if axis == 0 else x[:, at : at + size] for at in range(WINDOW)]
        total = shifted[WINDOW // 2] * weights[WINDOW // 2]
        for at in range(WINDOW // 2):  # the weights are symmetric
            total += (shifted[at] + shifted[-1 - at]) * weights[at]
        x = total
    return x


def gaussian() -> Pixels:
    """The window's weights along an axis, [11], of sum 1."""
    falling = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    weights: Pixels = falling / falling.sum()
    return weights


def whole_windows(valid: Pixels) -> Pixels:
    """Which windows [h-10, w-10] hold valid pixels [h, w] only."""
    down = np.asarray(sliding_window_view(valid, WINDOW, axis=0).all(axis=-1))
    return np.asarray(sliding_window_view(down, WINDOW, axis=1).all(axis=-1))


def valid_in_both(first: RasterReader, second: RasterReader, box: Box, bands: Sequence[int]) -> Pixels | None:
    """Pixels of the box that are ground in both scenes, by these bands; None where all of them are."""
    one, other = first.valid(box, bands), second.valid(box, bands)
    if one is None or other is None:
        return other if one is None else one
    return one & other


def shared_colours(first: RasterInfo, second: RasterInfo) -> tuple[int, ...]:
    """All bands but alpha, if both scenes have the same ones."""
    one, other = (
        tuple(band for band in range(1, info.count + 1) if band != info.alpha) for info in (first, second)
    )
    if one != other:
        raise InputError(
            f"{first.name} has colours in bands {', '.join(map(str, one))}, "
            f"{second.name} in {', '.join(map(str, other))}",
            "name the bands to compare with --bands",
        )
    return one


def require_limits(limits: tuple[float, float] | None) -> None:
    """Raises UsageError for limits that hold no numbers."""
    if limits is not None and not limits[0] < limits[1]:
        raise UsageError(
            f"--input-range {limits[0]},{limits[1]} is empty", "give LOW,HIGH with LOW below HIGH"
        )


def require_one_size(first: RasterInfo, second: RasterInfo) -> None:
    """Raises InputError unless the scenes cover each other pixel by pixel."""
    if (first.height, first.width) != (second.height, second.width):
        raise InputError(
            f"{first.name} has {first.width} x {first.height} pixels, "
            f"{second.name} has {second.width} x {second.height}",
            "compare scenes of one size; crop or resample one of them",
        )


def require_bands(info: RasterInfo, bands: Sequence[int]) -> None:
    """Raises InputError unless there are bands to compare, and the scene has them."""
    missing = [band for band in bands if not 1 <= band <= info.count]
    if missing or not bands:
        raise InputError(
            f"{info.name} has no band {missing[0]}" if missing else f"{info.name}: no band is to be compared",
            f"name some of its bands 1 to {info.count} with --bands",
        )


def full_scale(info: RasterInfo) -> float:
    """The number of a type that counts as 1; InputError for a type that has no agreed one."""
    if info.dtype not in FULL_SCALE:
        raise InputError(
            f"{info.name}: it is not known which numbers of {info.dtype} are black and white",
            "say it with --input-range LOW,HIGH",
        )
    return FULL_SCALE[info.dtype]
