"""Attention over all tokens of a scene: exact, and the sampled form for scenes of very many tokens.

The published system (Chen et al., CVPR 2025, section 3.3) attends exactly below 4,096 tokens and from there
approximates as HyperAttention does (Han et al., ICLR 2024): tokens are sorted by an angular hash, attend
exactly to their own block of 256 neighbours in that order, and to 256 tokens drawn from the whole scene,
which stand for all others. The published code draws evenly, and anew at each call. Here a seed decides, and
tokens are drawn in proportion to how much a pilot of queries hears of them: a few have most of the say, and
one of them that is missed, or stands for hundreds that say something else, shows in the picture.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT_TOKENS = 4096  # up to here the sampled form is exact attention, as published
BLOCK = 256
SAMPLES = 256
PILOT = 128  # queries that tell how much each key is heard
EVEN_SHARE = 0.3  # of the odds of being drawn, the same for all keys: the pilot does not ask for everybody
PILOT_LOGITS = 2**22  # how many are in memory at a time
PROJECTIONS = 7
BLOCKS_AT_ONCE = 32  # bounds what is gathered beside the tokens themselves


def attend(q: Tensor, k: Tensor, v: Tensor, seed: int | None, queries: int | None = None) -> Tensor:
    """Attention of queries, keys and values [b, heads, n, d]; returns [b, heads, n, d].

    `seed` None asks for exact attention at any n (time grows with n²), with `queries` so many of them at a
    time, so that on no device and with no kernel anything grows with n²; an integer seeds the sampled form.
    """
    if seed is None or q.shape[2] < EXACT_TOKENS:
        parts = [q] if queries is None else q.split(queries, dim=2)
        attended = [F.scaled_dot_product_attention(part, k, v) for part in parts]
        return attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)
    # Scenes are as separate from each other as heads are.
    flat = sampled_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), seed)
    return flat.unflatten(0, q.shape[:2])


def sampled_attention(q: Tensor, k: Tensor, v: Tensor, seed: int) -> Tensor:
    """Each query [heads, n, d] attends to its block in hash order and to shared samples, in one softmax.

    A sample carries the logarithm of the number of tokens it stands for on its logit. That is the same as
    merging the two softmaxes by their log-sum-exp. A sample that lies in the query's own block is masked.
    """
    heads, n, d = q.shape
    rng = torch.Generator().manual_seed(seed)
    planes = torch.randn(d, PROJECTIONS, generator=rng).to(q)
    q_order, k_order = (angular_hash(t, planes).argsort(dim=1, stable=True) for t in (q, k))
    picks, multiplicity = draw_keys(
        key_importance(gather_rows(q, q_order[:, :: -(-n // PILOT)]), k).gather(1, k_order), rng
    )
    weight = multiplicity.log().to(q.dtype)
    k_far, v_far = (gather_rows(t, k_order.gather(1, picks)) for t in (k, v))  # [heads, SAMPLES, d]
    result = q.new_empty(n, heads, d).transpose(0, 1)  # so that heads side by side need no copy
    for first in range(0, -(-n // BLOCK), BLOCKS_AT_ONCE):
        part = slice(first * BLOCK, min(n, (first + BLOCKS_AT_ONCE) * BLOCK))
        own_q, own_k, own_v = (
            blocks_of(gather_rows(t, order[:, part]))
            for t, order in ((q, q_order), (k, k_order), (v, k_order))
        )
        keys, values = (
            torch.cat([own, far.expand(len(own), -1, -1, -1)], dim=2)
            for own, far in ((own_k, k_far), (own_v, v_far))
        )
        bias = sample_bias(n, first, len(own_q), picks, weight)
        out = F.scaled_dot_product_attention(own_q, keys, values, attn_mask=bias)
        out = out.transpose(0, 1).reshape(heads, -1, d)[:, : part.stop - part.start]
        result[torch.arange(heads, device=q.device)[:, None], q_order[:, part]] = out
    return result


def blocks_of(x: Tensor) -> Tensor:
    """[heads, n, d] -> [blocks, heads, BLOCK, d], the last block filled up with zeros."""
    heads, n, d = x.shape
    return F.pad(x, (0, 0, 0, -n % BLOCK)).view(heads, -1, BLOCK, d).transpose(0, 1)


def key_importance(pilot: Tensor, k: Tensor) -> Tensor:
    """Share of the attention of pilot queries [heads, m, d] that each key [heads, n, d] gets: [heads, n]."""
    shares = []
    for asking, keys in zip(pilot, k, strict=True):
        keys = keys.contiguous()
        share = torch.zeros(len(keys), device=k.device)
        for part in asking.split(max(1, PILOT_LOGITS // len(keys))):
            logits = (part @ keys.T).float() / math.sqrt(keys.shape[1])
            share = share + logits.softmax(dim=1).mean(dim=0) * (len(part) / len(asking))
        shares.append(share)
    return torch.stack(shares)


def draw_keys(share: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """SAMPLES places in [heads, n] drawn about in proportion to it, and how many tokens each stands for.

    Draws lie at even steps of the sum of odds, so that hash order spreads them over unlike tokens, and a key
    that is due several draws gets them: together they stand for that one key.
    """
    n = share.shape[1]
    odds = (1 - EVEN_SHARE) * share + EVEN_SHARE / n
    sums = odds.cpu().double().cumsum(dim=1)  # not every device has float64
    steps = torch.arange(SAMPLES) + torch.rand(1, generator=rng, dtype=torch.float64)
    picks = torch.searchsorted(sums, steps / SAMPLES * sums[:, -1:]).clamp(max=n - 1).to(share.device)
    return picks, 1 / (SAMPLES * odds.gather(1, picks))


def sample_bias(n: int, first: int, count: int, picks: Tensor, weight: Tensor) -> Tensor:
    """What is added to the logits of [own block, samples]: [count, heads, BLOCK, BLOCK + SAMPLES]."""
    numbers = torch.arange(first, first + count, device=picks.device)[:, None, None]
    empty = (numbers * BLOCK + torch.arange(BLOCK, device=picks.device)) >= n
    own = empty.expand(-1, len(picks), -1)
    bias = torch.cat([torch.zeros_like(own, dtype=weight.dtype), weight.expand(count, -1, -1)], dim=2)
    bias.masked_fill_(torch.cat([own, picks // BLOCK == numbers], dim=2), torch.finfo(bias.dtype).min)
    return bias[:, :, None].expand(-1, -1, BLOCK, -1)


def angular_hash(x: Tensor, planes: Tensor) -> Tensor:
    """Bucket of each vector [heads, n, d]: the side of every plane it lies on, as a Gray code's rank."""
    sides = (x @ planes) > 0  # [heads, n, PROJECTIONS]
    gray = torch.zeros(sides.shape[:-1], dtype=torch.int32, device=x.device)
    for plane in range(PROJECTIONS):
        gray |= sides[..., plane].int() << plane
    # Ranks of a Gray code differ by one where vectors differ in one plane, so neighbours stay near.
    for shift in (4, 2, 1):
        gray = gray ^ (gray >> shift)
    return gray


def gather_rows(x: Tensor, order: Tensor) -> Tensor:
    """Rows of x [heads, n, d] named by [heads, m], in that order: [heads, m, d]."""
    # Unlike gather, indexing does not first copy all of a tensor that lies in memory token by token.
    return x[torch.arange(len(x), device=x.device)[:, None], order]
