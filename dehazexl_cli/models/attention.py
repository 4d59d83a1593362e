"""Attention over all tokens of a scene: exact, and the sampled form for scenes of very many tokens.

The published system (Chen et al., CVPR 2025, section 3.3) attends exactly below 4,096 tokens and from there
approximates as HyperAttention does (Han et al., ICLR 2024): tokens are sorted by an angular hash, attend
exactly to their own block of 256 neighbours in that order, and to 256 tokens drawn evenly from the whole
scene, which stand for all others. The published code draws anew at each call; here a seed decides.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT_TOKENS = 4096  # up to here the sampled form is exact attention, as published
BLOCK = 256
SAMPLES = 256
PROJECTIONS = 7


def attend(q: Tensor, k: Tensor, v: Tensor, seed: int | None) -> Tensor:
    """Attention of queries, keys and values [b, heads, n, d]; returns [b, heads, n, d].

    `seed` None asks for exact attention at any n (time grows with n²); an integer seeds the sampled form.
    """
    if seed is None or q.shape[2] < EXACT_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    flat = sampled_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), seed)
    return flat.view_as(q)


def sampled_attention(q: Tensor, k: Tensor, v: Tensor, seed: int) -> Tensor:
    """Each query [heads, n, d] attends to its block in hash order and to shared samples, in one softmax.

    A sample carries log(n / SAMPLES) on its logit, since it stands for that many tokens. That is the same as
    merging the two softmaxes by their log-sum-exp. A sample that lies in the query's own block is masked.
    """
    heads, n, d = q.shape
    rng = torch.Generator().manual_seed(seed)
    planes = torch.randn(d, PROJECTIONS, generator=rng).to(q)
    q_order, k_order = (angular_hash(t, planes).argsort(dim=1, stable=True) for t in (q, k))
    k, v = take(k, k_order), take(v, k_order)
    blocks = -(-n // BLOCK)
    overhang = blocks * BLOCK - n
    queries, own_k, own_v = (
        F.pad(t, (0, 0, 0, overhang)).view(heads, blocks, BLOCK, d) for t in (take(q, q_order), k, v)
    )
    picks = torch.randint(n, (SAMPLES,), generator=rng).to(q.device)
    keys, values = (
        torch.cat([own, t[:, None, picks].expand(-1, blocks, -1, -1)], dim=2)
        for own, t in ((own_k, k), (own_v, v))
    )
    bias = sample_bias(n, blocks, picks, q.dtype)
    out = F.scaled_dot_product_attention(
        queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), attn_mask=bias.repeat(heads, 1, 1)
    )
    out = out.view(heads, blocks * BLOCK, d)[:, :n]
    return torch.empty_like(out).scatter_(1, q_order[..., None].expand(-1, -1, d), out)


def sample_bias(n: int, blocks: int, picks: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits of [own block, samples]: [blocks, 1, BLOCK + SAMPLES]."""
    position = torch.arange(blocks * BLOCK, device=picks.device).view(blocks, BLOCK)
    absent = torch.finfo(dtype).min
    own = torch.zeros(blocks, BLOCK, device=picks.device, dtype=dtype).masked_fill(position >= n, absent)
    stranger = (picks[None] // BLOCK) != torch.arange(blocks, device=picks.device)[:, None]
    weight = torch.full(stranger.shape, math.log(n / SAMPLES), device=picks.device, dtype=dtype)
    return torch.cat([own, weight.masked_fill(~stranger, absent)], dim=1)[:, None]


def angular_hash(x: Tensor, planes: Tensor) -> Tensor:
    """Bucket of each vector [heads, n, d]: the side of every plane it lies on, as a Gray code's rank."""
    sides = (x @ planes) > 0  # [heads, n, PROJECTIONS]
    gray = (sides * 2 ** torch.arange(PROJECTIONS, device=x.device)).sum(-1)
    # Ranks of a Gray code differ by one where vectors differ in one plane, so neighbours stay near.
    for shift in (4, 2, 1):
        gray = gray ^ (gray >> shift)
    return gray


def take(x: Tensor, order: Tensor) -> Tensor:
    """Rows of x [heads, n, d] in the order [heads, n]."""
    return x.gather(1, order[..., None].expand_as(x))
