"""Even ground: water, sand, snow and paving drawn over part of a clear crop, or all of it.

Photographs of towns and fields hold little of it, and a network that never saw any takes a lake for haze.
Under a sky, such ground can only be judged by what lies beside it, so it also teaches to look there. Some of
it is parcelled, as fields, roofs and car parks are: haze has no sharp edges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dehazexl_cli.grid import Box
from dehazexl_cli.training.haze import Floats, Noise


class Material(NamedTuple):
    """Colours between two, red, green and blue in [0, 1], of one kind of ground."""

    dark: tuple[float, float, float]
    light: tuple[float, float, float]
    share: float  # of all even ground


FAMILIES = (
    Material((0.03, 0.06, 0.08), (0.22, 0.32, 0.36), 0.3),  # deep and open water
    Material((0.20, 0.22, 0.16), (0.42, 0.44, 0.34), 0.1),  # muddy water, wetland
    Material((0.45, 0.38, 0.27), (0.85, 0.78, 0.64), 0.15),  # sand, dry soil
    Material((0.70, 0.72, 0.75), (0.97, 0.97, 0.98), 0.22),  # snow, salt, pale roofs
    Material((0.10, 0.10, 0.10), (0.78, 0.78, 0.78), 0.23),  # asphalt, concrete, rock
)
PARCELLED = 0.5  # share of even ground that is of many colours
WHOLE = 0.5  # share of crops with even ground that show nothing else
EDGE = 12.0  # how steeply even ground gives way to the rest


def with_even_ground(clear: Floats, rng: Generator) -> Floats:
    """A clear crop [3, side, side] in [0, 1] with even ground over part or all of it."""
    _, height, width = clear.shape
    box = Box(0, 0, height, width)
    if rng.random() < PARCELLED:
        number, parcels = draw_parcels(rng, height, width)
        color = draw_colors(rng, number)[:, parcels]
    else:
        color = draw_colors(rng, 1)[:, :, None]
    ripples = Noise.draw(rng, rng.uniform(3, 12), 0.7, 2).at(box) * rng.uniform(0, 0.05)
    shades = Noise.draw(rng, height * rng.uniform(0.3, 1.0), 0.5, 3).at(box) * rng.uniform(0, 0.12)
    even = color * (1 + ripples + shades)
    cover = np.ones((height, width))
    if rng.random() >= WHOLE:
        outline = Noise.draw(rng, height * rng.uniform(0.3, 1.2), 0.55, 5).at(box)
        cover = (0.5 + EDGE * (np.quantile(outline, rng.uniform(0.2, 0.9)) - outline)).clip(0, 1)
    mixed: Floats = (clear + cover * (even - clear)).clip(0, 1).astype(np.float32)
    return mixed


def draw_colors(rng: Generator, number: int) -> NDArray[np.float64]:
    """Draw colours [3, number] of even ground: every second time shades of one kind, else of all kinds."""
    odds = [family.share for family in FAMILIES]
    kinds = rng.choice(len(FAMILIES), number, p=odds)
    spread = rng.uniform(0, 0.06)
    if rng.random() < 0.5:
        kinds[:] = kinds[0]
    # Colours of one kind lie near the line between its darkest and lightest.
    dark, light = (np.array([getattr(FAMILIES[kind], end) for kind in kinds]).T for end in ("dark", "light"))
    shade = rng.random(number) + rng.normal(0, spread, (3, number))
    colors: NDArray[np.float64] = dark + (light - dark) * shade.clip(0, 1)
    return colors


def draw_parcels(rng: Generator, height: int, width: int) -> tuple[int, NDArray[np.int64]]:
    """Draw rectangles that fill a picture: how many there are, and which one each pixel lies in."""
    side = float(np.exp(rng.uniform(np.log(16), np.log(max(height, width) / 2))))
    rows, cols = (
        np.searchsorted(np.sort(rng.uniform(0, length, round(length / side))), np.arange(length))
        for length in (height, width)
    )
    number = int(cols[-1]) + 1
    return number * (int(rows[-1]) + 1), rows[:, None] * number + cols
