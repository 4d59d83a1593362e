"""Skies at four levels of density: which there are, and how one is drawn and fitted to its level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from dehazexl_cli.grid import Box
from dehazexl_cli.training.haze import Haze, Kind, Noise

Range = tuple[float, float]

SAMPLES = 160  # points along the longer side at which a sky is measured before it is used
FINEST = 6  # pixels, about, between the lattice points of a sky's finest octave of noise
MOST_OCTAVES = 12  # enough for FINEST in a scene of 8000 pixels
CLOSED = 0.1  # where less of the ground's light arrives, its colours are lost and its shapes nearly so


@dataclass(frozen=True)
class HazePreset:
    """A family of skies; one number of each range is drawn, evenly."""

    name: str
    kind: Kind
    contrast: Range
    scale: Range  # width of the coarsest features, as a share of the scene's longer side
    exponent: Range
    airlight: Range  # of green
    warmth: Range  # airlight of red above that of green, and of blue below it


BLUISH_VEIL = HazePreset(
    name="bluish veil",
    kind="veil",
    contrast=(0.05, 0.3),
    scale=(0.3, 1.5),
    exponent=(0.8, 1.5),
    airlight=(0.68, 0.88),
    warmth=(-0.05, -0.01),
)
GREY_VEIL = HazePreset(
    name="grey veil",
    kind="field",
    contrast=(0.0, 0.4),
    scale=(0.3, 1.2),
    exponent=(-0.1, 0.1),
    airlight=(0.7, 0.9),
    warmth=(-0.015, 0.01),
)
SMOKE = HazePreset(
    name="smoke",
    kind="field",
    contrast=(0.4, 0.8),
    scale=(0.25, 0.8),
    exponent=(0.5, 1.1),
    airlight=(0.5, 0.7),
    warmth=(0.015, 0.05),
)
CLOUD = HazePreset(
    name="cloud",
    kind="cloud",
    contrast=(0.0, 0.5),
    scale=(0.15, 0.6),
    exponent=(0.0, 0.1),
    airlight=(0.92, 0.98),
    warmth=(-0.01, 0.005),
)
WHITE_FIELD = HazePreset(
    name="white field",
    kind="field",
    contrast=(0.5, 0.9),
    scale=(0.3, 1.0),
    exponent=(0.0, 0.2),
    airlight=(0.92, 0.98),
    warmth=(-0.01, 0.005),
)


@dataclass(frozen=True)
class Level:
    """How dense haze is, and of which kinds."""

    transmission: Range  # share of the ground's green light that arrives, on average over the scene
    limit: Range  # greatest optical depth in green
    weathers: tuple[tuple[HazePreset, float], ...]  # with their probabilities
    closed: float = 0.0  # least share of the scene that is to lie below CLOSED


# Real thin haze is grey as often as bluish, so veils of both kinds lead in like shares up to where a scene
# keeps half its signal. Models trained on veils alone fail under dense, white, uneven haze; level 4 is that,
# and parts of it hide the ground altogether. The gaps between the ranges keep levels apart in what they are
# to measure.
LEVELS: Mapping[int, Level] = MappingProxyType(
    {
        1: Level((0.76, 0.9), (1.5, 3.0), ((BLUISH_VEIL, 0.4), (GREY_VEIL, 0.4), (SMOKE, 0.2))),
        2: Level((0.52, 0.7), (1.5, 3.0), ((BLUISH_VEIL, 0.4), (GREY_VEIL, 0.4), (SMOKE, 0.2))),
        3: Level(
            (0.32, 0.48), (2.0, 3.0), ((BLUISH_VEIL, 0.25), (GREY_VEIL, 0.35), (SMOKE, 0.2), (CLOUD, 0.2))
        ),
        4: Level((0.12, 0.28), (3.0, 4.5), ((CLOUD, 0.5), (WHITE_FIELD, 0.5)), closed=0.2),
    }
)


class Origin(NamedTuple):
    """What all random numbers of a hazy image follow from."""

    seed: int
    name: str  # of the clear image's file, without folder and suffix
    level: int

    def generator(self, purpose: str, *place: int) -> Generator:
        """A random stream for each purpose, and for each place where one purpose has several."""
        words = int.from_bytes(sha256(f"{self.name}/{purpose}".encode()).digest()[:16], "big")
        return np.random.default_rng((self.seed, self.level, words, *place))


def draw_sky(origin: Origin, height: int, width: int) -> tuple[str, Haze]:
    """Name of the weather, and the haze, over a scene of that many pixels."""
    level = LEVELS[origin.level]
    rng = origin.generator("sky")
    weathers, shares = zip(*level.weathers, strict=True)
    weather: HazePreset = weathers[rng.choice(len(weathers), p=shares)]
    side = max(height, width)
    period = side * float(np.exp(rng.uniform(*np.log(weather.scale))))
    octaves = count_octaves(period)
    brightness, warmth = rng.uniform(*weather.airlight), rng.uniform(*weather.warmth)
    slope, angle = rng.uniform(0, 0.6) / side * 1000, rng.uniform(0, 2 * np.pi)
    haze = Haze(
        kind=weather.kind,
        depth=1.0,
        contrast=float(rng.uniform(*weather.contrast)),
        noise=draw_noise(origin, period, float(rng.uniform(0.4, 0.65)), octaves),
        gradient=(float(slope * np.sin(angle)), float(slope * np.cos(angle))),
        exponent=float(rng.uniform(*weather.exponent)),
        airlight=tuple(np.clip(brightness + warmth * np.array([1, 0, -1]), 0.3, 1.0).tolist()),
        limit=float(rng.uniform(*level.limit)),
    )
    wanted, gaps = rng.uniform(*level.transmission), rng.uniform(0.4, 0.9)
    if weather.kind == "cloud":
        haze = with_gaps(haze, wanted * gaps, height, width)
    return weather.name, as_dense_as(haze, wanted, level.closed, height, width)


def count_octaves(period: float) -> int:
    """Octaves of noise from features `period` pixels wide down to FINEST, about."""
    return int(np.clip(1 + round(np.log2(period / FINEST)), 2, MOST_OCTAVES))


def draw_noise(origin: Origin, period: float, decay: float, octaves: int, stretch: float = 1.0) -> Noise:
    """The noise of an origin's sky.

    In double precision: a matrix product's last bits depend on how many rows it has, and a hazy image is
    not to depend on how many rows are made at a time.
    """
    noise = Noise.draw(origin.generator("noise"), period, decay, octaves, stretch)
    return dataclasses.replace(noise, lattices=noise.lattices.astype(np.float64))


def with_gaps(haze: Haze, share: float, height: int, width: int) -> Haze:
    """The clouds so far apart that about that share of the scene lies between them."""
    thin, box = sampled(haze, height, width)
    return dataclasses.replace(haze, threshold=float(np.quantile(thin.noise.at(box), share)))


def sampled(haze: Haze, height: int, width: int) -> tuple[Haze, Box]:
    """The haze of a scene reduced to SAMPLES points along its longer side, and that scene."""
    step = max(1, max(height, width) // SAMPLES)
    return haze.thinned(step), Box(0, 0, -(-height // step), -(-width // step))


def as_dense_as(haze: Haze, transmission: float, closed: float, height: int, width: int) -> Haze:
    """The haze at the depth at which that share of green light arrives on average over the scene.

    Deeper, if else less than the share `closed` of the scene lay below CLOSED. The whole scene counts, also
    where there is no ground, so that a sky does not depend on pixels.
    """
    thin, box = sampled(dataclasses.replace(haze, depth=1.0, limit=float("inf")), height, width)
    shape = thin.optical_depth(box)

    def dense_enough(depth: float) -> bool:
        shares = np.exp(-np.minimum(depth * shape, haze.limit))
        return bool(shares.mean() <= transmission and (shares < CLOSED).mean() >= closed)

    low, high = 1e-3, 1e3
    for _ in range(40):  # halvings of the ratio: 1e6 ^ (2 ^ -40) is 1 to eleven digits
        middle = (low * high) ** 0.5
        low, high = (low, middle) if dense_enough(middle) else (middle, high)
    return dataclasses.replace(haze, depth=high)
