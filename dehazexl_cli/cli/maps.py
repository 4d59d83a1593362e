"""Pictures of attribution maps: over the scene, around the window, and by tokens, on one fixed scale.

Colours tell the density of a map: which share of all that is attributed, signs aside, a square of 32 x 32
pixels would hold. The scale goes by powers of ten and is the same in every picture, so that maps
can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dehazexl_cli.cli.explaining import Answer, named
from dehazexl_cli.cli.lettering import HEIGHT, text_width, write
from dehazexl_cli.grid import Box

if TYPE_CHECKING:
    from torch import Tensor

    from dehazexl_cli.cli.measuring import View
    from dehazexl_cli.raster.base import Pixels, RasterReader

TOKEN = 32  # pixels per side of a token in the networks of this family
LEAST, MOST = -6, -1  # powers of ten of the scale's ends
PANEL = 640  # pixels of a panel's longer side
MARGIN, LINE = 16, 2 * HEIGHT + 12
BAR = 18  # pixels that a colour bar is high
DIM = 0.55  # of its brightness is what the scene keeps under the colours
RED, BLUE, YELLOW, WHITE = (255, 60, 40), (70, 140, 255), (255, 230, 0), (255, 255, 255)
HEAT = ((0, 0, 0), (70, 15, 110), (190, 45, 90), (250, 150, 40), (255, 255, 200))  # of tokens


def picture(answers: Sequence[Answer], reader: RasterReader, ground: Box, view: View) -> bytes:
    """A window's maps in every mode as a PNG; `reader` is of the whole raster, the maps are of its ground."""
    import imagecodecs
    import numpy as np

    from dehazexl_cli.raster.pixels import interleaved

    columns = [panels(answer, reader, ground, view) for answer in answers]
    if len(columns) == 1:
        whole = beside([beneath([panel]) for panel in columns[0]])
    else:
        whole = beside([beneath(column) for column in columns])
    whole = beneath([whole, legend(whole.shape[2])])
    framed = np.pad(whole, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    return bytes(imagecodecs.png_encode(interleaved(framed), level=6))


def panels(answer: Answer, reader: RasterReader, ground: Box, view: View) -> list[Pixels]:
    """The map over the whole scene, around the window, and by tokens, each under a line of words."""
    from dehazexl_cli.cli.page import shown
    from dehazexl_cli.raster.thumbnail import thumbnail
    from dehazexl_cli.raster.views import WindowedReader

    info, (window, near) = reader.info, (place(box, ground) for box in (answer.window, answer.near))
    part = reader if ground == Box(0, 0, info.height, info.width) else WindowedReader(reader, ground)
    density = density_of(answer.attribution.map)
    small = shown(thumbnail(part, view.bands, PANEL), view)
    size = panel_size(ground.height, ground.width)
    scene = overlaid(resized(small, size), position(fitted(density, size)))
    for box, colour in ((near, WHITE), (window, YELLOW)):
        outline(scene, scaled(box, ground, size), colour)
    close = around(window, near, ground)
    seen = shown(reader.read(close.moved(ground.top, ground.left), view.bands), view)
    cut = density[close.top : close.bottom, close.left : close.right]
    size = panel_size(close.height, close.width)
    zoom = overlaid(resized(seen, size), position(fitted(cut, size)))
    for box, colour in ((near, WHITE), (window, YELLOW)):
        outline(zoom, scaled(box.moved(-close.top, -close.left), close, size), colour)
    spread = answer.spread
    return [
        titled(scene, f"{answer.mode}: window {named(answer.window)}"),
        titled(zoom, f"around it: {percent(spread.inside)} inside, {percent(spread.patch)} in its patches"),
        titled(tokens(answer, window, ground), f"by tokens: {percent(spread.beyond)} beyond its patches"),
    ]


def tokens(answer: Answer, window: Box, ground: Box) -> Pixels:
    """What every square of 32 x 32 pixels holds, signs aside."""
    import torch.nn.functional as F

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
    import numpy as np

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
    import torch.nn.functional as F

    larger = size[0] > map.shape[0]
    result: Tensor = F.interpolate(map[None, None], size, mode="nearest-exact" if larger else "area")[0, 0]
    return result


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture [3, height, width] with its pixels repeated, or left out, to fill a size."""
    import numpy as np

    rows, cols = (np.arange(new) * old // new for new, old in zip(size, pixels.shape[1:], strict=True))
    taken: Pixels = pixels[:, rows[:, None], cols]
    return taken


def overlaid(pixels: Pixels, level: Tensor) -> Pixels:
    """A picture in dim grey under red where the map is positive and blue where it is negative."""
    import numpy as np

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
    import numpy as np

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


def titled(panel: Pixels, text: str) -> Pixels:
    """A panel under a line of words."""
    import numpy as np

    head = np.zeros((3, LINE, max(panel.shape[2], text_width(text))), np.uint8)
    write(head, text, 4, 0, WHITE)
    return beneath([head, panel], gap=0)


def legend(width: int) -> Pixels:
    """Both colour bars with their numbers."""
    import numpy as np
    import torch

    half = min(PANEL, width)
    along = torch.linspace(-1, 1, half)[None].expand(BAR, -1)
    signed = overlaid(np.zeros((3, BAR, half), np.uint8), along)
    bars = []
    steps = range(MOST, LEAST, -2)
    both = [(-share(step), -height) for step, height in ((s, (s - LEAST) / (MOST - LEAST)) for s in steps)]
    ticks = [*both, (0.0, 0.0), *((-value, -height) for value, height in reversed(both))]
    bars.append(beneath([signed, numbers(ticks, half, (-1, 1))], gap=4))
    ticks = [(value, height) for value, height in ticks if value >= 0]
    sequence = np.repeat(heated(np.linspace(0, 1, half))[:, None], BAR, 1)
    bars.append(beneath([sequence, numbers(ticks, half, (0, 1))], gap=4))
    words = "share of all that is attributed per 32 x 32 pixels: signed, and by tokens without sign"
    drawn = beside(bars) if width >= 2 * half + MARGIN else beneath(bars)
    return titled(drawn, words)


def share(power: int) -> float:
    """A power of ten."""
    return 10.0**power


def numbers(ticks: Sequence[tuple[float, float]], width: int, ends: tuple[float, float]) -> Pixels:
    """A line of numbers in per cent at heights between the ends of a scale."""
    import numpy as np

    line = np.zeros((3, LINE, width), np.uint8)
    for value, height in ticks:
        text = percent(value)
        middle = round((height - ends[0]) / (ends[1] - ends[0]) * width)
        left = min(max(0, middle - text_width(text) // 2), width - text_width(text))
        line[:, :4, min(max(0, middle), width - 1)] = 255
        write(line, text, 8, left, WHITE)
    return line


def percent(share: float) -> str:
    """A share in per cent, as short as it may be."""
    if not math.isfinite(share):
        return "-"
    digits = f"{share * 100:.3g}" if abs(share) >= 1e-3 else f"{share * 100:.5f}".rstrip("0").rstrip(".")
    return f"{digits}%"


def beside(parts: Sequence[Pixels]) -> Pixels:
    """Pictures next to each other."""
    import numpy as np

    height = max(part.shape[1] for part in parts)
    filled = [np.pad(part, ((0, 0), (0, height - part.shape[1]), (0, MARGIN))) for part in parts]
    return np.concatenate(filled, axis=2)[:, :, :-MARGIN]


def beneath(parts: Sequence[Pixels], gap: int = MARGIN) -> Pixels:
    """Pictures one under another."""
    import numpy as np

    width = max(part.shape[2] for part in parts)
    filled = [np.pad(part, ((0, 0), (0, gap), (0, width - part.shape[2]))) for part in parts]
    whole = np.concatenate(filled, axis=1)
    return whole[:, :-gap] if gap else whole
