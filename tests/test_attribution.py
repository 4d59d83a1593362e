"""The attribution map: exact where it can be, complete, and the same by patches as from one backward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from conftest import TINY, Toy
from torch import Tensor

from dehazexl_cli.attribution import (
    MOST_STEPS,
    TOLERANCE,
    Attribution,
    Blend,
    Detector,
    Network,
    Part,
    Path,
    Sight,
    Transmission,
    airlight_of,
    attribute,
    completeness_gap,
    measure_spread,
)
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips, forward_in_memory
from dehazexl_cli.models.bilateral_grid import BilateralGridConfig, BilateralGridModel
from dehazexl_cli.models.dehazexl import DehazeXL
from dehazexl_cli.models.dehazexl_s import DEFAULT, DehazeXLS
from dehazexl_cli.models.mgbl import BilateralConfig, MultiGuidedBilateral

CPU = torch.device("cpu")
TRANSMISSION = Transmission(torch.tensor([0.95, 0.9, 0.85]))


def scenes(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A clear scene and the same under uneven haze, [3, height, width]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=rng)
    clear = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    clear = (0.7 * clear + 0.1 * torch.rand(3, height, width, generator=rng)).clamp(0, 1)
    t = torch.linspace(0.3, 0.9, width)
    return clear * t + 0.9 * (1 - t), clear


def explain(
    model: DehazeModel,
    hazy: Tensor,
    clear: Tensor,
    *windows: Box,
    overlap: int = 0,
    path: Path | None = None,
    steps: int | None = None,
    kind: str = "sum",
    empty: frozenset[int] = frozenset(),
) -> list[Attribution]:
    size = hazy.shape[1], hazy.shape[2]
    grid = PatchGrid(*size, model.patch, model.halo, overlap)
    sight = dataclasses.replace(Sight.of(hazy, clear, grid), empty=empty)
    detectors = {number: Detector.of(box, kind) for number, box in enumerate(windows)}
    parts = [Part(sight, Box(0, 0, *size), detectors)]
    return attribute(Network(model, CPU, batch=3), parts, path or Blend(), size, steps)


def whole_image(
    model: DehazeModel, hazy: Tensor, clear: Tensor, window: Box, alpha: float, path: Path, overlap: int
) -> Tensor:
    """dD/dX · dX/dalpha from one backward pass through everything."""
    x = path.point(alpha, hazy, clear)[None].requires_grad_()
    output = forward_in_memory(model, x, overlap=overlap)
    output[0, :, window.top : window.bottom, window.left : window.right].sum().backward()
    assert x.grad is not None
    return (x.grad[0] * path.slope(alpha, hazy, clear)).sum(0)


def unlike(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


class Curved(Toy):
    """Smooth and not linear, in its own pixels and in what the scene tells it."""

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        return torch.exp(super().decode(batch, scene, skips)) ** 2


def tiny_xl() -> DehazeXL:
    torch.manual_seed(1)
    return DehazeXL(TINY)


def tiny_spatial() -> BilateralGridModel:
    torch.manual_seed(2)
    model = BilateralGridModel(BilateralGridConfig(patch=64, view=64))
    for weight in (model.net.head.weight, model.guide.last.weight, model.net.up[0][0].second.weight):
        torch.nn.init.normal_(weight, std=0.1)
    return model


def tiny_bilateral() -> MultiGuidedBilateral:
    torch.manual_seed(3)
    return MultiGuidedBilateral(
        BilateralConfig(patch=64, grid_side=64, colour_side=64, widths=(8, 8, 8, 8, 8), cells=8, depth=4)
    ).eval()


NETWORKS = {"dehazexl": (tiny_xl, 8), "mgbl-s": (tiny_spatial, 0), "mgbl-paper": (tiny_bilateral, 0)}


@pytest.mark.parametrize("token_reduction", ["stack", "sum"])
def test_on_a_linear_model_one_step_is_exact(token_reduction: str) -> None:
    hazy, clear = scenes(37, 50)
    window = Box(20, 30, 7, 11)
    model = Toy(token_reduction=token_reduction)
    (found,) = explain(model, hazy, clear, window, steps=1)
    assert unlike(found.map, whole_image(model, hazy, clear, window, 0.3, Blend(), 0)) < 1e-5
    assert found.gap < 1e-5
    output = forward_in_memory(model, torch.stack([hazy, clear]))[:, :, 20:27, 30:41].sum((1, 2, 3))
    assert found.hazy_value == pytest.approx(float(output[0]), rel=1e-5)
    assert found.clear_value == pytest.approx(float(output[1]), rel=1e-5)


@pytest.mark.parametrize("path", [Blend(), TRANSMISSION], ids=lambda path: path.name)
def test_pixels_without_haze_get_exactly_nothing(path: Path) -> None:
    hazy, clear = scenes(40, 48)
    hazy[:, 10:30, 5:25] = clear[:, 10:30, 5:25]
    (found,) = explain(tiny_xl(), hazy, clear, Box(12, 20, 10, 10), path=path, steps=3)
    assert not found.map[10:30, 5:25].any()
    assert found.map.any()


def test_the_gap_shrinks_with_the_square_of_the_steps() -> None:
    hazy, clear = (x.double() for x in scenes(40, 48))
    gaps = [
        explain(Curved().double(), hazy, clear, Box(4, 4, 20, 20), steps=steps)[0].gap for steps in (1, 3, 9)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(9, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(9, rel=0.15)


def test_refining_by_itself_ends_under_the_tolerance_and_at_the_same_map_as_that_many_steps() -> None:
    hazy, clear = scenes(40, 48)

    class Steep(Curved):
        def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
            return super().decode(batch, scene, skips) ** 4

    (found,) = explain(Steep(), hazy, clear, Box(4, 4, 20, 20))
    assert found.steps == 12  # 4 are too few for this one
    assert found.gap < TOLERANCE
    (again,) = explain(Steep(), hazy, clear, Box(4, 4, 20, 20), steps=12)
    assert unlike(found.map, again.map) < 1e-5


def test_refining_stops_at_the_stated_limit() -> None:
    hazy, clear = scenes(16, 16)

    class Stairs(Toy):
        def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
            return super().decode(batch, scene, skips) + 5 * (batch.pixels > 0.5)[..., 2:-2, 2:-2]

    (found,) = explain(Stairs(), hazy, clear, Box(0, 0, 16, 16))
    assert found.steps == MOST_STEPS
    assert found.gap > TOLERANCE


@pytest.mark.parametrize("path", [Blend(), TRANSMISSION], ids=lambda path: path.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_by_patches_it_equals_one_backward_pass_through_the_whole_image(name: str, path: Path) -> None:
    make, overlap = NETWORKS[name]
    model = make()
    hazy, clear = scenes(150, 203)  # patches overhang both edges and are mirrored there
    window = Box(40, 100, 30, 40)  # on corners of four patches
    (found,) = explain(model, hazy, clear, window, overlap=overlap, path=path, steps=1)
    expected = whole_image(model, hazy, clear, window, 0.5, path, overlap)
    assert unlike(found.map, expected) < 1e-4
    beyond = expected[130:]
    assert beyond.abs().max() > 1e-6 * expected.abs().max(), (
        "nothing of the scene is seen, so nothing is tested"
    )
    assert unlike(found.map[130:], beyond) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s"])
def test_at_1024_pixels_it_equals_one_backward_pass(name: str) -> None:
    torch.manual_seed(0)
    model: DehazeModel
    if name == "dehazexl-s":
        model = DehazeXLS(DEFAULT)
        torch.nn.init.normal_(model.decoder.heads[-1].weight, std=0.1)
    else:
        model = BilateralGridModel(BilateralGridConfig())
        torch.nn.init.normal_(model.net.head.weight, std=0.1)
    hazy, clear = scenes(1024, 1024)
    window = Box(500, 300, 64, 48)
    (found,) = explain(model, hazy, clear, window, overlap=model.overlap, steps=1)
    expected = whole_image(model, hazy, clear, window, 0.5, Blend(), model.overlap)
    assert unlike(found.map, expected) < 1e-4
    assert unlike(found.map[:, 700:], expected[:, 700:]) < 1e-4  # tokens alone lead there


def test_windows_asked_for_together_get_what_each_gets_alone() -> None:
    model, (hazy, clear) = tiny_xl(), scenes(100, 130)
    boxes = Box(10, 10, 20, 20), Box(60, 90, 16, 30)
    together = explain(model, hazy, clear, *boxes, overlap=8, steps=2)
    for box, found in zip(boxes, together, strict=True):
        (alone,) = explain(model, hazy, clear, box, overlap=8, steps=2)
        assert unlike(found.map, alone.map) < 1e-5


def test_patches_without_ground_take_no_part() -> None:
    model, (hazy, clear) = tiny_xl(), scenes(64, 256)
    empty = frozenset({1, 3})
    hazy[:, :, 64:128] = math.nan
    (found,) = explain(model, hazy, clear, Box(10, 150, 20, 20), steps=1, empty=empty)
    assert torch.isfinite(found.map).all()
    assert not found.map[:, 64:128].any() and not found.map[:, 192:].any()
    assert found.map[:, :64].any()


def test_parts_that_know_nothing_of_each_other_add_up() -> None:
    model, (hazy, clear) = Toy(halo=0), scenes(32, 80)
    window, size = Box(8, 30, 16, 20), (32, 80)
    parts = []
    for left in (0, 40):
        box = Box(0, left, 32, 40)
        pixels = hazy[:, :, left : left + 40], clear[:, :, left : left + 40]
        sight = Sight.of(*pixels, PatchGrid(32, 40, model.patch, model.halo))
        parts.append(Part(sight, box, {0: Detector.of(window, "sum").within(box)}))
    (found,) = attribute(Network(model, CPU), parts, Blend(), size, steps=1)
    assert found.gap < 1e-5
    left_half = whole_image(model, hazy[..., :40], clear[..., :40], Box(8, 30, 16, 10), 0.5, Blend(), 0)
    assert unlike(found.map[:, :40], left_half) < 1e-5


def test_the_mean_is_the_sum_over_all_numbers_of_the_window() -> None:
    hazy, clear = scenes(40, 48)
    window = Box(4, 4, 10, 20)
    sums, means = (explain(Toy(), hazy, clear, window, steps=1, kind=kind)[0] for kind in ("sum", "mean"))
    assert means.hazy_value == pytest.approx(sums.hazy_value / 600, rel=1e-5)
    assert unlike(means.map * 600, sums.map) < 1e-5


def test_a_detector_leaves_out_pixels_that_are_no_ground() -> None:
    ground = torch.ones(10, 20, dtype=torch.bool)
    ground[:, :5] = False
    assert float(Detector.of(Box(4, 4, 10, 20), "mean", ground).weights.sum()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("path", [Blend(), TRANSMISSION], ids=lambda path: path.name)
def test_a_path_leads_from_clear_to_hazy_with_the_slope_it_says(path: Path) -> None:
    hazy, clear = (x.double() for x in scenes(20, 30))
    clear[:, :5] = 1.0  # brighter than the airlight, as hazy pixels are not
    assert torch.allclose(path.point(0.0, hazy, clear), clear)
    assert torch.allclose(path.point(1.0, hazy, clear), hazy)
    change = (path.point(0.4 + 1e-6, hazy, clear) - path.point(0.4 - 1e-6, hazy, clear)) / 2e-6
    assert torch.allclose(change, path.slope(0.4, hazy, clear), atol=1e-7)


def test_haze_that_grows_denser_has_the_transmission_to_the_power_of_alpha() -> None:
    airlight, clear = torch.tensor([0.9, 0.9, 0.9]), torch.full((3, 1, 1), 0.2)
    hazy = clear * 0.25 + 0.9 * 0.75
    half = Transmission(airlight).point(0.5, hazy, clear)
    assert torch.allclose(half, clear * 0.5 + 0.9 * 0.5)


def test_the_airlight_is_the_colour_of_the_densest_haze() -> None:
    pixels = torch.rand(3, 5000) * 0.5
    pixels[:, :5] = torch.tensor([0.9, 0.85, 0.8])[:, None]
    pixels[0, 5:50] = 1.0  # bright red, not haze
    assert torch.allclose(airlight_of(pixels), torch.tensor([0.9, 0.85, 0.8]))


def test_the_gap_is_none_where_both_ends_give_the_same() -> None:
    assert math.isnan(completeness_gap(1e-9, 100.0, 100.0))
    assert completeness_gap(9.0, 30.0, 20.0) == pytest.approx(0.1)


def test_the_watch_counts_up_to_all() -> None:
    told: list[tuple[int, int]] = []
    hazy, clear = scenes(40, 48)
    grid = PatchGrid(40, 48, 16, 2)
    part = Part(Sight.of(hazy, clear, grid), Box(0, 0, 40, 48), {0: Detector.of(Box(0, 0, 9, 9), "sum")})
    network = Network(Toy(), CPU)
    attribute(network, [part], Blend(), (40, 48), 2, lambda done, total: told.append((done, total)))
    assert told[-1] == (6 * len(grid), 6 * len(grid))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_weights_ask_for_gradients_afterwards_as_before() -> None:
    model, (hazy, clear) = Toy(), scenes(40, 48)
    explain(model, hazy, clear, Box(0, 0, 9, 9), steps=1)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


SPREADS: dict[str, tuple[Callable[[], Tensor], dict[str, float]]] = {
    "one pixel": (
        lambda: torch.zeros(100, 100).index_put_((torch.tensor(50), torch.tensor(50)), torch.tensor(-3.0)),
        {"inside": 1, "patch": 0, "beyond": 0, "diffusion_index": 0.01, "radius_50": 1, "radius_90": 1},
    ),
    "all alike": (
        lambda: torch.full((100, 100), -0.5),
        {"inside": 0.01, "patch": 0.15, "beyond": 0.84, "diffusion_index": 100},
    ),
}


@pytest.mark.parametrize("name", SPREADS)
def test_spread_of(name: str) -> None:
    make, expected = SPREADS[name]
    spread = dataclasses.asdict(measure_spread(make(), Box(46, 46, 10, 10), Box(30, 30, 40, 40)))
    for key, value in expected.items():
        assert spread[key] == pytest.approx(value, abs=1e-6), key


def test_half_of_an_even_disc_lies_within_its_radius_by_the_root_of_two() -> None:
    y, x = torch.meshgrid(torch.arange(401) - 200, torch.arange(401) - 200, indexing="ij")
    disc = ((y**2 + x**2) <= 150**2).float()
    spread = measure_spread(disc, Box(200, 200, 1, 1), Box(180, 180, 40, 40))
    assert spread.radius_50 == pytest.approx(150 / math.sqrt(2), abs=1.5)
    assert spread.radius_90 == pytest.approx(150 * math.sqrt(0.9), abs=1.5)


def test_pixels_that_are_no_ground_count_nowhere() -> None:
    map, ground = torch.ones(50, 50), torch.zeros(50, 50, dtype=torch.bool)
    ground[20:30, 20:30] = True
    spread = measure_spread(map, Box(20, 20, 10, 5), Box(0, 0, 50, 50), ground)
    assert spread.inside == pytest.approx(0.5) and spread.diffusion_index == pytest.approx(100)


def test_where_nothing_is_attributed_there_is_no_spread() -> None:
    spread = measure_spread(torch.zeros(9, 9), Box(0, 0, 2, 2), Box(0, 0, 4, 4))
    assert set(spread.to_dict().values()) == {None}
