"""Training samples: random crops of pairs, or of clear scenes that are hazed on the fly.

Every sample is drawn from its own number, so a resumed run sees exactly what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from threadpoolctl import ThreadpoolController
from torch import Tensor

from dehazexl_cli.dataset_pairs import find_pairs
from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box, mirrored
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.base import RasterReader
from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.training.mixture import DEFAULT_SHARES, Shares, draw_by_ratio, draw_haze
from dehazexl_cli.training.uniform_ground import with_even_ground

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
COLOURS = (1, 2, 3)
GREEN = 1  # counted from 0
DARK_PERCENT = 0.3  # of pixels, which may lie below the dark level: dead pixels, text, gaps
IN_MEMORY = 30_000_000  # pixels; larger images are read from disk crop by crop


class Scene(NamedTuple):
    """A clear image, real hazy images of the same ground if there are any, and where they come from."""

    name: str
    source: str  # the file name up to "__": images of one source show one place
    clear: RasterReader
    hazy: tuple[RasterReader, ...] = ()  # empty: haze is synthesised


class Sample(NamedTuple):
    """One crop or several, [3, side, side] or [size, 3, side, side] float32 in [0, 1]."""

    hazy: Tensor
    clear: Tensor
    transmission: Tensor  # of green light, one channel; NaN where it is not known, as of real haze


@dataclass(frozen=True)
class Recipe:
    """How samples are made."""

    clear_share: float = 0.2  # samples without haze, so that clear scenes stay as they are
    largest_scale: float = 6.0  # crops cover up to this many times their side, then are reduced
    smallest_scale: float = 0.8
    haze: Shares = DEFAULT_SHARES  # kinds of haze over hazy samples
    # Large scenes lie under clouds many times as wide as a patch, which must not be taken for the ground.
    wide_share: float = 0.5  # hazy samples that lie somewhere under a sky wider than they
    widest_sky: float = 16.0  # times the sample's side, at most
    # Ground truths with lifted blacks teach that clear ground has a veil; blacks always taken off teach to
    # darken clear photographs. So a random part of it is taken off now and then.
    black_share: float = 0.3  # samples whose clear crop loses a part of its dark level
    largest_black: float = 12 / 255  # what counts as dark level at most
    linear_share: float = 0.25  # samples shown in a linear tone, value^gamma, as satellites deliver them
    linear_gamma: tuple[float, float] = (1.4, 2.4)
    dark_share: float = 0.15  # samples shown in a dark range, of which bright ground uses a part only
    darkest_gain: float = 0.35
    # Sources of strong false colours, which real inputs rarely have.
    false_colours: tuple[str, ...] = ("earth_as_art",)
    false_saturation: float = 0.8  # they keep a random share of the distance from grey, up to this
    exposure: float = 0.2  # largest change of gamma and gain in brightness, in natural logarithms
    darkening: float = 0.2  # largest loss in brightness: ground seen from space is darker than from a drone
    grey_share: float = 0.1  # samples without any colour, as panchromatic bands are
    saturation: float = 0.25  # largest change of the distance of colours from grey, in natural logarithms
    even_share: float = 0.25  # samples with water, sand or other even ground drawn in
    drawn_clear_share: float = 0.45  # of these without haze: fields and roofs of one colour are no veils
    # A lake, or a field of one crop, cannot be told from a veil and is to stay: of samples that show nothing
    # else, whose contrast is lower, that share is without haze.
    even_contrast: float = 0.1
    even_clear_share: float = 0.9
    sensor_noise: float = 0.01  # largest standard deviation


class Placement(NamedTuple):
    """Where a crop lies in its scene and how it is turned."""

    top: int
    left: int
    covered: int  # pixels of the scene per side
    turns: int  # by 90 degrees
    flipped: bool


def load_scenes(folders: Sequence[Path]) -> list[Scene]:
    """The scenes of all folders, in name order: pairs where a folder holds them, else clear images.

    Raises InputError for folders without images and for images that are not 8-bit with three bands.
    """
    return [scene for folder in folders for scene in scenes_of(folder)]


def scenes_of(folder: Path) -> list[Scene]:
    """The scenes of one folder: images that lie in it are clear, folders in it are a layout of pairs."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", "check --data")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if images:
        return [Scene(path.stem, source_of(path), open_picture(path)) for path in images]
    if not any(path.is_dir() for path in folder.iterdir()):
        raise InputError(f"no images in {folder}", f"it looks for {', '.join(sorted(SUFFIXES))}")
    hazy: dict[Path, list[Path]] = {}
    for pair in find_pairs(folder):
        hazy.setdefault(pair.clear, []).append(pair.hazy)
    return [
        Scene(clear.stem, source_of(clear), open_picture(clear), tuple(map(open_picture, several)))
        for clear, several in sorted(hazy.items())
    ]


