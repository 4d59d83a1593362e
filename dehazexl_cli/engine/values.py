"""Which bands are shown to the model, and which source numbers are its 0 and 1: once for a whole scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.raster.base import Pixels, Radiometry, RasterInfo, RasterReader

SAMPLE_SIDE = 1024
TOP_PERCENTILE = 99.8
BOTTOM_PERCENTILE = 0.2


def choose_bands(info: RasterInfo, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """The colour bands, 1-based: as wanted, else the first three, else the first as grey."""
    if wanted is None:
        colours = [band for band in range(1, info.count + 1) if band != info.alpha]
        if not colours:
            raise InputError(f"{info.name} has no band but alpha", "give an image with colour bands")
        return tuple(colours[:3]) if len(colours) >= 3 else (colours[0],)
    for band in wanted:
        if not 1 <= band <= info.count:
            raise UsageError(
                f"{info.name} has no band {band}", f"its bands are 1 to {info.count}; name them with --bands"
            )
    if len(wanted) not in (1, 3) or len(set(wanted)) != len(wanted):
        raise UsageError(
            f"--bands {','.join(map(str, wanted))} are not red, green and blue",
            "name three different bands, or one to be treated as grey",
        )
    return tuple(wanted)


def choose_range(reader: RasterReader, bands: Sequence[int], given: tuple[float, float] | None) -> Radiometry:
    """Given, all of an 8-bit type, or from zero to nearly the brightest value of the scene.

    Haze adds light, so the dark end must not be stretched away: it would hide from the model what it is to
    remove. Only data that go below zero begin at a low percentile.
    """
    if given is not None:
        if not given[0] < given[1]:
            raise UsageError(
                f"--input-range {given[0]},{given[1]} is empty", "give LOW,HIGH with LOW below HIGH"
            )
        return Radiometry(float(given[0]), float(given[1]), "given")
    if reader.info.dtype == "uint8":
        return Radiometry(0.0, 255.0, "dtype")
    return range_of(reader.sample(bands, SAMPLE_SIDE))


def range_of(values: Pixels) -> Radiometry:
    """The range of sampled values; [0, 1] if there are none to judge by."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return Radiometry(0.0, 1.0, "percentiles")
    low, high = np.percentile(finite, (BOTTOM_PERCENTILE, TOP_PERCENTILE))
    low = min(0.0, float(low))
    # An even scene has no range of its own; any positive one shows it as it is.
    return Radiometry(low, max(float(high), low + abs(low) * 1e-6 + 1e-6), "percentiles")
