"""How well a network does, while it trains, on places that it does not train on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.raster.base import RasterReader
from dehazexl_cli.training.data import COLOURS, Scene
from dehazexl_cli.training.mixture import draw_haze

SIDE = 768  # pixels: three patches, so that the bottleneck counts
PER_SOURCE = 7  # scenes, so that each place counts alike
BEST = 50.0  # decibels; some skies leave a crop untouched, and infinities would drown the mean


class ValidationPair(NamedTuple):
    """A pair to be tried, [1, 3, ≤ SIDE, ≤ SIDE] in [0, 1]."""

    hazy: Tensor
    clear: Tensor


def make_pairs(scenes: Sequence[Scene]) -> list[ValidationPair]:
    """The middles of evenly chosen scenes: real pairs as they are, others each under a sky of its own."""
    return [make_pair(scene, number) for number, scene in enumerate(thinned(scenes))]


def make_pair(scene: Scene, number: int) -> ValidationPair:
    """The middle of one scene."""
    height, width = scene.clear.info.height, scene.clear.info.width
    box = Box(max(0, height - SIDE) // 2, max(0, width - SIDE) // 2, min(SIDE, height), min(SIDE, width))
    clear = cut(scene.clear, box)
    if scene.hazy:
        return ValidationPair(cut(scene.hazy[number % len(scene.hazy)], box), clear)
    haze = draw_haze(np.random.default_rng((1, number)), max(box.height, box.width))
    hazy = haze.apply(clear[0].numpy(), Box(0, 0, box.height, box.width))
    return ValidationPair((torch.from_numpy(hazy.clip(0, 1))[None] * 255).round() / 255, clear)


def cut(picture: RasterReader, box: Box) -> Tensor:
    """Part of an 8-bit picture, [1, 3, height, width] in [0, 1]."""
    return torch.from_numpy(picture.read(box, COLOURS))[None] / 255


def thinned(scenes: Sequence[Scene]) -> list[Scene]:
    """At most PER_SOURCE scenes of each source, evenly chosen."""
    chosen: list[Scene] = []
    for source in sorted({scene.source for scene in scenes}):
        same = [scene for scene in scenes if scene.source == source]
        count = min(PER_SOURCE, len(same))
        chosen += [same[i * len(same) // count] for i in range(count)]
    return chosen


def mean_psnr(model: DehazeModel, trials: Sequence[ValidationPair], device: torch.device) -> dict[str, float]:
    """Mean PSNR, dB: of hazy inputs, of outputs, and of outputs for haze-free input against that."""
    sums = dict.fromkeys(("hazy", "output", "clear"), 0.0)
    for trial in trials:
        hazy, clear = trial.hazy.to(device), trial.clear.to(device)
        sums["hazy"] += psnr(hazy, clear)
        sums["output"] += psnr(model(hazy), clear)
        sums["clear"] += psnr(model(clear), clear)
    return {key: value / len(trials) for key, value in sums.items()}


def psnr(output: Tensor, clear: Tensor) -> float:
    """Peak signal-to-noise ratio, dB, of images in [0, 1], the output clamped; at most BEST."""
    error = (output.float().clamp(0, 1) - clear).square().mean().item()
    return min(BEST, -10 * math.log10(max(error, 1e-10)))
