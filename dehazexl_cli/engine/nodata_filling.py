"""Plausible ground for pixels that are none (nodata, transparent, NaN), so that they mislead no model.

Ground is mirrored at the edge of what is valid, as it is at the edge of a scene: a smooth fill has the low
contrast of haze, and a network that removes haze takes it for some. Where the mirror shows nothing either,
averages of ever larger squares are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehazexl_cli.raster.base import Pixels

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
CELL = 4  # pixels; the edge is found to within a cell, which is also what networks see at their finest
REACH = 128  # cells within which the edge is looked for first: more than a patch of 256 pixels


def fill_nodata(pixels: Pixels, valid: Bools, default: Callable[[], Floats]) -> Pixels:
    """Pixels [bands, height, width], invalid ones filled from valid neighbours, near ones first.

    `default` gives one number per band [bands], for where nothing at all is valid.
    """
    filled = pixels.copy()
    if not valid.any():
        filled[:] = in_type(np.reshape(default(), (-1, 1, 1)), pixels.dtype)
        return filled
    (rows, cols), (from_rows, from_cols) = mirror_places(valid)
    filled[:, rows, cols] = pixels[:, from_rows, from_cols]
    dark = ~valid
    dark[rows, cols] = False
    if dark.any():
        smooth = averaged(np.where(valid, pixels, 0).astype(np.float32), valid[None].astype(np.float32))
        filled[:, dark] = in_type(smooth[:, dark], pixels.dtype)
    return filled


def in_type(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    """Values as numbers of a type, held at its ends."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return values.astype(np.float64).clip(limits.min, limits.max).astype(dtype)


Places = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows, cols


def mirror_places(valid: Bools) -> tuple[Places, Places]:
    """Invalid pixels that see a valid one in the mirror of the nearest edge, and the ones they see."""
    height, width = valid.shape
    rows, cols = np.nonzero(~valid)
    edge_rows, edge_cols = nearest_cells(valid)
    near = rows // CELL, cols // CELL
    from_rows = folded(2 * edge_rows[near] - rows, height)
    from_cols = folded(2 * edge_cols[near] - cols, width)
    seen = valid[from_rows, from_cols]
    return (rows[seen], cols[seen]), (from_rows[seen], from_cols[seen])


def nearest_cells(valid: Bools) -> Places:
    """For each cell, the middle of the nearest cell that holds a valid pixel, in pixels.

    Jump flooding: cells tell each other of the nearest they know, over ever smaller distances.
    """
    height, width = valid.shape
    padded = np.pad(valid, ((0, -height % CELL), (0, -width % CELL)))
    some = padded.reshape(-(-height // CELL), CELL, -(-width // CELL), CELL).any(axis=(1, 3))
    own_rows, own_cols = np.mgrid[: some.shape[0], : some.shape[1]].astype(np.int32)
    far = np.int32(1 << 14)  # further than any; its square is still exact
    rows, cols = np.where(some, own_rows, -far), np.where(some, own_cols, -far)
    for step in (*halvings(REACH), 1):
        for down, right in product((-step, 0, step), repeat=2):
            here = shifted(-down, some.shape[0]), shifted(-right, some.shape[1])
            there = shifted(down, some.shape[0]), shifted(right, some.shape[1])
            y, x = own_rows[here], own_cols[here]
            nearer = apart(rows[there] - y, cols[there] - x) < apart(rows[here] - y, cols[here] - x)
            rows[here] = np.where(nearer, rows[there], rows[here])
            cols[here] = np.where(nearer, cols[there], cols[here])
    return middle(rows, height), middle(cols, width)


def halvings(first: int) -> list[int]:
    """first, first / 2, … 1."""
    return [first >> shift for shift in range(first.bit_length())]


def shifted(by: int, size: int) -> slice:
    """Those indices of an axis that are still on it if moved back by `by`."""
    return slice(max(0, by), max(0, size + min(0, by)))


def apart(down: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.int64]:
    """Squared distances."""
    squares: NDArray[np.int64] = down.astype(np.int64) ** 2 + right.astype(np.int64) ** 2
    return squares


def middle(cells: NDArray[np.int32], size: int) -> NDArray[np.intp]:
    """Pixels in the middle of cells along an axis of `size` pixels."""
    return np.minimum(cells * CELL + CELL // 2, size - 1).astype(np.intp)


def folded(places: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Places along an axis of `size` pixels, those beyond its ends mirrored back."""
    period = max(1, 2 * size - 2)
    places = places % period
    return np.minimum(places, period - places)


def averaged(pixels: Floats, weight: Floats) -> Floats:
    """`pixels`, averages of valid ones where `weight` is positive (as somewhere it is); the rest filled."""
    if weight.all():
        return pixels
    sums, weights = halved(pixels * weight), halved(weight)
    coarse = averaged(sums / np.maximum(weights, 1e-6), (weights > 0).astype(np.float32))
    _, height, width = pixels.shape
    return np.where(weight > 0, pixels, doubled(coarse)[:, :height, :width])


def halved(x: Floats) -> Floats:
    """Sums over 2 x 2 pixels; odd sides are padded with zeros."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)))
    result: Floats = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
    return result


def doubled(x: Floats) -> Floats:
    """Twice the size by linear interpolation, so that filled ground has no steps."""
    for axis in (1, 2):
        first, last = np.take(x, [0], axis), np.take(x, [-1], axis)
        before = np.concatenate([first, np.delete(x, -1, axis)], axis)
        after = np.concatenate([np.delete(x, 0, axis), last], axis)
        pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        shape = list(x.shape)
        shape[axis] *= 2
        x = pairs.reshape(shape)
    return x
