"""Whether neighbouring places of a scene were judged alike, and indicators of haze that need no reference."""

from __future__ import annotations

import math

import numpy as np

from dehazexl_cli.raster.base import Pixels

LEVELS = 255.0  # in which colours are told, of the whole range
CONTRAST_SIDE = 64  # pixels; a multiple of DARK_SIDE
DARK_SIDE = 16


class Drift:
    """How much the mean colour of neighbouring tiles drifts apart, whichever way they were processed.

    What is followed is the output minus a base: the reference, where there is one; then 0 is perfect. Minus
    the input, it holds the unevenness of the haze itself, and only tells methods apart.
    """

    def __init__(self, height: int, width: int, bands: int, side: int) -> None:
        self._side = side
        self._shape = -(-height // side), -(-width // side)
        self._sums = np.zeros((bands, *self._shape))
        self._counts = np.zeros(self._shape)
        self._top = 0

    def add(self, difference: Pixels, valid: Pixels | None) -> None:
        """The next rows [bands, rows, width], output minus base in [0, 1], and which pixels count."""
        ground = np.ones(difference.shape[1:], bool) if valid is None else valid
        cuts = np.arange(0, difference.shape[2], self._side)
        sums = np.add.reduceat(np.where(ground, difference, 0), cuts, axis=2)
        counts = np.add.reduceat(ground.astype(np.int64), cuts, axis=1)
        for row in range(difference.shape[1]):
            tile = (self._top + row) // self._side
            self._sums[:, tile] += sums[:, row]
            self._counts[tile] += counts[row]
        self._top += difference.shape[1]

    @property
    def levels(self) -> float:
        """Root mean square difference between neighbours, in levels of 255; nan if there are none.

        Tiles with less than a quarter of their pixels do not count.
        """
        enough = self._counts >= self._side**2 / 4
        means = self._sums / np.maximum(self._counts, 1)
        steps = [
            np.diff(means, axis=axis + 1)[:, pairs]
            for axis, pairs in enumerate((enough[1:] & enough[:-1], enough[:, 1:] & enough[:, :-1]))
        ]
        squares = np.square(np.concatenate([step.ravel() for step in steps]))
        return LEVELS * float(np.sqrt(squares.mean())) if squares.size else math.nan


class Indicators:
    """Contrast and dark channel: lower contrast and a brighter dark channel mostly mean more haze.

    They are no measures of quality: noise raises contrast too, and white roofs have a bright dark channel.
    """

    def __init__(self) -> None:
        self._contrast, self._dark = Mean(), Mean()

    def add(self, pixels: Pixels, valid: Pixels | None) -> None:
        """The next rows [bands, rows, width] in [0, 1], 64 at a time; a rest of fewer is left out."""
        ground = np.ones(pixels.shape[1:], bool) if valid is None else valid
        grey = blocks(pixels.mean(axis=0), CONTRAST_SIDE)
        self._contrast.add(grey.std(axis=(1, 3)), whole_blocks(ground, CONTRAST_SIDE))
        darkest = blocks(pixels.min(axis=0), DARK_SIDE)
        self._dark.add(darkest.min(axis=(1, 3)), whole_blocks(ground, DARK_SIDE))

    @property
    def contrast(self) -> float:
        """Mean over squares of 64 pixels of the standard deviation of grey, in [0, 1]; nan of none."""
        return self._contrast.value

    @property
    def dark_channel(self) -> float:
        """Mean over squares of 16 pixels of the darkest value in any colour, in [0, 1]; nan of none."""
        return self._dark.value


class Mean:
    """The mean of values that come in parts."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, values: Pixels, counted: Pixels) -> None:
        """More values, and which of them count."""
        self._sum += float(values[counted].sum(dtype=np.float64))
        self._count += int(counted.sum())

    @property
    def value(self) -> float:
        """The mean so far; nan of none."""
        return self._sum / self._count if self._count else math.nan


def blocks(plane: Pixels, side: int) -> Pixels:
    """[h, w] as whole squares [h / side, side, w / side, side]; what is left over is cut off."""
    rows, cols = plane.shape[0] // side, plane.shape[1] // side
    cut = plane[: rows * side, : cols * side]
    return cut.reshape(rows, side, cols, side)


def whole_blocks(ground: Pixels, side: int) -> Pixels:
    """Which squares of a plane [h, w] are ground throughout."""
    return np.asarray(blocks(ground, side).all(axis=(1, 3)))