def source_of(path: Path) -> str:
    """The place an image shows, as its file name says."""
    return path.stem.split("__")[0]


def open_picture(path: Path) -> RasterReader:
    """An 8-bit image with at least three bands, decoded into memory unless it is large."""
    reader = open_reader(path)
    info = reader.info
    if info.dtype != "uint8" or info.count < len(COLOURS):
        reader.close()
        raise InputError(
            f"{path} has {info.count} bands of {info.dtype}", "train on 8-bit images with three bands"
        )
    if info.height * info.width > IN_MEMORY:
        return reader
    pixels = reader.read(Box(0, 0, info.height, info.width), COLOURS)
    reader.close()
    return ArrayReader(pixels, channels_first=True, name=str(path))


def split(scenes: Sequence[Scene], held_out: Sequence[str]) -> tuple[list[Scene], list[Scene]]:
    """(training, validation): held out are scenes whose name starts with one of the given words."""
    words = tuple(held_out)
    validation = [scene for scene in scenes if words and scene.name.startswith(words)]
    return [scene for scene in scenes if not words or not scene.name.startswith(words)], validation


class Sampler:
    """Draws pairs (hazy, clear) of square crops."""

    def __init__(self, scenes: Sequence[Scene], recipe: Recipe, seed: int) -> None:
        self.scenes = scenes
        self.recipe = recipe
        self.seed = seed
        sources = [scene.source for scene in scenes]
        sizes = [scene.clear.info.height * scene.clear.info.width for scene in scenes]
        # Large scenes hold more to see; large sources are not to drown the small ones.
        weights = np.array(
            [size**0.25 / sources.count(source) ** 0.5 for size, source in zip(sizes, sources, strict=True)]
        )
        self.weights = weights / weights.sum()
        self.pools = ThreadpoolController()

    def batch(self, step: int, size: int, side: int, first: int = 0) -> Sample:
        """The crops [size, …] of a step, from number `first` on."""
        numbers = range(first, first + size)
        # Work as small as this waits longer for other threads than it takes on one, and threads that wait
        # keep cores from the training. OpenMP's limit holds for this thread only, once torch has begun with
        # it; that of numpy's BLAS holds for all, and the training does without numpy.
        torch.get_num_threads()
        with self.pools.limit(limits=1):
            samples = [self.sample(np.random.default_rng((self.seed, step, i)), side) for i in numbers]
        return Sample(*(torch.stack(images) for images in zip(*samples, strict=True)))

    def sample(self, rng: Generator, side: int) -> Sample:
        """One crop."""
        sample = self._sample(rng, side)
        if rng.random() < self.recipe.grey_share:
            return Sample(saturate(sample.hazy, 0), saturate(sample.clear, 0), sample.transmission)
        return sample

    def _sample(self, rng: Generator, side: int) -> Sample:
        scene = self.scenes[rng.choice(len(self.scenes), p=self.weights)]
        if not scene.hazy:
            clear = self._ground(scene, rng, side)
        else:
            placement = place(scene.clear, rng, side, self.recipe)
            clear = crop(scene.clear, placement, side)
            if rng.random() < self.recipe.clear_share:
                return unhazed(clear)
            hazy = crop(scene.hazy[rng.integers(len(scene.hazy))], placement, side)
            return Sample(hazy, clear, torch.full_like(clear[:1], torch.nan))
        clear = self._toned(clear, scene, rng)
        clear_share = self.recipe.clear_share
        if rng.random() < self.recipe.even_share:
            clear = torch.from_numpy(with_even_ground(clear.numpy(), rng))
            clear_share = self.recipe.drawn_clear_share
        if is_even(clear, self.recipe.even_contrast):
            clear_share = self.recipe.even_clear_share
        return unhazed(clear) if rng.random() < clear_share else self._hazed(clear, rng, side)

    def _ground(self, scene: Scene, rng: Generator, side: int) -> Tensor:
        """A clear crop; one larger than the picture is laid of crops of the same source, side by side."""
        pieces = math.ceil(
            self.recipe.smallest_scale * side / min(scene.clear.info.height, scene.clear.info.width)
        )
        if pieces <= 1:
            return crop(scene.clear, place(scene.clear, rng, side, self.recipe), side)
        same = [other.clear for other in self.scenes if other.source == scene.source and not other.hazy]
        piece = math.ceil(side / pieces)
        chosen = [same[i] for i in rng.integers(len(same), size=pieces**2)]
        laid = torch.stack([crop(it, place(it, rng, piece, self.recipe), piece) for it in chosen])
        whole = laid.unflatten(0, (pieces, pieces)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        return whole[:, :side, :side]

    def _toned(self, clear: Tensor, scene: Scene, rng: Generator) -> Tensor:
        """A clear crop with other blacks, tone and colours, as cameras and their processing give them."""
        recipe = self.recipe
        if scene.source in recipe.false_colours:
            clear = saturate(clear, float(rng.uniform(0, recipe.false_saturation)))
        if rng.random() < recipe.black_share:
            clear = take_off(clear, float(rng.random()) * min(dark_level(clear), recipe.largest_black))
        tone = rng.random()
        if tone < recipe.linear_share:
            return clear ** float(rng.uniform(*recipe.linear_gamma))
        if tone < recipe.linear_share + recipe.dark_share:
            return clear * draw_by_ratio(rng, recipe.darkest_gain, 1)
        return change_look(clear, rng, recipe)

    def _hazed(self, clear: Tensor, rng: Generator, side: int) -> Sample:
        sky = side
        if rng.random() < self.recipe.wide_share:
            sky = round(side * draw_by_ratio(rng, 1, self.recipe.widest_sky))
        top, left = (int(offset) for offset in rng.integers(0, sky - side + 1, 2))
        haze = draw_haze(rng, sky, self.recipe.haze)
        transmission = haze.transmission(Box(top, left, side, side))
        hazed = haze.veil(clear.numpy(), transmission)
        noise = rng.standard_normal(hazed.shape, dtype=np.float32) * np.float32(
            rng.uniform(0, self.recipe.sensor_noise)
        )
        # Real inputs are 8-bit, and what haze pressed into few levels stays pressed.
        hazy = torch.from_numpy((hazed + noise).clip(0, 1) * 255).round() / 255
        return Sample(hazy, clear, torch.from_numpy(transmission[GREEN : GREEN + 1]))


def unhazed(clear: Tensor) -> Sample:
    """A crop without haze."""
    return Sample(clear, clear, torch.ones_like(clear[:1]))


def place(picture: RasterReader, rng: Generator, side: int, recipe: Recipe) -> Placement:
    """A random place, scale and turn for a crop of `side` pixels."""
    height, width = picture.info.height, picture.info.width
    largest = max(recipe.smallest_scale, min(recipe.largest_scale, min(height, width) / side))
    covered = round(side * draw_by_ratio(rng, recipe.smallest_scale, largest))
    return Placement(
        top=int(rng.integers(0, max(1, height - covered + 1))),
        left=int(rng.integers(0, max(1, width - covered + 1))),
        covered=covered,
        turns=int(rng.integers(4)),
        flipped=bool(rng.random() < 0.5),
    )


def crop(picture: RasterReader, placement: Placement, side: int) -> Tensor:
    """A crop [3, side, side] in [0, 1]; where it overhangs a small picture, that is mirrored."""
    top, left, covered, turns, flipped = placement
    rows = np.array(mirrored(top, top + covered, picture.info.height))
    cols = np.array(mirrored(left, left + covered, picture.info.width))
    box = Box(rows.min(), cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1)
    cut = picture.read(box, COLOURS)[:, rows - box.top][:, :, cols - box.left]
    pixels = torch.from_numpy(cut).float()[None] / 255
    if covered != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=covered > side)
    turned = torch.rot90(pixels[0], turns, (1, 2))
    return (turned.flip(2) if flipped else turned).contiguous()  # what follows is faster so


