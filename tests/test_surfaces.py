"""Even ground that training draws into crops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng

from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.training import uniform_ground
from dehazexl_cli.training.data import Recipe, Sampler, Scene
from dehazexl_cli.training.uniform_ground import FAMILIES, draw_parcels, with_even_ground

CROP = default_rng(0).random((3, 96, 96), np.float32)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A crop with even ground, and where the ground is the crop's own still."""
    made = with_even_ground(CROP, default_rng(seed))
    return made, (made == CROP).all(0)


def test_equal_seeds_draw_equal_ground() -> None:
    assert np.array_equal(drawn(5)[0], drawn(5)[0])
    assert not np.array_equal(drawn(5)[0], drawn(6)[0])


def test_even_ground_covers_a_part_or_all() -> None:
    kept = np.array([drawn(seed)[1].mean() for seed in range(60)])
    whole = (kept == 0).mean()
    assert uniform_ground.WHOLE / 2 < whole < 2 * uniform_ground.WHOLE
    assert kept.max() > 0.5  # a shore
    assert all(drawn(seed)[0].dtype == np.float32 for seed in range(3))


def test_even_ground_is_even_and_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniform_ground, "WHOLE", 1.0)
    monkeypatch.setattr(uniform_ground, "PARCELLED", 0.0)
    for seed in range(30):
        made, _ = drawn(seed)
        assert made.min() >= 0 and made.max() <= 1
        assert made.std((1, 2)).max() < 0.25 < CROP.std()
        low, high = (np.array([getattr(f, end) for f in FAMILIES]) for end in ("dark", "light"))
        assert (made.mean((1, 2)) > low.min(0) - 0.05).all() and (
            made.mean((1, 2)) < high.max(0) + 0.05
        ).all()


def test_parcels_fill_a_picture_with_even_colours_and_sharp_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        number, parcels = draw_parcels(default_rng(seed), 96, 64)
        assert parcels.shape == (96, 64) and number >= 4
        assert parcels.min() >= 0 and parcels.max() < number
    monkeypatch.setattr(uniform_ground, "WHOLE", 1.0)
    monkeypatch.setattr(uniform_ground, "PARCELLED", 1.0)
    steps = [np.abs(np.diff(drawn(seed)[0], axis=2)).max() for seed in range(20)]
    monkeypatch.setattr(uniform_ground, "PARCELLED", 0.0)
    smooth = [np.abs(np.diff(drawn(seed)[0], axis=2)).max() for seed in range(20)]
    assert np.median(steps) > 2 * np.median(smooth)


def test_shares_of_kinds_add_up_to_one() -> None:
    assert sum(family.share for family in FAMILIES) == pytest.approx(1)


def unhazed(pixels: np.ndarray, recipe: Recipe) -> float:
    """The share of samples of one picture that are without haze."""
    hazy, clear, _ = Sampler([Scene("a", "a", ArrayReader(pixels))], recipe, seed=0).batch(0, 40, 64)
    return (hazy == clear).flatten(1).all(1).float().mean().item()


def test_the_sampler_draws_it_as_often_as_asked_and_hazes_it_less(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = default_rng(1).integers(0, 256, (16, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    monkeypatch.setattr(uniform_ground, "WHOLE", 1.0)
    monkeypatch.setattr(uniform_ground, "PARCELLED", 0.0)
    for share in (0.0, 0.5):
        recipe = Recipe(even_share=share, even_contrast=0.2, even_clear_share=1.0, clear_share=0.0)
        assert abs(unhazed(pixels, recipe) - share) < 0.2


def test_photographs_of_even_ground_are_hazed_less() -> None:
    field = np.full((128, 128, 3), 90, np.uint8)
    recipe = Recipe(even_share=0.0, even_clear_share=1.0, clear_share=0.0)
    assert unhazed(field, recipe) == 1
    field[:, :64] = 150
    assert unhazed(field, recipe) < 0.3  # but for crops of one half
