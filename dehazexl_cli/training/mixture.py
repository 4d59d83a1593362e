"""Skies that training samples lie under: the kinds that were measured, in shares that were chosen.

Haze of benchmarks and real thin cloud is grey, often even, or uneven down to a few pixels; that of clear air
is bluish and adds more light than it takes. Skies by the textbook alone teach none of them well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from dehazexl_cli.training.haze import WAVELENGTHS, Haze, Kind, Noise
from dehazexl_cli.training.haze_presets import LEVELS, Origin, count_octaves, draw_sky, sampled, with_gaps

LEVEL_ODDS = (0.1, 0.15, 0.15, 0.6)  # of the LEVELS, the densest last
LEAST_AIRLIGHT = 0.3  # an aerosol adds that much of the light it takes at least; less would be soot


@dataclass(frozen=True)
class Shares:
    """Probabilities of the kinds of haze; their sum is 1."""

    even: float = 0.26  # grey, the same everywhere
    uneven: float = 0.31  # white-grey fields and clouds with fine detail
    aerosol: float = 0.13  # the bluish light of clear air
    level: float = 0.27  # as `dehazexl synth` makes it
    broad: float = 0.03  # `Haze.draw`: anything between


DEFAULT_SHARES = Shares()


def draw_haze(rng: Generator, side: int, shares: Shares = DEFAULT_SHARES) -> Haze:
    """Draw the haze over one training sample of `side` pixels."""
    odds = asdict(shares)
    kind = list(odds)[rng.choice(len(odds), p=list(odds.values()))]
    return KINDS[kind](rng, side)


def draw_even(rng: Generator, side: int) -> Haze:
    """Draw a grey veil, the same everywhere; every second is brighter the thicker it is."""
    airlight = rng.uniform(0.4, 1.0) + rng.uniform(-0.01, 0.01, 3)
    return Haze(
        kind="veil",
        depth=float(-np.log(rng.uniform(0.2, 0.9))),
        contrast=0.0,
        noise=Noise.draw(rng, side, 0.5, 1),  # unseen
        gradient=(0.0, 0.0),
        exponent=0.0,
        airlight=tuple(np.minimum(airlight, 1.0).tolist()),
        limit=3.0,
        veil_power=draw_veil_power(rng, 1 / 2),
    )


def draw_uneven(rng: Generator, side: int) -> Haze:
    """Draw white-grey haze, thin to dense, its features as wide as the scene down to a few pixels."""
    kind: Kind = "cloud" if rng.random() < 0.4 else "field"
    period, stretch = draw_by_ratio(rng, 0.1 * side, 1.2 * side), draw_stretch(rng)
    octaves = count_octaves(period * min(1.0, stretch))
    airlight = rng.uniform(0.82, 1.0) + rng.uniform(-0.01, 0.01, 3)
    haze = Haze(
        kind=kind,
        depth=1.0,
        contrast=float(rng.uniform(0.25, 1.0)),
        noise=Noise.draw(rng, period, float(rng.uniform(0.4, 0.75)), octaves, stretch),
        gradient=draw_gradient(rng, 0.6 / side),
        exponent=float(np.clip(rng.normal(0, 0.05), -0.1, 0.1)),
        airlight=tuple(np.minimum(airlight, 1.0).tolist()),
        limit=float(rng.uniform(2.5, 4.5)),
        veil_power=draw_veil_power(rng, 1 / 3),
    )
    if kind == "cloud":
        haze = with_gaps(haze, rng.uniform(0.2, 0.8), side, side)
    return with_mean_depth(haze, draw_by_ratio(rng, 0.15, 2.0), side)


def draw_aerosol(rng: Generator, side: int) -> Haze:
    """Draw the haze of clear air: it adds bluish light, wavelength^-p of it, and takes hardly any away."""
    offset = draw_by_ratio(rng, 0.03, 0.25)  # light added in green
    thickest = min(0.5, -np.log(1 - offset / LEAST_AIRLIGHT))
    depth, exponent = draw_by_ratio(rng, 0.03, thickest), float(rng.uniform(0.6, 2.0))
    power = float(rng.uniform(0.2, 0.8))
    wavelengths = np.array(WAVELENGTHS) / WAVELENGTHS[1]
    # For thin haze that is an airlight that goes with wavelength^(exponent * power - p).
    thickness = 1 - np.exp(-depth * wavelengths**-exponent)
    airlight = offset * wavelengths ** -rng.uniform(1.3, 2.4) / thickness**power
    return Haze(
        kind="veil",
        depth=depth,
        contrast=float(rng.uniform(0.0, 0.1)),
        noise=Noise.draw(rng, side * float(rng.uniform(0.5, 1.5)), 0.5, 3),
        gradient=draw_gradient(rng, 0.1 / side),
        exponent=exponent,
        airlight=tuple(airlight.tolist()),
        limit=3.0,
        veil_power=power,
    )


def draw_of_level(rng: Generator, side: int) -> Haze:
    """Draw a sky of one of the four LEVELS."""
    level = rng.choice(list(LEVELS), p=LEVEL_ODDS)
    haze = draw_sky(Origin(int(rng.integers(2**31)), "", int(level)), side, side)[1]
    # Its numbers are in double precision for the sake of scenes that are hazed by rows.
    return replace(haze, noise=replace(haze.noise, lattices=haze.noise.lattices.astype(np.float32)))


KINDS: Mapping[str, Callable[[Generator, int], Haze]] = MappingProxyType(
    {
        "even": draw_even,
        "uneven": draw_uneven,
        "aerosol": draw_aerosol,
        "level": draw_of_level,
        "broad": Haze.draw,
    }
)


def draw_by_ratio(rng: Generator, low: float, high: float) -> float:
    """Draw a number between two, log-uniformly."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_veil_power(rng: Generator, share: float) -> float:
    """Draw a power from 1 to 2 with that probability, else give 1."""
    return float(rng.uniform(1.0, 2.0)) if rng.random() < share else 1.0


def draw_stretch(rng: Generator) -> float:
    """Draw how many times as wide as high features are: in a quarter of cases 2 to 6, or the inverse."""
    stretch = draw_by_ratio(rng, 2.0, 6.0) ** float(rng.choice((-1, 1)))
    return stretch if rng.random() < 0.25 else 1.0


def draw_gradient(rng: Generator, most: float) -> tuple[float, float]:
    """Draw a change of depth in any direction by up to that share per pixel."""
    slope, angle = 1000 * rng.uniform(0, most), rng.uniform(0, 2 * np.pi)
    return float(slope * np.sin(angle)), float(slope * np.cos(angle))


def with_mean_depth(haze: Haze, depth: float, side: int) -> Haze:
    """Give the haze that mean optical depth over the scene, but for what its limit cuts off."""
    thin, box = sampled(replace(haze, depth=1.0, limit=float("inf")), side, side)
    return replace(haze, depth=depth / float(thin.optical_depth(box).mean()))
