"""Dark envelopes: how dark the darkest things around each place of a scene are, and what veil that tells.

Haze adds light to everything, so no ground is darker than the veil over it, and where shadows, water or
forest lie near, the darkest is hardly brighter (Chavez, "An improved dark-object subtraction technique",
1988; He, Sun, Tang, "Single image haze removal using dark channel prior", CVPR 2009). An envelope is the
scene's minimum over a window, smoothed. The veil of each place is a mixture of envelopes of several widths,
whose shares a network writes; so it lies between nothing and the darkest there is, whatever that says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

AIRLIGHT = 0.85  # of a veil through which no ground is seen; networks correct the gain that follows from it
# Gains do not follow veils beyond: what is left of the ground drowns in noise there.
THICKEST = 0.8 * AIRLIGHT
# Networks write numbers of the order of one; what these are worth as logarithm of a gain, and as an offset.
GAIN_UNIT, OFFSET_UNIT = 0.3, 0.1
# Where even the darkest of a place is that bright, it is snow, or no ground is seen through its cloud: from
# the first on less is changed, from the second on nothing.
UNSEEN = (0.96, 0.99)
TELLABLE = (0.02, 0.98)  # transmission that a gain tells before it is corrected
COLOURS = 3
TRANSFORM = 2 * COLOURS  # numbers that correct a transform: the logarithm of a gain and an offset per colour


def darkest_cells(pixels: Tensor, side: int) -> Tensor:
    """The darkest of each colour in cells of `side` pixels: [b, 3, h, w] -> [b, 3, h / side, w / side].

    Of means of 2 x 2 pixels, as the darkest of single pixels is mostly noise.
    """
    return -F.max_pool2d(-F.avg_pool2d(pixels, 2), side // 2)


def envelope(cells: Tensor, window: int) -> Tensor:
    """The minimum over `window` x `window` cells [b, c, h, w] around each, then their mean over as many.

    Windows end where the cells end.
    """
    window = min(window, 2 * max(cells.shape[2:]) - 1)
    # Over lines one way and then the other, which takes a fraction of the time of squares.
    lines = (((window, 1), (window // 2, 0)), ((1, window), (0, window // 2)))
    for kernel, padding in lines:
        cells = -F.max_pool2d(-cells, kernel, 1, padding)
    for kernel, padding in lines:
        cells = F.avg_pool2d(cells, kernel, 1, padding, count_include_pad=False)
    return cells


def candidates(envelopes: Sequence[Tensor]) -> Tensor:
    """What a veil may be mixed of: nothing, then each envelope [b, 3, h, w] by colours, and as a grey veil.

    Returns [b, 1 + 2·envelopes, 3, h, w].
    """
    made = [torch.zeros_like(envelopes[0])]
    for colours in envelopes:
        made += [colours, colours.amin(1, keepdim=True).expand_as(colours)]
    return torch.stack(made, dim=1)


def colour_transforms(numbers: Tensor, veils: Tensor) -> Tensor:
    """Return gains, then offsets, [b, 6, h, w] of the transforms that take a veil off each place.

    `numbers` [b, n + 6, h, w] are the logits of the shares of the n `veils` [b, n, 3, h, w], then
    corrections: logarithms of gains, and offsets, in GAIN_UNIT and OFFSET_UNIT. With V the mixed veil, a
    pixel I becomes gain·(I - V) + offset, where the gain is 1 / (1 - V / AIRLIGHT) before correction.
    """
    count = veils.shape[1]
    shares = numbers[:, :count].softmax(1)
    veil = (shares[:, :, None] * veils).sum(1)
    log_gain, offset = numbers[:, count:].split(COLOURS, dim=1)
    gain = (GAIN_UNIT * log_gain).clamp(-2, 2).exp() / (1 - veil.clamp(max=THICKEST) / AIRLIGHT)
    return torch.cat([gain, OFFSET_UNIT * offset - gain * veil], dim=1)


def transmission(transforms: Tensor, correction: Tensor) -> Tensor:
    """Return the share of the ground's light that gets through, [b, 1, h, w], as it is told by transforms.

    A gain makes up for what is lost, but less so where little gets through: the corrections [b, 1, h, w], as
    logits, are learned beside the gains, which learn nothing from them.
    """
    through = 1 / transforms[:, :COLOURS].detach().mean(1, keepdim=True)
    return (through.clamp(*TELLABLE).logit() + correction).sigmoid()


def share_seen(near: Tensor) -> Tensor:
    """Return how much of the ground is seen, 0 to 1, [b, 1, h, w], by the narrowest envelope [b, 3, h, w]."""
    begin, end = UNSEEN
    return ((end - near.amin(1, keepdim=True)) / (end - begin)).clamp(0, 1)


def keep_unseen(transforms: Tensor, seen: Tensor) -> Tensor:
    """Weaken transforms [b, 6, h, w] by the share [b, 1, h, w] that is seen; at 0 they change nothing."""
    gain, offset = transforms.split(COLOURS, dim=1)
    return torch.cat([torch.lerp(torch.ones_like(gain), gain, seen), seen * offset], dim=1)
