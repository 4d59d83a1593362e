"""Which bands are shown to the model, and which source numbers are its 0 and 1: once for a whole scene."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dehazexl_cli.engine.scene import Group
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


def choose_groups(
    reader: RasterReader, wanted: Sequence[int] | None, ranges: Sequence[float] | str | None, all_bands: bool
) -> tuple[Group, ...]:
    """What is shown to the model: the colour bands, and with `all_bands` the others in groups of their own.

    The further from blue, the less haze there is, so other bands are not corrected by what the colours show:
    they go through the model by threes, in their order, and what is left over of these one by one as grey.
    Raises UsageError for bands or ranges that cannot be.
    """
    info = reader.info
    colours = choose_bands(info, wanted)
    groups = [colours]
    if all_bands:
        others = [band for band in range(1, info.count + 1) if band not in (*colours, info.alpha)]
        whole = len(others) // 3 * 3
        groups += [(a, b, c) for a, b, c in zip(*[iter(others[:whole])] * 3, strict=True)]
        groups += [(band,) for band in others[whole:]]
    word = ranges if isinstance(ranges, str) else None
    given = pairs(None if isinstance(ranges, str) else ranges, sum(map(len, groups)))
    chosen = []
    for bands in groups:
        mine, given = given[: len(bands)], given[len(bands) :]
        chosen.append(Group(bands, tuple(map(given_range, mine)) or scene_ranges(reader, bands, word)))
    return tuple(chosen)


def pairs(numbers: Sequence[float] | None, count: int) -> list[tuple[float, float]]:
    """LOW,HIGH of each of `count` bands from one pair for all or a pair for each; none of None."""
    if numbers is None:
        return []
    if len(numbers) not in (2, 2 * count):
        raise UsageError(
            f"--input-range has {len(numbers)} numbers for {count} bands",
            "give one LOW,HIGH for all bands, or one for each that is dehazed, in their order",
        )
    given = list(zip(numbers[::2], numbers[1::2], strict=True))
    return given * count if len(given) == 1 else given


def given_range(given: tuple[float, float]) -> Radiometry:
    """The range that a user gave; UsageError if it is none."""
    low, high = map(float, given)
    if not -math.inf < low < high < math.inf:
        raise UsageError(f"--input-range {low:g},{high:g} is empty", "give LOW,HIGH with LOW below HIGH")
    return Radiometry(low, high, "given")


def choose_range(
    reader: RasterReader, bands: Sequence[int], given: tuple[float, float] | None, word: str | None = None
) -> Radiometry:
    """Given, all of an 8-bit type, or from zero to nearly the brightest value of the scene.

    The word "dtype" asks for all of any type, "percentiles" for the scene's values of any.

    Haze adds light, so the dark end must not be stretched away: it would hide from the model what it is to
    remove. Only data that go below zero begin at a low percentile.
    """
    if given is not None:
        return given_range(given)
    if is_by_type(reader.info, word):
        return Radiometry(0.0, white_of(reader.info), "dtype")
    return range_of(reader.sample(bands, SAMPLE_SIDE))


def is_by_type(info: RasterInfo, word: str | None) -> bool:
    """Whether the type decides on the range, as it does for bytes unless something else is asked for."""
    return (word or ("dtype" if info.dtype == "uint8" else "")) == "dtype"


def white_of(info: RasterInfo) -> float:
    """The largest number that a type's pixels can have; 1 of floats."""
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return 1.0
    return 2.0**info.bits - 1 if info.bits else float(np.iinfo(dtype).max)


def is_stretched_unit(info: RasterInfo, group: Group) -> bool:
    """Whether floats that may well be a picture's from 0 to 1 were stretched to those that the scene has."""
    found = group.ranges[0]
    stretched = found.source == "percentiles" and found.low == 0 and found.high <= 1
    return info.dtype.startswith("float") and stretched


def scene_ranges(
    reader: RasterReader, bands: Sequence[int], word: str | None = None
) -> tuple[Radiometry, ...]:
    """One range for all bands, as `choose_range` finds it, in what the numbers stand for.

    Where scale and offset say that a band's 1000 is a reflectance of 0, its range begins there.
    """
    scales, offsets = meanings(reader.info, bands)
    if is_by_type(reader.info, word) or ((scales == 1).all() and (offsets == 0).all()):
        return (choose_range(reader, bands, None, word),) * len(bands)
    shared = range_of(reader.sample(bands, SAMPLE_SIDE) * scales[:, None] + offsets[:, None])
    return tuple(
        Radiometry((shared.low - offset) / scale, (shared.high - offset) / scale, shared.source)
        for scale, offset in zip(scales.tolist(), offsets.tolist(), strict=True)
    )


def meanings(info: RasterInfo, bands: Sequence[int]) -> tuple[Pixels, Pixels]:
    """Scale and offset of each band [n]; 1 and 0 unless the file gives usable ones for all of them."""
    if not len(info.scales) == len(info.offsets) == info.count:  # a raster that says nothing of its bands
        return np.ones(len(bands)), np.zeros(len(bands))
    scales, offsets = (np.array(x)[[band - 1 for band in bands]] for x in (info.scales, info.offsets))
    if np.isfinite([scales, offsets]).all() and (scales > 0).all():
        return scales, offsets
    return np.ones(len(bands)), np.zeros(len(bands))


def range_of(values: Pixels) -> Radiometry:
    """The range of sampled values; [0, 1] if there are none to judge by."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return Radiometry(0.0, 1.0, "percentiles")
    low, high = np.percentile(finite, (BOTTOM_PERCENTILE, TOP_PERCENTILE))
    low = min(0.0, float(low))
    # An even scene has no range of its own; any positive one shows it as it is.
    return Radiometry(low, max(float(high), low + abs(low) * 1e-6 + 1e-6), "percentiles")
