"""Training skies come in the shares, with the colours and of the evenness that were measured."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.random import default_rng

from dehazexl_cli.grid import Box
from dehazexl_cli.training import mixture
from dehazexl_cli.training.haze import WAVELENGTHS, Haze
from dehazexl_cli.training.mixture import DEFAULT_SHARES, KINDS, Shares, draw_haze

SIDE = 128
SCENE = Box(0, 0, SIDE, SIDE)
BLACK = np.zeros((3, SIDE, SIDE), np.float32)


def skies(kind: str, count: int = 150) -> list[Haze]:
    return [KINDS[kind](default_rng(seed), SIDE) for seed in range(count)]


def added(haze: Haze) -> np.ndarray:
    """The light that haze adds in red, green and blue."""
    return haze.apply(BLACK, SCENE).mean((1, 2))


def test_kinds_are_drawn_in_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "KINDS", {kind: lambda rng, side, kind=kind: kind for kind in KINDS})
    rng = default_rng(0)
    drawn = Counter(str(draw_haze(rng, SIDE)) for _ in range(20_000))
    shares = {"even": 0.26, "uneven": 0.31, "aerosol": 0.13, "level": 0.27, "broad": 0.03}
    assert drawn.keys() == shares.keys()
    for kind, share in shares.items():
        assert drawn[kind] / 20_000 == pytest.approx(share, abs=0.015)


def test_other_shares_can_be_asked_for() -> None:
    rng = default_rng(0)
    assert all(draw_haze(rng, SIDE, Shares(1, 0, 0, 0, 0)).contrast == 0 for _ in range(20))
    assert sum(vars(DEFAULT_SHARES).values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_skies_and_others_do_not(kind: str) -> None:
    def hazy(seed: int) -> np.ndarray:
        return KINDS[kind](default_rng(seed), SIDE).apply(BLACK, SCENE)

    assert np.array_equal(hazy(1), hazy(1))
    assert not np.array_equal(hazy(1), hazy(2))
    assert hazy(1).dtype == np.float32


def test_an_even_veil_is_the_same_everywhere_and_in_every_colour() -> None:
    drawn = skies("even")
    for haze in drawn:
        shares = haze.transmission(SCENE)
        assert np.ptp(shares) == 0
        assert 0.2 <= shares[0, 0, 0] <= 0.9
        assert np.ptp(haze.apply(BLACK, SCENE), axis=(1, 2)).max() == 0
        assert np.ptp(haze.airlight) <= 0.02
        assert min(haze.airlight) >= 0.39 and max(haze.airlight) <= 1
    powers = np.array([haze.veil_power for haze in drawn])
    assert ((powers >= 1) & (powers <= 2)).all()
    assert (powers == 1).mean() == pytest.approx(0.5, abs=0.1)
    thin = [float(haze.transmission(SCENE).mean()) for haze in drawn]
    assert np.mean(thin) == pytest.approx(0.55, abs=0.05)


def test_uneven_haze_is_white_grey_from_thin_to_dense() -> None:
    drawn = skies("uneven")
    depths = np.array([haze.optical_depth(SCENE).mean() for haze in drawn])
    assert 0.1 < depths.min() < 0.25 and 1.5 < depths.max() < 2.1
    assert np.median(depths) == pytest.approx(0.55, abs=0.15)
    for haze in drawn:
        assert -0.1 <= haze.exponent <= 0.1
        assert min(haze.airlight) >= 0.81 and max(haze.airlight) <= 1
        assert np.ptp(haze.airlight) <= 0.02
        depth = haze.optical_depth(SCENE)
        assert depth.std() > 0.1 * depth.mean()
    assert np.mean([haze.veil_power > 1 for haze in drawn]) == pytest.approx(1 / 3, abs=0.1)


def test_uneven_haze_has_features_from_the_size_of_the_scene_down_to_six_pixels() -> None:
    side = 512
    for seed in range(100):
        noise = KINDS["uneven"](default_rng(seed), side).noise
        coarsest, finest = noise.period, noise.period / 2 ** (len(noise.lattices) - 1)
        assert side / 10 <= coarsest <= 1.2 * side
        assert 6 / 1.5 < finest * min(1, noise.stretch) < 6 * 1.5


def test_ground_shows_between_the_clouds() -> None:
    clouds = [haze for haze in skies("uneven") if haze.kind == "cloud"]
    assert 0.25 < len(clouds) / 150 < 0.55
    for haze in clouds:
        depth = haze.optical_depth(SCENE)
        assert (depth < depth.max() / 2).mean() > 0.1


def test_streaks_are_long_either_way() -> None:
    ratios = []
    for haze in skies("uneven"):
        down, right = (np.abs(np.diff(haze.noise.at(SCENE), axis=axis)).mean() for axis in (0, 1))
        ratios.append((haze.noise.stretch, down / right))
    assert {np.sign(np.log(stretch)) for stretch, _ in ratios} == {-1, 0, 1}
    assert all(ratio > 1.3 for stretch, ratio in ratios if stretch >= 2)
    assert all(ratio < 1 / 1.3 for stretch, ratio in ratios if stretch <= 0.5)


def test_an_aerosol_adds_bluish_light_and_takes_hardly_any() -> None:
    wavelengths = np.array(WAVELENGTHS) / WAVELENGTHS[1]
    for haze in skies("aerosol"):
        red, green, blue = added(haze)
        assert red < green < blue
        assert 0.02 < green < 0.3
        power = -np.log((blue / green, red / green)) / np.log(wavelengths[[2, 0]])
        assert (power > 1.2).all() and (power < 2.5).all()
        assert power[0] == pytest.approx(power[1], abs=0.1)  # one law for all colours
        assert haze.transmission(SCENE)[1].mean() > np.exp(-0.55)
        assert 0.6 <= haze.exponent <= 2
        assert haze.veil_power < 1
        depth = haze.optical_depth(SCENE)
        assert depth.std() < 0.2 * depth.mean()


def test_an_aerosol_s_offset_is_not_soot() -> None:
    for haze in skies("aerosol"):
        lost = 1 - haze.transmission(SCENE)[1].mean()
        assert added(haze)[1] > 0.25 * lost


def test_thin_aerosol_has_the_airlight_of_its_power_law() -> None:
    wavelengths = np.array(WAVELENGTHS) / WAVELENGTHS[1]
    thin = [haze for haze in skies("aerosol") if haze.depth < 0.05]
    assert thin
    for haze in thin:
        p = -np.log(haze.airlight[2] / haze.airlight[1]) / np.log(wavelengths[2])
        red = haze.airlight[1] * wavelengths[0] ** -p
        assert haze.airlight[0] == pytest.approx(red, rel=0.02)


def test_skies_of_levels_are_as_synth_s_but_for_precision() -> None:
    assert {haze.noise.lattices.dtype for haze in skies("level", 10)} == {np.dtype(np.float32)}
