"""Plausible ground for pixels that are none (nodata, transparent, NaN), so that they mislead no model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def fill_invalid(pixels: Floats, valid: NDArray[np.bool_], default: float) -> Floats:
    """Pixels [bands, height, width] with invalid ones taken from valid neighbours, near ones first.

    Averages over ever larger squares are made of the valid pixels alone; each gap then takes the smallest
    square that has any. `default` fills where nothing at all is valid.
    """
    weight = valid[None].astype(np.float32)
    known: Floats = np.where(valid[None], pixels, 0).astype(np.float32)
    return _filled(known, weight, default)


def _filled(pixels: Floats, weight: Floats, default: float) -> Floats:
    """`pixels` are averages of valid ones where `weight` is positive, and are to be filled elsewhere."""
    if weight.all():
        return pixels
    if pixels.shape[1:] == (1, 1):
        return np.full_like(pixels, default)
    sums, weights = halved(pixels * weight), halved(weight)
    coarse = _filled(sums / np.maximum(weights, 1e-6), (weights > 0).astype(np.float32), default)
    _, height, width = pixels.shape
    raised = doubled(coarse)[:, :height, :width]
    return np.where(weight > 0, pixels, raised)


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
