"""How far an attribution map reaches: how much lies in the window, beside it, and beyond."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dehazexl_cli.grid import Box

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Spread:
    """Of the absolute values of a map; NaN if nothing is attributed to any pixel."""

    inside: float  # share of the window itself
    patch: float  # share of the patches that the window is restored from, without the window
    beyond: float  # share of all the rest: what only the view of the whole scene can bring
    diffusion_index: float  # (1 - Gini) · 100: 0 is one pixel, 100 all pixels alike
    radius_50: float  # pixels from the middle of the window within which half of it lies
    radius_90: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, None for what is none."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


def measure_spread(map: Tensor, window: Box, near: Box, ground: Tensor | None = None) -> Spread:
    """How a map [height, width] spreads around a window that lies in `near`, the box of its patches.

    `ground` [height, width] bool says which pixels count, if not all.
    """
    amount = map.abs() if ground is None else map.abs() * ground
    total = held(amount)
    if not total > 0:
        return Spread(*[math.nan] * 6)
    inside, around = (held(cut(amount, box)) for box in (window, near))
    radii = radii_holding((0.5, 0.9), amount, window)
    index = diffusion_index(amount.flatten() if ground is None else amount[ground])
    return Spread(inside / total, (around - inside) / total, (total - around) / total, index, *radii)


def cut(map: Tensor, box: Box) -> Tensor:
    """What of a map lies in a box, which may overhang it."""
    return map[max(0, box.top) : box.bottom, max(0, box.left) : box.right]


def held(amount: Tensor) -> float:
    """The sum, without loss for millions of numbers."""
    return float(amount.sum(dtype=torch.float64))


def diffusion_index(amount: Tensor) -> float:
    """(1 - Gini) · 100 of amounts [n] that are not all zero.

    Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021, section 4.
    """
    ordered = amount.sort().values
    n = len(ordered)
    weighted = 0.0
    for start in range(0, n, 2**22):  # in parts, as float64 takes twice the room
        part = ordered[start : start + 2**22].double()
        weighted += float(part @ torch.arange(start + 1, start + len(part) + 1, dtype=torch.float64))
    gini = 2 * weighted / (n * held(ordered)) - (n + 1) / n
    return (1 - gini) * 100


def radii_holding(shares: tuple[float, ...], amount: Tensor, window: Box) -> list[float]:
    """Pixels from the middle of a window within which these shares of amounts [height, width] lie."""
    height, width = amount.shape
    middle = window.top + (window.height - 1) / 2, window.left + (window.width - 1) / 2
    across = (torch.arange(width, dtype=torch.float64) - middle[1]) ** 2
    farthest = math.ceil(math.hypot(max(middle[0], height), max(middle[1], width))) + 1
    rings = torch.zeros(farthest + 1, dtype=torch.float64)
    for top in range(0, height, ROWS_AT_ONCE):
        rows = amount[top : top + ROWS_AT_ONCE]
        down = (torch.arange(top, top + len(rows), dtype=torch.float64) - middle[0]) ** 2
        ring = (down[:, None] + across).sqrt().ceil().long().flatten()
        rings += torch.bincount(ring, rows.flatten().double(), minlength=farthest + 1)
    sums = rings.cumsum(0)
    return [float(torch.searchsorted(sums, share * sums[-1])) for share in shares]
