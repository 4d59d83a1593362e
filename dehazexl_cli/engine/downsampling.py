"""Pictures of a scene: averaged down, and what they became carried back to full size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dehazexl_cli.engine.patches import slices
from dehazexl_cli.engine.scaling import Group, Scaling, normalize
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.raster.base import Pixels

GUIDE_RADIUS = 4  # pixels of the small picture that share a colour transform
GUIDE_EPSILON = 1e-5  # of squared pixels: where a picture varies less, it guides nothing
AVERAGED_AT_ONCE = 2**18  # pixels, as averaging needs several times what they take


def add_band(total: Tensor, band: Pixels, scaling: Scaling, top: int, grid: PatchGrid) -> None:
    """Add what a band of rows [bands, n, w] from `top` on makes up of a picture [bands, height, width]."""
    if total.shape[1:] == (grid.height, grid.width):
        total[:, top : top + band.shape[1]] = normalize(torch.from_numpy(band).to(total.device), scaling)
        return
    at_once = max(1, AVERAGED_AT_ONCE // grid.width)
    for first in range(0, band.shape[1], at_once):
        source = torch.from_numpy(band[:, first : first + at_once]).to(total.device)
        add_rows(total, normalize(source, scaling), top + first, grid.height)


def add_rows(total: Tensor, rows: Tensor, top: int, scene_height: int) -> None:
    """Add what scene rows [bands, n, w] from `top` on make up of averages [bands, height, width]."""
    step = scene_height / total.shape[1]
    first, last = int(top / step), min(total.shape[1], int((top + rows.shape[1]) / step) + 1)
    begins = torch.arange(first, last, device=rows.device)[:, None] * step
    places = top + torch.arange(rows.shape[1], device=rows.device)[None]
    shares = (torch.minimum(begins + step, places + 1) - torch.maximum(begins, places)).clamp(min=0)
    # Down first: it leaves few rows to be narrowed, which takes float64.
    total[:, first:last] += narrowed((shares / step) @ rows, total.shape[2])


def narrowed(pixels: Tensor, width: int) -> Tensor:
    """[bands, rows, w] averaged along the rows to [bands, rows, width], pixels on an edge shared by area."""
    sums = F.pad(pixels.double().cumsum(2), (1, 0))
    edges = torch.linspace(0, pixels.shape[2], width + 1, dtype=torch.float64, device=pixels.device)
    before = edges.floor().long().clamp(max=pixels.shape[2] - 1)
    at = sums[:, :, before] + (edges - before) * pixels[:, :, before]
    return (at.diff(dim=2) * (width / pixels.shape[2])).float()


def as_bands(change: Tensor, group: Group) -> Tensor:
    """The change of three colours as that of a group's bands."""
    return change.mean(0, keepdim=True) if len(group.bands) == 1 else change


def guided_filter(picture: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Factors and offsets [bands, h, w] that make of each place of a picture its change, smooth in place.

    The guided filter (He, Sun, Tang 2013), guided colour by colour; the coefficients are applied at full
    size as He and Sun propose (Fast Guided Filter, 2015), so that edges of the ground stay sharp. Where the
    picture is even, factors tend to zero: then detail too fine for it is kept as it is.
    """
    mean_in, mean_out = box_filter(picture), box_filter(change)
    covariance = box_filter(picture * change) - mean_in * mean_out
    variance = box_filter(picture * picture) - mean_in**2
    factor = covariance / (variance + GUIDE_EPSILON)
    return box_filter(factor), box_filter(mean_out - factor * mean_in)


def box_filter(x: Tensor) -> Tensor:
    """Means over the squares around each place."""
    side = 2 * GUIDE_RADIUS + 1
    down = F.avg_pool2d(x, (side, 1), 1, (GUIDE_RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(down, (1, side), 1, (0, GUIDE_RADIUS), count_include_pad=False)


def colour_changes(picture: Tensor, output: Tensor, group: Group) -> Tensor:
    """Factors, then offsets, [2 · bands, h, w] that make a picture's [3, h, w] change to an output."""
    # Colour by colour, as fitting needs several times what it fits.
    fits = [
        guided_filter(one, other - one) for one, other in zip(picture.split(1), output.split(1), strict=True)
    ]
    factors, offsets = zip(*fits, strict=True)
    return torch.cat([as_bands(torch.cat(each), group) for each in (factors, offsets)])


def upsample(small: Tensor, box: Box, height: int, width: int) -> Tensor:
    """A box [bands, h, w] of a small picture enlarged to height x width."""
    down, right = between(small.shape[1], height, small), between(small.shape[2], width, small)
    rows, cols = slices(box)
    left, beside, share = (part[cols] for part in right)
    above, below, depth = (part[rows] for part in down)
    start, stop = (int(above[0]), int(below[-1]) + 1) if len(above) else (0, 0)
    lines = small[:, start:stop]
    lines = lines[:, :, left].lerp_(lines[:, :, beside], share)
    return lines[:, above - start].lerp_(lines[:, below - start], depth[:, None])


def between(small: int, large: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `large` places the two of `small` it lies between, and how near to the second, [large]."""
    places = (torch.arange(large, dtype=torch.float64) + 0.5) * (small / large) - 0.5
    places = places.clamp(0, small - 1)
    first = places.floor().long()
    beside, share = (first + 1).clamp(max=small - 1), (places - first).to(like.dtype)
    return first.to(like.device), beside.to(like.device), share.to(like.device)
