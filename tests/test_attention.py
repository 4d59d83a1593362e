"""Sampled attention: repeatable, close to exact, and the published two-pass arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from torch import Tensor

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import attention, build
from dehazexl_cli.models.attention import BLOCK, EXACT_TOKENS, SAMPLES, attend, sampled_attention
from dehazexl_cli.models.bottleneck import Bottleneck, position_code
from dehazexl_cli.models.dehazexl import DehazeXL, token_places
from dehazexl_cli.models.swin import swin_blocks


def tokens(n: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 16, generator=rng) for _ in range(3))
    return q * spread, k * spread, v


def two_pass(q: Tensor, k: Tensor, v: Tensor, seed: int) -> Tensor:
    """The published form: own block and samples attended apart, merged by their log-sum-exp."""
    n, d = q.shape[1:]
    rng = torch.Generator().manual_seed(seed)
    planes = torch.randn(d, attention.PROJECTIONS, generator=rng)
    orders = [attention.angular_hash(t, planes).argsort(dim=1, stable=True) for t in (q, k)]
    q, k, v = (
        attention.gather_rows(t, o) for t, o in zip((q, k, v), (orders[0], orders[1], orders[1]), strict=True)
    )
    pilot = q[:, :: -(-n // attention.PILOT)]
    drawn, multiplicity = attention.draw_keys(attention.key_importance(pilot, k), rng)
    out = torch.empty_like(q)
    for head, picks in enumerate(drawn):
        for start in range(0, n, BLOCK):
            block = slice(start, min(n, start + BLOCK))
            near = q[head, block] @ k[head, block].T / math.sqrt(d)
            far = q[head, block] @ k[head, picks].T / math.sqrt(d) + multiplicity[head].log()
            far[:, picks // BLOCK == start // BLOCK] = -torch.inf
            weights = torch.stack([near.logsumexp(1), far.logsumexp(1)]).softmax(0)[..., None]
            out[head, block] = weights[0] * (near.softmax(1) @ v[head, block]) + weights[1] * (
                far.softmax(1) @ v[head, picks]
            )
    return torch.empty_like(out).scatter_(1, orders[0][..., None].expand_as(out), out)


@pytest.mark.parametrize("n", [EXACT_TOKENS, EXACT_TOKENS + 77])
def test_one_softmax_equals_the_published_two_passes(n: int) -> None:
    q, k, v = tokens(n)
    assert torch.allclose(sampled_attention(q, k, v, 5), two_pass(q, k, v, 5), atol=1e-5)


def test_a_seed_repeats_and_another_differs() -> None:
    q, k, v = (t[None] for t in tokens(EXACT_TOKENS))
    assert torch.equal(attend(q, k, v, 1), attend(q, k, v, 1))
    assert not torch.equal(attend(q, k, v, 1), attend(q, k, v, 2))


def test_few_tokens_are_attended_exactly_whatever_the_seed() -> None:
    q, k, v = (t[None] for t in tokens(EXACT_TOKENS - 1))
    assert torch.equal(attend(q, k, v, 1), F.scaled_dot_product_attention(q, k, v))


def test_sampled_comes_near_exact_attention() -> None:
    q, k, v = (t[None] for t in tokens(EXACT_TOKENS, spread=0.5))
    exact, sampled = attend(q, k, v, None), attend(q, k, v, 0)
    # Values are noise of deviation 1: ignoring the scene beyond the block would err by about 1/16.
    assert (exact - sampled).square().mean().sqrt() < 0.08
    assert (exact - sampled).mean().abs() < 0.02


def test_the_few_keys_that_all_listen_to_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (t[None] for t in tokens(2 * EXACT_TOKENS, spread=0.5))
    q[..., 0] = 8.0
    k[:, :, ::1000, 0] = 4.0  # nine tokens are heard e^8 times as loud as others
    exact, drawn = attend(q, k, v, None), attend(q, k, v, 0)
    monkeypatch.setattr(attention, "EVEN_SHARE", 1.0)
    evenly = attend(q, k, v, 0)  # finds each of them with odds of 1 in 32, and lets it stand for 32
    error, even_error = ((exact - other).square().mean().sqrt() for other in (drawn, evenly))
    assert error < 0.3 * even_error


def test_samples_stand_for_all_tokens_together() -> None:
    n = 3 * SAMPLES
    share = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) ** 4
    share /= share.sum(1, keepdim=True)
    share[1] = 0  # whom nobody was asked about is drawn too
    share[1, 7] = 1
    stood_for = torch.zeros(2, n)
    for seed in range(2000):
        picks, multiplicity = attention.draw_keys(share, torch.Generator().manual_seed(seed))
        assert picks.shape == multiplicity.shape == (2, SAMPLES)
        stood_for.scatter_add_(1, picks, multiplicity / 2000)
    assert torch.allclose(stood_for.mean(1), torch.ones(2), atol=0.02)  # no key counts too much or too little
    assert stood_for.std(1).max() < 0.1
    assert abs(float(stood_for[1, 7]) - 1) < 0.01


def test_places_follow_the_rectangle_and_its_origin() -> None:
    places = token_places(PatchGrid(300, 700, 256, origin=(64, 32)), torch.device("cpu"))
    assert places.shape == (2 * 3 * 64, 2)
    assert places[0].tolist() == [2, 1]
    assert places[9].tolist() == [3, 2]
    assert places[64].tolist() == [2, 9]  # the second patch lies to the right
    assert places[3 * 64].tolist() == [10, 1]  # the fourth below the first
    assert len({tuple(place) for place in places.tolist()}) == len(places)


def test_position_codes_are_width_first_and_of_unit_pairs() -> None:
    code = position_code(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 16)
    assert torch.equal(code[0], torch.tensor([0.0] * 4 + [1.0] * 4).repeat(2))
    assert not torch.equal(code[1, :8], code[0, :8])
    assert torch.equal(code[1, 8:], code[0, 8:])
    assert torch.equal(code[2, :8], code[0, :8])


@pytest.mark.parametrize("queries", [64, 100, 10_000])
def test_attention_by_parts_is_exact_attention(queries: int) -> None:
    torch.manual_seed(0)
    model = build("dehazexl-paper").eval()
    model.mixer.layers[0].qkv.weight.data *= 20  # type: ignore[union-attr, operator] # far from even weights
    grid = PatchGrid(700, 700, 256)
    tokens = torch.randn(2, len(grid), 64, model.config.token_dim)  # type: ignore[union-attr, operator]
    again, before = tokens.clone(), tokens.clone()
    with torch.inference_mode():
        whole = model.apply_bottleneck(tokens, grid, None)
        assert torch.equal(tokens, before)
        model.query_chunk = queries
        by_parts = model.apply_bottleneck(tokens, grid, None)
        sampled = model.apply_bottleneck(again, grid, 3)
    assert torch.allclose(whole, by_parts, atol=1e-4 * float(whole.abs().max()))
    # What is for scenes of many tokens takes no memory for a second scene.
    assert by_parts.data_ptr() == tokens.data_ptr() and sampled.data_ptr() == again.data_ptr()
    assert torch.equal(sampled, whole)  # of so few tokens none is left out
    assert not torch.allclose(whole, before, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tokens_stay_as_they_are_unless_memory_is_to_be_spared(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mixer = Bottleneck(64, heads=4, depth=2).eval().to(dtype)
    tokens, places = torch.randn(1, EXACT_TOKENS + 50, 64).to(dtype), torch.rand(EXACT_TOKENS + 50, 2)
    before = tokens.clone()
    with torch.inference_mode():
        mixed = mixer(tokens, places, None)
        assert torch.equal(tokens, before) and not torch.allclose(mixed, tokens, atol=0.1)
        for seed, queries in ((None, 100), (3, None)):
            tokens = before.clone()
            assert mixer(tokens, places, seed, queries).data_ptr() == tokens.data_ptr()


def test_sampling_a_few_heads_at_a_time_is_sampling_all() -> None:
    torch.manual_seed(0)
    mixer = Bottleneck(64, heads=4, depth=2).eval()
    tokens, places = torch.randn(1, EXACT_TOKENS + 50, 64), torch.rand(EXACT_TOKENS + 50, 2)
    at_once = mixer(tokens, places, 3).detach()
    with torch.no_grad():
        per_head = mixer(tokens, places, 3)
    assert torch.allclose(per_head, at_once, atol=1e-5 * float(at_once.abs().max()))


def test_attention_by_parts_lets_gradients_through() -> None:
    model = DehazeXL(TINY)
    model.query_chunk = 3
    model.apply_bottleneck(
        torch.randn(1, 2, 4, TINY.token_dim), PatchGrid(64, 128, 64), None
    ).sum().backward()
    assert model.mixer.layers[1].qkv.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("version", [1, 2])
def test_windows_attend_alike_in_training_and_in_use(version: int) -> None:
    torch.manual_seed(0)
    blocks = swin_blocks(version, 2, 16, 2, 4, 8)  # the second block's windows are shifted
    x = torch.randn(2, 8, 8, 16)
    trained = blocks(x)
    with torch.inference_mode():
        torch.testing.assert_close(blocks(x), trained.detach(), rtol=1e-4, atol=1e-5)
