"""Training samples: random crops of clear scenes, hazed on the fly.

Every sample is drawn from its own number, so a resumed run sees exactly what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box, mirrored
from dehazexl_cli.raster import open_reader
from dehazexl_cli.training.haze import Haze

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


class Scene(NamedTuple):
    """One clear image and where it comes from."""

    name: str
    source: str  # the file name up to "__": images of one source show one place
    pixels: NDArray[np.uint8]  # [3, height, width]


@dataclass(frozen=True)
class Recipe:
    """How samples are made."""

    clear_share: float = 0.15  # samples without haze, so that clear scenes stay as they are
    largest_scale: float = 3.0  # crops cover up to this many times their side, then are reduced
    smallest_scale: float = 0.8
    exposure: float = 0.25  # largest change of brightness and gamma, in natural logarithms
    sensor_noise: float = 0.01  # largest standard deviation


def load_scenes(folders: Sequence[Path]) -> list[Scene]:
    """All images of the folders, in name order, as 8-bit RGB in memory."""
    paths = sorted(p for folder in folders for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"no images in {', '.join(map(str, folders))}", f"it looks for {sorted(SUFFIXES)}")
    return [load_scene(path) for path in paths]


def load_scene(path: Path) -> Scene:
    """One image; InputError unless it is 8-bit with at least three bands."""
    reader = open_reader(path)
    try:
        info = reader.info
        if info.dtype != "uint8" or info.count < 3:
            raise InputError(
                f"{path} has {info.count} bands of {info.dtype}", "train on 8-bit images with three bands"
            )
        pixels = reader.read(Box(0, 0, info.height, info.width), (1, 2, 3))
    finally:
        reader.close()
    return Scene(path.stem, path.stem.split("__")[0], pixels)


def split(scenes: Sequence[Scene], held_out: Sequence[str]) -> tuple[list[Scene], list[Scene]]:
    """(training, validation): held out are scenes whose name starts with one of the given words."""
    validation = [s for s in scenes if s.name.startswith(tuple(held_out))] if held_out else []
    names = {s.name for s in validation}
    return [s for s in scenes if s.name not in names], validation


class Sampler:
    """Draws pairs (hazy, clear) of square crops."""

    def __init__(self, scenes: Sequence[Scene], recipe: Recipe, seed: int) -> None:
        self.scenes = scenes
        self.recipe = recipe
        self.seed = seed
        sources = [s.source for s in scenes]
        # Large scenes hold more to see; large sources are not to drown the small ones.
        weights = np.array([s.pixels[0].size ** 0.5 / sources.count(s.source) ** 0.5 for s in scenes])
        self.weights = weights / weights.sum()

    def batch(self, step: int, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Hazy and clear crops [size, 3, side, side] float32 in [0, 1] of training step `step`."""
        pairs = [self.sample(np.random.default_rng((self.seed, step, i)), side) for i in range(size)]
        hazy, clear = (torch.stack(images) for images in zip(*pairs, strict=True))
        return hazy, clear

    def sample(self, rng: Generator, side: int) -> tuple[Tensor, Tensor]:
        """One pair (hazy, clear), each [3, side, side]."""
        scene = self.scenes[rng.choice(len(self.scenes), p=self.weights)]
        clear = change_exposure(crop(scene, rng, side, self.recipe), rng, self.recipe.exposure)
        if rng.random() < self.recipe.clear_share:
            return clear, clear
        hazed = Haze.draw(rng, side).apply(clear.numpy(), Box(0, 0, side, side))
        noise = rng.standard_normal(hazed.shape, dtype=np.float32) * np.float32(
            rng.uniform(0, self.recipe.sensor_noise)
        )
        # Real inputs are 8-bit, and what haze pressed into few levels stays pressed.
        return torch.from_numpy((hazed + noise).clip(0, 1) * 255).round() / 255, clear


def crop(scene: Scene, rng: Generator, side: int, recipe: Recipe) -> Tensor:
    """A random crop at a random scale, turned and mirrored at random: [3, side, side] in [0, 1]."""
    _, height, width = scene.pixels.shape
    largest = max(recipe.smallest_scale, min(recipe.largest_scale, min(height, width) / side))
    covered = round(side * float(np.exp(rng.uniform(np.log(recipe.smallest_scale), np.log(largest)))))
    top = int(rng.integers(0, max(1, height - covered + 1)))
    left = int(rng.integers(0, max(1, width - covered + 1)))
    rows, cols = mirrored(top, top + covered, height), mirrored(left, left + covered, width)
    pixels = torch.from_numpy(scene.pixels[:, rows][:, :, cols]).float()[None] / 255
    if covered != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=covered > side)
    turned = torch.rot90(pixels[0], int(rng.integers(4)), (1, 2))
    return turned.flip(2) if rng.random() < 0.5 else turned


def change_exposure(image: Tensor, rng: Generator, most: float) -> Tensor:
    """Brightness and gamma changed a little, within [0, 1]."""
    gain, gamma = np.exp(rng.uniform(-most, most, 2))
    return (image.clamp(min=1e-4) ** float(gamma) * float(gain)).clamp(0, 1).contiguous()