def change_look(image: Tensor, rng: Generator, recipe: Recipe) -> Tensor:
    """Gamma, brightness and saturation changed a little, within [0, 1]."""
    gamma = np.exp(rng.uniform(-recipe.exposure, recipe.exposure))
    gain = np.exp(rng.uniform(-recipe.darkening, recipe.exposure))
    colourful = np.exp(rng.uniform(-recipe.saturation, recipe.saturation))
    image = saturate(image, float(colourful)).clamp(1e-4, 1)
    return (image ** float(gamma) * float(gain)).clamp(0, 1)


def saturate(image: Tensor, factor: float) -> Tensor:
    """The distance of colours from grey times that factor; 0 is grey."""
    grey = image.mean(0, keepdim=True)
    return grey + (image - grey) * factor


def dark_level(image: Tensor) -> float:
    """What nearly every pixel [3, height, width] exceeds in all its colours: its least but for outliers."""
    return float(np.percentile(image.amin(0).numpy(), DARK_PERCENT))


def is_even(image: Tensor, contrast: float) -> bool:
    """Whether brightness [3, height, width] deviates by less than that share of its mean.

    Of means of 4 x 4 pixels, as noise and fine ripples are no contrast.
    """
    brightness = F.avg_pool2d(image.mean(0, keepdim=True), 4)
    return bool(brightness.std() < contrast * brightness.mean())


def take_off(image: Tensor, black: float) -> Tensor:
    """An image in [0, 1] in which that value becomes black, and white stays white."""
    return ((image - black) / (1 - black)).clamp(0, 1)
