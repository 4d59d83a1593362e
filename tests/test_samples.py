"""Training samples: pairs in range, looks as cameras and satellites give them, skies over them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.training.data import Recipe, Sampler, Scene, dark_level
from dehazexl_cli.training.mixture import Shares


def scenes() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [
        Scene(f"{place}__{i}", place, ArrayReader(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)))
        for place in "ab"
        for i in range(3)
    ]


def test_samples_depend_on_seed_and_step_alone() -> None:
    first, again = (Sampler(scenes(), Recipe(), seed=1) for _ in range(2))
    first.batch(1, 2, 32)
    for one, other in zip(first.batch(5, 3, 32), again.batch(5, 3, 32), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.batch(5, 3, 32)[0], first.batch(6, 3, 32)[0])


def test_samples_are_pairs_of_hazy_and_clear_in_range() -> None:
    recipe = Recipe(clear_share=0.3, even_share=0.0, even_contrast=0.0)
    hazy, clear, _ = Sampler(scenes(), recipe, seed=1).batch(0, 24, 48)
    for images in (hazy, clear):
        assert images.shape == (24, 3, 48, 48)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
    equal = [torch.equal(h, c) for h, c in zip(hazy, clear, strict=True)]
    assert 2 <= sum(equal) <= 14
    # From pixel to pixel, as uneven haze adds contrast of its own over large distances.
    contrast = torch.stack([h.diff().std() / c.diff().std() for h, c in zip(hazy, clear, strict=True)])
    assert contrast.max() < 1.1
    assert contrast.mean() < 0.9
    assert contrast.min() < 0.6


def test_a_crop_larger_than_the_pictures_shows_many_of_the_same_source() -> None:
    flat = [
        Scene(f"{source}__{grey}", source, ArrayReader(np.full((64, 90, 3), grey, np.uint8)))
        for source, greys in (("a", (10, 40, 70, 100)), ("b", (150, 180, 210, 240)))
        for grey in greys
    ]
    for number in range(6):
        clear = Sampler(flat, PLAIN, seed=number).batch(0, 1, 300)[1][0]
        assert clear.shape == (3, 300, 300)
        greys = set((clear * 255).round().unique().int().tolist())
        assert len(greys) > 2
        assert greys <= {10, 40, 70, 100} or greys <= {150, 180, 210, 240}
        # Five pictures a side, in squares of 60 pixels.
        assert (clear[:, :60, :60] == clear[:, :1, :1]).all()


def test_some_samples_have_no_colour_neither_hazy_nor_clear() -> None:
    hazy, clear, _ = Sampler(scenes(), Recipe(grey_share=0.5, clear_share=0.0), seed=1).batch(0, 24, 32)
    grey = [bool(pair.std(1).max() < 1e-6) for pair in torch.stack([hazy, clear], dim=1)]
    assert 6 <= sum(grey) <= 18
    assert all(h.std(0).max() > 1e-3 for h, is_grey in zip(hazy, grey, strict=True) if not is_grey)


PLAIN = Recipe(
    clear_share=1.0,
    even_share=0.0,
    black_share=0.0,
    linear_share=0.0,
    dark_share=0.0,
    grey_share=0.0,
    exposure=0.0,
    darkening=0.0,
    saturation=0.0,
    largest_scale=1.0,
    smallest_scale=1.0,
)


def crops(pixels: np.ndarray, recipe: Recipe, source: str = "a", count: int = 40) -> Tensor:  # type: ignore[type-arg]
    """Clear crops of a scene of 64 by 64 pixels, all of it but for turns."""
    scene = Scene("a", source, ArrayReader(pixels))
    return Sampler([scene], recipe, seed=0).batch(0, count, 64)[1]


def lifted(black: int) -> np.ndarray:  # type: ignore[type-arg]
    """Random ground that is nowhere darker than this, nor lighter than white."""
    pixels = np.random.default_rng(0).integers(black, 256, (64, 64, 3), dtype=np.uint8)
    pixels[0] = 255
    return pixels


def test_a_random_share_of_lifted_blacks_is_taken_off_and_white_stays_white() -> None:
    clear = crops(lifted(10), dataclasses.replace(PLAIN, black_share=1.0), count=60)
    levels = clear.amin(1).flatten(1).min(1).values * 255
    assert 0 <= levels.min() < 2 and 8 < levels.max() <= 10.01
    assert torch.equal(clear.amax((1, 2, 3)), torch.ones(60))
    untouched = crops(lifted(10), dataclasses.replace(PLAIN, black_share=0.3), count=200).amin((1, 2, 3))
    assert (untouched * 255 > 9.99).float().mean().item() == pytest.approx(0.7, abs=0.1)


def test_no_more_than_a_little_is_taken_for_lifted_black() -> None:
    clear = crops(lifted(100), dataclasses.replace(PLAIN, black_share=1.0)).amin((1, 2, 3))
    least = (100 - 12) / (255 - 12)  # where the most was taken off
    assert least - 1e-5 <= clear.min() < least + 0.01
    assert clear.max() < 100 / 255


def test_some_dead_pixels_do_not_hide_lifted_blacks() -> None:
    image = torch.full((3, 100, 100), 0.3)
    image[:, 0, :20] = 0
    assert dark_level(image) == pytest.approx(0.3)


def test_crops_are_shown_in_linear_tone_or_dark_range_as_often_as_asked() -> None:
    pixels = np.full((64, 64, 3), 128, np.uint8)
    linear = crops(pixels, dataclasses.replace(PLAIN, linear_share=1.0)).mean((1, 2, 3))
    bounds = [(128 / 255) ** gamma for gamma in (2.4, 1.4)]
    assert bounds[0] <= linear.min() < linear.max() <= bounds[1]
    dark = crops(pixels, dataclasses.replace(PLAIN, dark_share=1.0)).mean((1, 2, 3)) * 255 / 128
    assert 0.349 < dark.min() < 0.42 and 0.9 < dark.max() <= 1.001
    recipe = dataclasses.replace(PLAIN, linear_share=0.25, dark_share=0.15)
    means = crops(pixels, recipe, count=300).mean((1, 2, 3)) * 255 / 128
    assert (abs(means - 1) < 1e-3).float().mean().item() == pytest.approx(0.6, abs=0.07)


def test_skies_wider_than_a_sample_lie_over_it_more_evenly() -> None:
    scene = Scene("a", "a", ArrayReader(np.full((64, 64, 3), 60, np.uint8)))
    clouds = Shares(even=0, uneven=0, aerosol=0, level=1, broad=0)
    unevenness = []
    for share in (0.0, 1.0):
        recipe = dataclasses.replace(PLAIN, clear_share=0.0, even_contrast=0.0, wide_share=share, haze=clouds)
        hazy = Sampler([scene], recipe, seed=0).batch(0, 60, 64)[0].mean(1)
        unevenness.append(hazy.flatten(1).std(1).median().item())
        assert hazy.mean((1, 2)).std() > 0.1  # the samples lie in all parts of their skies
    assert unevenness[1] < 0.6 * unevenness[0]


def test_false_colours_are_faded_and_others_are_not() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = 255
    faded = crops(pixels, PLAIN, "earth_as_art")
    spread = faded.amax((1, 2, 3)) - faded.amin((1, 2, 3))
    assert 0 <= spread.min() < 0.2 and 0.6 < spread.max() <= 0.8
    assert faded.mean((1, 2, 3)).numpy() == pytest.approx(1 / 3, abs=1e-5)
    assert (crops(pixels, PLAIN).amax((1, 2, 3)) == 1).all()


def test_haze_comes_over_the_tone_and_so_do_its_limits() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    recipe = dataclasses.replace(PLAIN, clear_share=0.0, dark_share=1.0, haze=Shares(1, 0, 0, 0, 0))
    hazy, clear, _ = Sampler([Scene("a", "a", ArrayReader(black))], recipe, seed=0).batch(0, 30, 64)
    assert clear.max() == 0
    assert hazy.mean((1, 2, 3)).max() > 0.5  # a veil is not darkened with its ground


def test_samples_tell_how_much_green_light_gets_through() -> None:
    recipe = Recipe(
        clear_share=0.5,
        even_share=0.0,
        even_contrast=0.0,
        wide_share=0.0,
        haze=Shares(1, 0, 0, 0, 0),
        sensor_noise=0,
    )
    hazy, clear, transmission = Sampler(scenes(), recipe, seed=1).batch(0, 24, 48)
    assert transmission.shape == (24, 1, 48, 48)
    for h, c, t in zip(hazy, clear, transmission, strict=True):
        if torch.equal(h, c):
            assert bool((t == 1).all())
        else:  # a veil, the same everywhere, that lets a share of all differences through
            assert t.min() == t.max()
            assert float(h[1].std() / c[1].std()) == pytest.approx(float(t[0, 0, 0]), abs=0.02)
