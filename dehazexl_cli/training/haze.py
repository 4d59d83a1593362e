"""Haze by the scattering model: I = J·t + A·(1-t)^q, t = exp(-depth) different in every place and channel.

The textbook has q = 1. Light that crosses a layer twice makes thick haze brighter than that against thin haze
(q from 1 to 2); the clear air's own aerosol adds light where it takes hardly any away (q below 1).

`Haze.draw` draws the parameters of one sky; `Haze.apply` hazes any box of a scene, so that scenes of any
size can be hazed by windows. Two draws from equal generators give equal haze.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dehazexl_cli.grid import Box

Floats = NDArray[np.floating[Any]]
Kind = Literal["veil", "field", "cloud"]

WAVELENGTHS = (0.65, 0.55, 0.46)  # red, green, blue, micrometres
LATTICE = 64  # random numbers per side of a noise octave; beyond them it repeats


@dataclass(frozen=True)
class Noise:
    """Smooth noise of several octaves over the plane: mean about 0, standard deviation about 1."""

    lattices: Floats  # [octaves, LATTICE, LATTICE]
    period: float  # pixels down between lattice points of the coarsest octave
    decay: float  # how much weaker each octave, of half the period, is than the one before
    stretch: float = 1.0  # how many times as wide as high its features are: streaks

    @classmethod
    def draw(cls, rng: Generator, period: float, decay: float, octaves: int, stretch: float = 1.0) -> Noise:
        """Noise whose coarsest features are about `period` pixels high."""
        return cls(rng.standard_normal((octaves, LATTICE, LATTICE), dtype=np.float32), period, decay, stretch)

    def at(self, box: Box) -> Floats:
        """Values [height, width] in a box; any box, also outside the scene."""
        total = np.zeros((box.height, box.width), np.float32)
        weights = self.decay ** np.arange(len(self.lattices))
        for octave, (lattice, weight) in enumerate(zip(self.lattices, weights, strict=True)):
            period = self.period / 2**octave
            down = spline_weights(box.top, box.height, period)
            right = spline_weights(box.left, box.width, period * self.stretch)
            total += np.float32(weight) * (down @ lattice @ right.T)
        # A cubic B-spline of independent numbers has 0.479 of their standard deviation on each axis.
        return total / np.float32(0.479 * np.sqrt((weights**2).sum()))


def spline_weights(start: int, length: int, period: float) -> Floats:
    """Cubic B-spline weights [length, LATTICE] of the lattice points around each pixel of an axis."""
    place = (start + np.arange(length)) / period
    cell = np.floor(place).astype(np.int64)
    f = (place - cell)[:, None]
    cubic = np.concatenate(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1
    )
    weights = np.zeros((length, LATTICE), np.float32)
    points = (cell[:, None] + np.arange(-1, 3)) % LATTICE
    np.put_along_axis(weights, points, (cubic / 6).astype(np.float32), axis=1)
    return weights


@dataclass(frozen=True)
class Haze:
    """One sky over one scene."""

    kind: Kind  # an almost even veil, an uneven field, or clouds with clear ground between
    depth: float  # typical optical depth in green light; 0 is no haze, 1 lets 37 % of the ground through
    contrast: float  # how unevenly it lies: 0 is even
    noise: Noise
    gradient: tuple[float, float]  # change of depth, as a share, per 1000 pixels down and to the right
    exponent: float  # depth goes with wavelength^-exponent: 0 grey cloud, 1.5 blue haze
    airlight: tuple[float, float, float]  # colour of haze without ground, 0 to 1; see `veil_power`
    limit: float  # no place is deeper than this
    threshold: float = 0.3  # clouds close where the noise exceeds this; the lower, the less ground between
    # Haze adds airlight * (1 - transmission) ** veil_power. Below 1 it is a law for thin haze alone: then the
    # airlight is a factor that may exceed 1, and whoever stores the sum clips it.
    veil_power: float = 1.0

    @classmethod
    def draw(cls, rng: Generator, side: int) -> Haze:
        """A sky as real scenes of `side` pixels have them, from hardly visible to almost closed."""
        kind: Kind = ("veil", "field", "cloud")[rng.choice(3, p=(0.4, 0.4, 0.2))]
        depth = float(np.exp(rng.uniform(np.log(0.12), np.log(2.2))))
        exponent = float(rng.uniform(0, 1.5) if kind != "cloud" else rng.uniform(0, 0.5))
        level = float(rng.uniform(0.55, 1.0) if rng.random() < 0.35 else rng.uniform(0.75, 0.98))
        tint = rng.normal(0, 0.02, 3) + np.array([-0.02, 0.0, 0.02]) * exponent * rng.uniform(0, 1.5)
        slope = rng.uniform(0, 0.8) / side * 1000
        angle = rng.uniform(0, 2 * np.pi)
        return cls(
            kind=kind,
            depth=depth * (1.3 if kind == "cloud" else 1.0),
            contrast=float(rng.uniform(0.0, 0.25) if kind == "veil" else rng.uniform(0.3, 0.9)),
            noise=Noise.draw(rng, side * float(np.exp(rng.uniform(-1.2, 0.4))), rng.uniform(0.4, 0.7), 5),
            gradient=(float(slope * np.sin(angle)), float(slope * np.cos(angle))),
            exponent=exponent,
            airlight=tuple(np.clip(level + tint, 0.3, 1.0).tolist()),
            limit=float(rng.uniform(1.5, 3.0)),
        )

    def optical_depth(self, box: Box) -> Floats:
        """Optical depth in green light [height, width] over a box of the scene."""
        shape = self._shape(box)
        down = (box.top + np.arange(box.height, dtype=np.float32)) / 1000 * self.gradient[0]
        right = (box.left + np.arange(box.width, dtype=np.float32)) / 1000 * self.gradient[1]
        slope = np.maximum(0.1, 1 + down[:, None] + right[None, :])
        return np.minimum(np.float32(self.depth) * shape * slope, np.float32(self.limit)).astype(np.float32)

    def _shape(self, box: Box) -> Floats:
        """Optical depth without gradient and limit, as a share of the typical one."""
        if self.kind == "cloud":
            steepness = 2 + 6 * np.float32(self.contrast)
            return 1 / (1 + np.exp(-(self.noise.at(box) - np.float32(self.threshold)) * steepness))
        if self.contrast == 0:  # no noise would show
            return np.ones((box.height, box.width), np.float32)
        contrast = np.float32(self.contrast)
        return np.exp(contrast * self.noise.at(box) - contrast**2 / 2)

    def transmission(self, box: Box) -> Floats:
        """Share of the ground's red, green and blue light that arrives, [3, height, width] over a box."""
        ratios = (np.array(WAVELENGTHS, np.float32) / WAVELENGTHS[1]) ** np.float32(-self.exponent)
        share: Floats = np.exp(-self.optical_depth(box)[None] * ratios[:, None, None])
        return share

    def veil(self, clear: Floats, transmission: Floats) -> Floats:
        """Clear pixels [3, height, width] in [0, 1] as seen with that transmission, of the same shape."""
        airlight = np.array(self.airlight, np.float32)[:, None, None]
        thickness = 1 - transmission
        if self.veil_power != 1:
            thickness **= np.float32(self.veil_power)
        hazy: Any = clear * transmission + airlight * thickness
        return hazy.astype(np.float32, copy=False)

    def apply(self, clear: Floats, box: Box) -> Floats:
        """Haze over the clear pixels [3, height, width] in [0, 1] of a box of the scene."""
        return self.veil(clear, self.transmission(box))

    def thinned(self, step: int) -> Haze:
        """This sky over a scene of which only every `step`-th row and column is kept."""
        down, right = self.gradient
        noise = replace(self.noise, period=self.noise.period / step)
        return replace(self, noise=noise, gradient=(down * step, right * step))
