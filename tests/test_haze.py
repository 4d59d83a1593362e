"""Haze is what the scattering model says, the same for every window of a scene, and repeatable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dehazexl_cli.grid import Box
from dehazexl_cli.training.haze import Haze, Noise

KINDS = ["veil", "field", "cloud"]


def haze(seed: int = 0, **changes: object) -> Haze:
    return dataclasses.replace(Haze.draw(np.random.default_rng(seed), 512), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_hazed_as_the_whole_is(kind: str) -> None:
    sky = haze(kind=kind)
    whole = sky.optical_depth(Box(0, 0, 300, 400))
    part = sky.optical_depth(Box(120, 250, 70, 90))
    assert np.allclose(whole[120:190, 250:340], part, atol=1e-5)


def test_equal_seeds_give_equal_skies_and_others_do_not() -> None:
    clear = np.full((3, 64, 64), 0.3, np.float32)
    box = Box(0, 0, 64, 64)
    assert np.array_equal(haze(1).apply(clear, box), haze(1).apply(clear, box))
    assert not np.array_equal(haze(1).apply(clear, box), haze(2).apply(clear, box))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_lie_between_ground_and_airlight_by_transmission(kind: str) -> None:
    sky = haze(3, kind=kind, exponent=0.0, airlight=(0.9, 0.8, 0.7))
    box = Box(0, 0, 96, 96)
    clear = np.random.default_rng(0).random((3, 96, 96), dtype=np.float32)
    t = np.exp(-sky.optical_depth(box))
    expected = clear * t + np.array([0.9, 0.8, 0.7])[:, None, None] * (1 - t)
    assert np.allclose(sky.apply(clear, box), expected, atol=1e-6)
    assert t.min() > np.exp(-sky.limit) - 1e-6


def test_short_waves_are_scattered_more() -> None:
    sky = haze(4, kind="veil", exponent=1.5, airlight=(1.0, 1.0, 1.0), depth=0.5)
    red, green, blue = sky.apply(np.zeros((3, 32, 32), np.float32), Box(0, 0, 32, 32)).mean((1, 2))
    assert red < green < blue


@pytest.mark.parametrize(("power", "share"), [(1.0, 0.5), (2.0, 0.25), (0.5, 0.5**0.5)])
def test_the_veil_grows_with_a_power_of_thickness(power: float, share: float) -> None:
    sky = haze(contrast=0.0, gradient=(0.0, 0.0), exponent=0.0, airlight=(0.8, 0.6, 0.4), kind="veil")
    sky = dataclasses.replace(sky, depth=float(np.log(2)), veil_power=power)
    hazy = sky.apply(np.full((3, 8, 8), 0.5, np.float32), Box(0, 0, 8, 8))
    for values, airlight in zip(hazy, sky.airlight, strict=True):
        assert np.allclose(values, 0.25 + airlight * share, atol=1e-6)
    assert np.array_equal(
        sky.veil(hazy, np.ones_like(hazy)), hazy
    )  # nothing without haze, whatever the power


def test_airlight_above_one_is_added_as_it_is() -> None:
    sky = haze(airlight=(0.5, 1.0, 3.0), kind="veil", exponent=0.0, veil_power=0.5)
    red, _, blue = sky.apply(np.zeros((3, 8, 8), np.float32), Box(0, 0, 8, 8))
    assert np.allclose(blue, 6 * red)


def test_skies_range_from_hardly_visible_to_almost_closed() -> None:
    rng = np.random.default_rng(0)
    shares = [float(np.exp(-Haze.draw(rng, 256).optical_depth(Box(0, 0, 64, 64))).mean()) for _ in range(300)]
    assert min(shares) < 0.2
    assert max(shares) > 0.85
    assert 0.4 < np.mean(shares) < 0.75


def test_stretched_noise_is_wider_than_high() -> None:
    noise = Noise.draw(np.random.default_rng(0), 40, 0.5, 3, stretch=4.0)
    values = noise.at(Box(0, 0, 400, 400))
    assert np.diff(values, axis=0).std() == pytest.approx(4 * np.diff(values, axis=1).std(), rel=0.2)
    even = dataclasses.replace(noise, stretch=1.0).at(Box(0, 0, 400, 100))
    assert np.allclose(values[:, ::4], even, atol=1e-5)


def test_noise_has_unit_scale_and_no_steps() -> None:
    noise = Noise.draw(np.random.default_rng(0), 40, 0.5, 3).at(Box(-500, 300, 1500, 1500))
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1, abs=0.15)
    assert abs(np.diff(noise, axis=0)).max() < 0.5
