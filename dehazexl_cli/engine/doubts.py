"""What in a scene looks otherwise than it is taken for: said to the user, who may know better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dehazexl_cli.engine.scene import GROUND_SIDE, Scene
from dehazexl_cli.engine.value_ranges import GIVEN
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import TOP_PERCENTILE, Pixels

MOST_CLASSES = 32  # different numbers; a picture in grey of 8 bits has more, but for closed fog
FEWEST_PIXELS = 1024  # that say anything about how many numbers a scene has
LOOK = 256  # pixels a side, in the middle of a scene
LEAST_FILLED = 0.2  # of a range, by the brightest numbers


def doubts_of(scene: Scene) -> tuple[str, ...]:
    """What a user should look at before trusting the result, in sentences."""
    return (*alpha_that_is_none(scene), *classes(scene), *ranges_given(scene))


def alpha_that_is_none(scene: Scene) -> Iterator[str]:
    """Doubts about an alpha band: most of a picture is either there or not."""
    info = scene.reader.info
    if info.alpha is None:
        return
    height, width = min(LOOK, info.height), min(LOOK, info.width)
    middle = Box((info.height - height) // 2, (info.width - width) // 2, height, width)
    values = scene.reader.read(middle, [info.alpha])
    between = (values != 0) & (values != values.max())
    if values.size >= FEWEST_PIXELS and between.mean() > 0.5:
        yield (
            f"band {info.alpha} is taken for alpha, as its colour interpretation says, and looks like other "
            "data; if it is infrared, say --not-alpha"
        )


def classes(scene: Scene) -> Iterator[str]:
    """Doubts about a grey band of whole numbers, or a colour table: few of them are classes or flags."""
    first = scene.groups[0].bands
    if np.dtype(scene.reader.info.dtype).kind == "f" or (len(first) > 1 and not scene.reader.info.indexed):
        return
    found = different(scene.reader.sample(first, GROUND_SIDE))
    if 1 < found <= MOST_CLASSES:
        yield (
            f"band {','.join(map(str, first))} holds {found} different numbers only: classes or flags, as "
            "of quality bands, are no picture, and must not be dehazed"
        )


def ranges_given(scene: Scene) -> Iterator[str]:
    """Doubts about ranges that a user gave: the data end far below, or lie outside."""
    for group in scene.groups:
        if group.ranges[0].source != GIVEN:
            continue
        values = scene.reader.sample(group.bands, GROUND_SIDE)
        for band, numbers, given in zip(group.bands, values, group.ranges, strict=True):
            if not numbers.size:
                continue
            top = float(np.percentile(numbers, TOP_PERCENTILE))
            filled = (top - given.low) / given.scale
            outside = float(((numbers < given.low) | (numbers > given.high)).mean())
            said = f"--input-range {given.low:g},{given.high:g} does not fit band {band}: "
            if filled < LEAST_FILLED:
                yield f"{said}its numbers end at {top:g}, so the model sees it much too dark"
            elif outside > 0.5:
                yield f"{said}{outside:.0%} of its numbers lie outside"


def different(values: Pixels) -> int:
    """How many different pixels there are among values [bands, n]; 0 if these are too few to tell."""
    return np.unique(values, axis=1).shape[1] if values.shape[1] >= FEWEST_PIXELS else 0
