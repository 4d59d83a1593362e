"""Pictures of attribution maps: over the scene, around the window, and by tokens, on one fixed scale.

Colours tell the density of a map: which share of all that is attributed, signs aside, a square of 32 x 32
pixels would hold. The scale goes by powers of ten and is the same in every picture, so that maps
can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dehazexl_cli.attribution.run import Answer
from dehazexl_cli.evaluation.measures import View
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterReader
from dehazexl_cli.raster.thumbnail import png, thumbnail
from dehazexl_cli.raster.views import WindowedReader

TOKEN = 32  # pixels per side of a token in the networks of this family
LEAST, MOST = -6, -1  # powers of ten of the scale's ends
PANEL = 640  # pixels of a panel's longer side
MARGIN = 16
DIM = 0.55  # of its brightness is what the scene keeps under the colours
RED, BLUE, YELLOW, WHITE = (255, 60, 40), (70, 140, 255), (255, 230, 0), (255, 255, 255)
HEAT = ((0, 0, 0), (70, 15, 110), (190, 45, 90), (250, 150, 40), (255, 255, 200))  # of tokens


def picture(answers: Sequence[Answer], reader: RasterReader, ground: Box, view: View) -> bytes:
    """Draw a window's maps as a PNG, a column for each mode, or a row for the only one.

    `reader` is of the whole raster, the maps are of its ground. A column has the map over the whole scene,
    around the window, and by tokens.
    """
    columns = [panels(answer, reader, ground, view) for answer in answers]
    whole = beside(columns[0]) if len(columns) == 1 else beside([beneath(column) for column in columns])
    framed = np.pad(whole, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    return png(framed)


def panels(answer: Answer, reader: RasterReader, ground: Box, view: View) -> list[Pixels]:
    """Draw the map over the whole scene, around the window, and by tokens."""
    info, (window, near) = reader.info, (place(box, ground) for box in (answer.window, answer.near))
    part = reader if ground == Box(0, 0, info.height, info.width) else WindowedReader(reader, ground)
    whole, close = Box(0, 0, ground.height, ground.width), around(window, near, ground)
    density = density_of(answer.attribution.map)
    scene = view.shown(thumbnail(part, view.bands, PANEL))
    seen = view.shown(reader.read(close.moved(ground.top, ground.left), view.bands))
    drawn = []
    for pixels, box in ((scene, whole), (seen, close)):
        size = panel_size(box.height, box.width)
        level = position(fitted(density[box.top : box.bottom, box.left : box.right], size))
        drawn.append(overlaid(resized(pixels, size), level))
        for mark, colour in ((near, WHITE), (window, YELLOW)):
            outline(drawn[-1], scaled(mark.moved(-box.top, -box.left), box, size), colour)
    return [*drawn, tokens(answer, window, ground)]


def tokens(answer: Answer, window: Box, ground: Box) -> Pixels:
    """What every square of 32 x 32 pixels holds, signs aside."""

    density = density_of(answer.attribution.map.abs())
    beyond = (0, -ground.width % TOKEN, 0, -ground.height % TOKEN)
    level = position(F.avg_pool2d(F.pad(density, beyond)[None], TOKEN)[0]).numpy()
    height, width = ((size * TOKEN) for size in level.shape)
    size = panel_size(height, width)
    heat = resized(heated(level), size)
    outline(heat, scaled(window, Box(0, 0, height, width), size), YELLOW)
    return heat


def heated(level: Pixels) -> Pixels:
    """Levels [...] from 0 to 1 as colours [3, ...] uint8."""

    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(level, stops, [colour[i] for colour in HEAT]) for i in range(3)])
    return colours.round().astype(np.uint8)


def place(box: Box, ground: Box) -> Box:
    """A box of the raster in coordinates of the ground, without what lies outside."""
    return box.within(ground).moved(-ground.top, -ground.left)


def density_of(map: Tensor) -> Tensor:
    """A map [height, width] as shares of all of it, per square of 32 x 32 pixels; zero if it is."""
    total = float(map.abs().double().sum())
    return map * (TOKEN**2 / total) if total else map


def position(density: Tensor) -> Tensor:
    """Where on the scale from -1 to 1 a density lies; 0 below its least."""
    level = (density.abs().clamp(min=10.0 ** (LEAST - 1)).log10() - LEAST) / (MOST - LEAST)
    return level.clamp(0, 1) * density.sign()


def fitted(map: Tensor, size: tuple[int, int]) -> Tensor:
    """A map [height, width] averaged down to a size, or its pixels repeated up to it."""

    larger = size[0] > map.shape[0]
    result: Tensor = F.interpolate(map[None, None], size, mode="nearest-exact" if larger else "area")[0, 0]
    return result


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture [3, height, width] with its pixels repeated, or left out, to fill a size."""

    rows, cols = (np.arange(new) * old // new for new, old in zip(size, pixels.shape[1:], strict=True))
    taken: Pixels = pixels[:, rows[:, None], cols]
    return taken


def overlaid(pixels: Pixels, level: Tensor) -> Pixels:
    """A picture in dim grey under red where the map is positive and blue where it is negative."""

    grey = pixels.mean(0) * DIM
    amount = level.abs().numpy()
    positive = (level > 0).numpy()
    mixed = [grey * (1 - amount) + np.where(positive, RED[i], BLUE[i]) * amount for i in range(3)]
    return np.stack(mixed).round().astype(np.uint8)


def panel_size(height: int, width: int) -> tuple[int, int]:
    """A panel of a shape."""
    scale = PANEL / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def around(window: Box, near: Box, ground: Box) -> Box:
    """What is shown around a window: its patches and half of one on every side, inside the scene."""
    margin = max(near.height, near.width) // 2
    wide = Box(near.top - margin, near.left - margin, near.height + 2 * margin, near.width + 2 * margin)
    return wide.within(Box(0, 0, ground.height, ground.width))


def scaled(box: Box, of: Box, size: tuple[int, int]) -> Box:
    """A box of an area where the area is drawn in a size."""
    down, right = size[0] / of.height, size[1] / of.width
    top, left = round(box.top * down), round(box.left * right)
    return Box(top, left, round(box.bottom * down) - top, round(box.right * right) - left)


def outline(picture: Pixels, box: Box, colour: tuple[int, int, int]) -> None:
    """Draw a frame around a box, two pixels wide, outside of it so that small ones stay visible."""

    top, left = max(0, box.top - 2), max(0, box.left - 2)
    bottom, right = box.bottom + 2, box.right + 2
    mark = np.array(colour, np.uint8)[:, None, None]
    for rows, cols in (
        (slice(top, top + 2), slice(left, right)),
        (slice(bottom - 2, bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + 2)),
        (slice(top, bottom), slice(right - 2, right)),
    ):
        picture[:, rows, cols] = mark


def beside(parts: Sequence[Pixels]) -> Pixels:
    """Pictures next to each other."""

    height = max(part.shape[1] for part in parts)
    filled = [np.pad(part, ((0, 0), (0, height - part.shape[1]), (0, MARGIN))) for part in parts]
    return np.concatenate(filled, axis=2)[:, :, :-MARGIN]


def beneath(parts: Sequence[Pixels], gap: int = MARGIN) -> Pixels:
    """Pictures one under another."""

    width = max(part.shape[2] for part in parts)
    filled = [np.pad(part, ((0, 0), (0, gap), (0, width - part.shape[2]))) for part in parts]
    whole = np.concatenate(filled, axis=1)
    return whole[:, :-gap] if gap else whole
