"""The survey: smaller pictures of a scene, each dehazed in one pass, whose colours the result shares.

A patch of a large scene may show nothing but one field, and how bright a field is cannot be told from how
thick the haze over it lies. In a smaller picture the same patch spans much more ground. So the result is
the mean of several looks at the scene: the one by patches at full size, and those of the survey. What these
make of colours is read off them as smooth linear transforms (the guided filter) and applied at full size.

One of the looks may be another network's, the model's companion. Networks that were made differently err in
different places, so the mean of their results is closer to the ground than either.

Networks are timid where haze is thick and leave some of it, so there a survey shows them their own result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dehazexl_cli.engine.downsampling import (
    Lines,
    SinglePass,
    as_bands,
    averaged,
    downsample,
    guided_filter,
    upsample,
    widened,
)
from dehazexl_cli.engine.layout import Look
from dehazexl_cli.engine.memory import trim
from dehazexl_cli.engine.run_context import RunContext
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.grid import Box

Size = tuple[int, int]  # height and width, pixels

# Of a picture in [0, 1], how much a network changes on average: below the first it has left no haze, from the
# second on it is shown what it left.
THIN, THICK = 0.1, 0.2


class Survey(NamedTuple):
    """What looks at smaller pictures of a group's bands change, all of them together."""

    transforms: Tensor  # [2 · bands, h, w]: factors, then offsets, of the mean of all looks
    looks: int
    scene: Size

    def over(self, box: Box) -> Surveyed:
        """The survey of the rows of a box."""
        return Surveyed(widened(self.transforms, box, *self.scene), self.looks)


class Surveyed(NamedTuple):
    """A survey of some rows of the scene."""

    lines: Lines
    looks: int

    def rows(self, part: slice) -> Surveyed:
        """The survey of some of these rows."""
        return Surveyed(self.lines.rows(part), self.looks)

    def change(self, hazy: Tensor) -> Tensor:
        """What these looks change in the pixels [bands, rows, w]."""
        factor, offset = self.lines.pixels().chunk(2)
        return torch.addcmul(offset, factor, hazy)

    def joined(self, change: Tensor, hazy: Tensor) -> Tensor:
        """The mean of all looks: `change` [bands, rows, w] of the one at full size, and these."""
        return change.lerp(self.change(hazy), self.looks / (self.looks + 1))


def take_surveys(
    scene: Scene, looks: Sequence[Look], overlap: int, run_context: RunContext
) -> list[Survey | None]:
    """A survey of each group of bands by these looks, largest first; None if there are none."""
    checkpoint, groups = run_context.checkpoint, scene.groups
    if not looks:
        return [None] * len(groups)
    # The journal knows lanes by number; those of surveys follow those of patches.
    states = range(len(groups), 2 * len(groups))
    observers = observers_of(looks, overlap, run_context)

    def transforms(picture: Tensor | None, group: Group) -> Tensor:
        assert picture is not None, "it is there unless all is kept"
        with run_context.report.working("survey"):
            return looked_at(picture, looks, observers, group)

    with run_context.report.timed("survey"):
        pictures: list[Tensor | None] = [None] * len(groups)
        if not all(map(checkpoint.has_mixed, states)):
            pictures[:] = downsample(scene, looks[0].height, looks[0].width, run_context, "survey")
        found = [
            checkpoint.mixed(state, partial(transforms, picture, group), scene.device)
            for state, picture, group in zip(states, pictures, groups, strict=True)
        ]
        trim()
    return [Survey(each, len(looks), (scene.grid.height, scene.grid.width)) for each in found]


def observers_of(looks: Sequence[Look], overlap: int, run_context: RunContext) -> list[SinglePass]:
    """Who takes each look: the model or its companion."""
    model, plan, report = run_context.models[0], run_context.plan, run_context.report
    own = SinglePass(model, overlap, plan, report)
    # Patches of networks that gather by sum, as a companion does, do not overlap.
    other = own if model.companion is None else SinglePass(model.companion, 0, plan, report)
    return [other if look.companion else own for look in looks]


def looked_at(
    picture: Tensor, looks: Sequence[Look], observers: Sequence[SinglePass], group: Group
) -> Tensor:
    """The mean [2 · bands, h, w] of what these looks at a picture [1, 3, h, w], the largest, change."""
    height, width = picture.shape[2:]
    total = torch.zeros(2 * len(group.bands), height, width, device=picture.device)
    small = picture
    for look, run in zip(looks, observers, strict=True):
        if small.shape[2:] != (look.height, look.width):  # looks of one size follow each other
            small = averaged(picture, look.height, look.width)
        changes = colour_changes(small[0], dehazed(small, run)[0], group)
        total += upsample(changes, Box(0, 0, height, width), height, width)
    return total.div_(len(looks))


def dehazed(picture: Tensor, run: SinglePass) -> Tensor:
    """What a network makes of a picture [1, 3, h, w], and of what it left if the haze was thick."""
    once = run(picture)
    removed = (once - picture).abs().mean().item()
    share = min(1.0, max(0.0, (removed - THIN) / (THICK - THIN)))
    return once.lerp(run(once.clamp(0, 1)), share) if share else once


def colour_changes(picture: Tensor, output: Tensor, group: Group) -> Tensor:
    """Factors, then offsets, [2 · bands, h, w] that make a picture's [3, h, w] change to an output."""
    # Colour by colour, as fitting needs several times what it fits.
    fits = [
        guided_filter(one, other - one) for one, other in zip(picture.split(1), output.split(1), strict=True)
    ]
    factors, offsets = zip(*fits, strict=True)
    return torch.cat([as_bands(torch.cat(each), group) for each in (factors, offsets)])
