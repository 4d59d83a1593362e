"""Decides which source numbers are the model's 0 and 1, once for a whole scene."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dehazexl_cli.engine.scaling import Group
from dehazexl_cli.errors import UsageError
from dehazexl_cli.raster.bands import Bands
from dehazexl_cli.raster.base import Pixels, RasterInfo, RasterReader, ValueRange, range_of, white_of

SAMPLE_SIDE = 1024
GIVEN = "given"  # as the source of a range: by the user


def choose_groups(
    reader: RasterReader, bands: Bands, ranges: Sequence[float] | str | None
) -> tuple[Group, ...]:
    """What is shown to the model together, each band with its range; UsageError for ranges that cannot be.

    The further from blue, the less haze there is, so bands beyond the colours are not corrected by what the
    colours show: they go through the model in groups of their own.
    """
    word = ranges if isinstance(ranges, str) else None
    given = pairs(None if isinstance(ranges, str) else ranges, len(bands.dehazed))
    chosen = []
    for group in bands.groups:
        mine, given = given[: len(group)], given[len(group) :]
        ranges_of_mine = tuple(given_range(each, reader.info.dtype) for each in mine)
        chosen.append(Group(group, ranges_of_mine or scene_ranges(reader, group, word)))
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


def given_range(given: tuple[float, float], dtype: str) -> ValueRange:
    """The range that a user gave; UsageError if it is none, or reaches beyond the type of the pixels."""
    low, high = map(float, given)
    if not -math.inf < low < high < math.inf:
        raise UsageError(f"--input-range {low:g},{high:g} is empty", "give LOW,HIGH with LOW below HIGH")
    limits = None if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    if limits is not None and not limits.min <= low < high <= limits.max:
        raise UsageError(
            f"--input-range {low:g},{high:g} reaches beyond pixels of {dtype}, {limits.min} to {limits.max}",
            "give the stored numbers that are to be shown as black and white, or leave it out",
        )
    return ValueRange(low, high, GIVEN)


def choose_range(
    reader: RasterReader, bands: Sequence[int], given: tuple[float, float] | None, word: str | None = None
) -> ValueRange:
    """Given, all of an 8-bit type, or from zero to nearly the brightest value of the scene.

    The word "dtype" asks for all of any type, "percentiles" for the scene's values of any.

    Haze adds light, so the dark end must not be stretched away: it would hide from the model what it is to
    remove. Only data that go below zero begin at a low percentile.
    """
    if given is not None:
        return given_range(given, reader.info.dtype)
    if is_by_type(reader.info, word):
        return ValueRange(0.0, white_of(reader.info), "dtype")
    return range_of(reader.sample(bands, SAMPLE_SIDE))


def is_by_type(info: RasterInfo, word: str | None) -> bool:
    """Whether the type decides on the range, as it does for bytes unless something else is asked for."""
    return (word or ("dtype" if info.dtype == "uint8" else "")) == "dtype"


def is_stretched_unit(info: RasterInfo, group: Group) -> bool:
    """Whether floats that may well be a picture's from 0 to 1 were stretched to those that the scene has."""
    found = group.ranges[0]
    stretched = found.source == "percentiles" and found.low == 0 and found.high <= 1
    return info.dtype.startswith("float") and stretched


def scene_ranges(
    reader: RasterReader, bands: Sequence[int], word: str | None = None
) -> tuple[ValueRange, ...]:
    """One range for all bands, as `choose_range` finds it, in what the numbers stand for.

    Where scale and offset say that a band's 1000 is a reflectance of 0, its range begins there.
    """
    scales, offsets = meanings(reader.info, bands)
    if is_by_type(reader.info, word) or ((scales == 1).all() and (offsets == 0).all()):
        return (choose_range(reader, bands, None, word),) * len(bands)
    shared = range_of(reader.sample(bands, SAMPLE_SIDE) * scales[:, None] + offsets[:, None])
    return tuple(
        ValueRange((shared.low - offset) / scale, (shared.high - offset) / scale, shared.source)
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
