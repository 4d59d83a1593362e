"""`dehazexl-s`: what it knows before it learns, and what its bottleneck must keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.ablation import BottleneckPerPatch
from dehazexl_cli.models.base import COLOURS, cut_batches, forward_in_memory
from dehazexl_cli.models.dark_envelopes import AIRLIGHT
from dehazexl_cli.models.dehazexl import token_places
from dehazexl_cli.models.dehazexl_s import (
    DEFAULT,
    SHARE,
    STATISTICS,
    VEILS,
    DehazeXLS,
    thumbnail,
)
from dehazexl_cli.models.interpolation import bilinear_weights
from dehazexl_cli.models.residual import FixedNormConv2d
from dehazexl_cli.models.token_bottleneck import SceneContext, TokenMap

SCENE_BY_COLOURS = VEILS - 2
THUMBNAIL, LARGE = DEFAULT.patch, 4 * DEFAULT.patch  # pixels: its side, and of scenes that have one


def fresh(seed: int = 0) -> DehazeXLS:
    torch.manual_seed(seed)
    return DehazeXLS(DEFAULT).eval()


def unlike_fresh(seed: int = 0) -> DehazeXLS:
    """A network in which nothing is zero, so that whatever there is has an effect."""
    model = fresh(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Noise with black in every token."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    image[..., ::16, :] = image[..., 1::16, :] = 0
    return image


def test_a_fresh_network_lessens_an_even_veil() -> None:
    ground = picture(256, 300)
    hazy = 0.5 * ground + 0.5 * AIRLIGHT
    with torch.no_grad():
        before, after = ((image - ground).square().mean() for image in (hazy, fresh()(hazy)))
    assert after < before / 4


def test_it_can_take_an_even_veil_off_entirely() -> None:
    model = fresh()
    ground = picture(256, 300)
    with torch.no_grad():
        model.decoder.scene_head.bias[SCENE_BY_COLOURS] = 99.0
        output = model(0.4 * ground + 0.6 * AIRLIGHT)
    torch.testing.assert_close(output, ground, atol=2e-3, rtol=0)


def test_it_has_at_most_eight_million_parameters() -> None:
    assert sum(p.numel() for p in fresh().parameters()) <= 8_000_000


def test_every_parameter_learns_from_the_first_steps() -> None:
    torch.manual_seed(0)
    model = DehazeXLS(DEFAULT)
    image = picture(256, 512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):  # at first what is zero lets nothing pass
        optimizer.step()
        optimizer.zero_grad()
        (model(image) - 0.5 * image).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


def test_scenes_do_not_see_each_other() -> None:
    model = unlike_fresh()
    one, other = picture(300, 512, 1), picture(300, 512, 2)
    with torch.no_grad():
        both = model(torch.cat([one, other]))
        torch.testing.assert_close(both[:1], model(one), atol=1e-5, rtol=1e-5)


def test_a_patch_is_judged_by_what_lies_far_from_it() -> None:
    model = unlike_fresh()
    image = picture(256, 2048)
    elsewhere = image.clone()
    elsewhere[..., 1800:] += 0.3
    with torch.no_grad():
        change = model(elsewhere) - model(image)
    assert change[..., :256].abs().max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 700), (257, 33), (512, 512)])
def test_any_size_goes_through(height: int, width: int) -> None:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = forward_in_memory(unlike_fresh(), image, overlap=32)[:, :COLOURS]
    assert output.shape == image.shape
    assert output.isfinite().all()


def by_itself(image: Tensor, share: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """A large image dehazed where its thumbnail has that share."""
    monkeypatch.setattr("dehazexl_cli.models.dehazexl_s.SHARE", share)
    with torch.no_grad():
        return unlike_fresh()(image)


def test_a_large_scene_is_changed_as_its_thumbnail_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # Broad shades under a cloud that thins out to the right, a thumbnail of which is what it is itself.
    shades = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 0.3
    ground = torch.nn.functional.interpolate(shades, (LARGE, LARGE), mode="bilinear")
    veil = torch.linspace(0.6, 0.1, LARGE)
    large = ground * (1 - veil / AIRLIGHT) + veil
    small = torch.nn.functional.avg_pool2d(large, LARGE // THUMBNAIL)
    with torch.no_grad():
        expected = unlike_fresh()(small)
    output = torch.nn.functional.avg_pool2d(by_itself(large, 1.0, monkeypatch), LARGE // THUMBNAIL)
    alone = torch.nn.functional.avg_pool2d(by_itself(large, 0.0, monkeypatch), LARGE // THUMBNAIL)
    error, error_alone = ((each - expected).abs().mean() for each in (output, alone))
    assert error < 0.01
    assert error_alone > 3 * error


def test_cloud_that_lets_nothing_through_stays_as_it_is_whatever_the_thumbnail_tells() -> None:
    image = picture(300, LARGE) * 0.5 + 0.2
    image[..., 400:520] = 0.995
    with torch.no_grad():
        output = unlike_fresh()(image)
    closed = (slice(None), slice(None), slice(None), slice(420, 500))
    assert torch.equal(output[closed], image[closed])
    assert not torch.allclose(output, image, atol=0.05)


def test_a_patch_and_the_thumbnail_share_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(300, LARGE)
    patches, whole, both = (by_itself(image, share, monkeypatch) for share in (0.0, 1.0, SHARE))
    assert (whole - patches).abs().max() > 0.1
    torch.testing.assert_close(both, patches.lerp(whole, SHARE), atol=1e-4, rtol=0)


def test_scenes_of_a_few_patches_have_no_thumbnail(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(300, LARGE - 1)
    assert torch.equal(by_itself(image, 0.0, monkeypatch), by_itself(image, 1.0, monkeypatch))


def test_patches_that_are_mixed_by_themselves_have_none_either() -> None:
    model = unlike_fresh()
    image = picture(256, LARGE)
    with torch.no_grad():
        output = BottleneckPerPatch(model)(image)
        for left in range(0, LARGE, 256):
            part = image[..., left : left + 256]
            expected = model(part)
            torch.testing.assert_close(output[..., left : left + 256], expected, atol=1e-4, rtol=0)


def test_a_thumbnail_is_the_mean_of_what_it_shows_and_without_ground_its_mean_colour() -> None:
    image = picture(512, 1024)
    present = torch.ones(1, 1, 512, 1024)
    small = thumbnail(image, present, THUMBNAIL)
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(image, 4))
    present[..., 512:] = 0
    image[..., 512:] = 7.0  # of no ground
    half = thumbnail(image, present, THUMBNAIL)
    torch.testing.assert_close(half[..., :128], small[..., :128])
    mean = small[..., :128].mean((2, 3), keepdim=True)
    torch.testing.assert_close(half[..., 128:], mean.expand(-1, -1, 128, 128))


def test_thumbnails_of_long_scenes_keep_at_least_one_row() -> None:
    small = thumbnail(torch.rand(1, 3, 8, 800 * THUMBNAIL), torch.ones(1, 1, 1, 1), THUMBNAIL)
    assert small.shape[2:] == (1, THUMBNAIL)


def test_networks_of_smaller_patches_make_smaller_thumbnails() -> None:
    model = DehazeXLS(replace(DEFAULT, patch=64)).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 270, 100)).isfinite().all()


@pytest.mark.parametrize("overlap", [0, 24, 28, 32, 100])
def test_tokens_lie_on_the_map_where_their_pixels_do(overlap: int) -> None:
    # Tokens that say where they are must be found there, however patches overlap.
    grid = PatchGrid(700, 1000, 256, overlap=overlap)
    places = token_places(grid, torch.device("cpu"))
    seen = TokenMap.of(places[None], places, (22, 32))
    assert seen.present.all()
    for axis, size in enumerate((22, 32)):
        error = (
            32
            * (
                seen.tokens[0, axis] - (torch.arange(size)[:, None] if axis == 0 else torch.arange(size))
            ).abs()
        )
        assert error.max() <= (16 if overlap % 32 else 0)


def test_the_map_is_read_between_tokens_and_held_at_its_edges() -> None:
    scene = SceneContext(torch.arange(12.0).view(1, 1, 3, 4), torch.zeros(1, 1))
    read = scene.around(torch.tensor([[-1.0, 0.5]]), torch.tensor([[0.0, 1.25], [3.0, 9.0]]))
    assert read[0, 0, :, 0].flatten(1).tolist() == [[0.0, 1.25, 2.0, 3.25], [3.0, 3.0, 5.0, 5.0]]


def test_patches_without_ground_say_nothing_to_the_others() -> None:
    model = unlike_fresh()
    image = picture(512, 512)
    grid = PatchGrid(512, 512, 256)
    batch = cut_batches(image, grid, 4)[0]
    with torch.no_grad():
        tokens, _ = model.encode(batch)
        empty = replace(grid, empty=frozenset({1}))
        told = [model.apply_bottleneck(x[[0, 2, 3]][None], empty, None) for x in (tokens, tokens + 0)]
        assert told[0].shape[:2] == (1, 3)
        assert torch.equal(*told)
        whole = model.apply_bottleneck(tokens[None], grid, None)
    assert (whole[:, [0, 2, 3]] - told[0]).abs().max() > 1e-4


def test_statistics_of_tokens_keep_their_precision_in_half_precision() -> None:
    model = fresh().bfloat16()
    batch = cut_batches(picture(256, 256), PatchGrid(256, 256, 256), 1)[0]
    with torch.no_grad():
        tokens, _ = model.encode(batch)
        exact, _ = fresh().encode(batch)
    assert tokens.dtype == torch.float16
    assert (tokens - exact)[..., :STATISTICS].abs().max() < 1 / 2000


def test_a_fresh_network_keeps_the_spread_of_what_passes() -> None:
    model = fresh()
    spreads: dict[str, float] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, FixedNormConv2d):
            layer.register_forward_hook(
                lambda _layer, _inputs, output, name=name: spreads.update({name: output.std().item()})
            )
    with torch.no_grad():
        model(picture(256, 256) * 0.5 + 0.3)
    assert {name for name, spread in spreads.items() if not 0.2 < spread < 5} == set()


def test_transforms_rise_linearly_between_the_middles_of_cells() -> None:
    up = bilinear_weights(8, 2)
    raised = up @ torch.tensor([0.0, 1.0])
    torch.testing.assert_close(raised, torch.tensor([0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0]))
