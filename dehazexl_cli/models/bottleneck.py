"""The global bottleneck of DehazeXL: all tokens of a scene attend to each other.

Chen et al., "Tokenize Image Patches: Global Context Fusion for Effective Haze Removal in Large Images", CVPR
2025, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.models.attention import attend

TOKENS_AT_ONCE = 4096  # through those parts that take each token by itself
HEADS_AT_ONCE = 1  # of attention that spares memory: fewer take less, and make more norms


class Bottleneck(nn.Module):
    """The global bottleneck: position codes, then blocks in which every token attends to every other."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.input_proj = nn.Linear(dim, dim)
        self.layers = nn.ModuleList(BottleneckBlock(dim, heads) for _ in range(depth))

    def forward(self, tokens: Tensor, places: Tensor, seed: int | None, queries: int | None = None) -> Tensor:
        """Tokens [b, n, dim] at places [n, 2] (down, right, in tokens) -> [b, n, dim].

        Attention is exact without a `seed`, with `queries` so many tokens at a time; else it is sampled.
        Both of these are for scenes of many tokens: unless gradients are asked for, they take the place of
        what comes in.
        """
        sparing = not (torch.is_grad_enabled() or (seed is None and queries is None))
        places = places.expand(tokens.shape[0], -1, -1)
        x = in_parts(self._enter, tokens, places, into=tokens if sparing else None)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, BottleneckBlock)
            drawn = None if seed is None else seed + number
            if sparing:
                layer.per_head(x, drawn, queries)
            else:
                x = layer(x, drawn)
        return x

    def _enter(self, tokens: Tensor, places: Tensor) -> Tensor:
        x = self.input_proj(tokens)
        return x + position_code(places[0], x.shape[-1]).to(x.dtype)


class BottleneckBlock(nn.Module):
    """Attention over the whole scene and a gated MLP, each on normalised input and added to it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layernorm = nn.RMSNorm(dim, eps=1e-5)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=1e-5)
        self.gate_proj = nn.Linear(dim, 4 * dim, bias=False)
        self.up_proj = nn.Linear(dim, 4 * dim, bias=False)
        self.down_proj = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, seed: int | None) -> Tensor:
        x = x + in_parts(self.proj, self._attend(x, seed))
        return in_parts(self._feed, x)

    def per_head(self, x: Tensor, seed: int | None, queries: int | None) -> None:
        """The same in the place of x [b, n, dim], a few heads at a time, of those so many queries."""
        weight, bias = self._by_heads()
        at_once = queries and queries * self.heads // HEADS_AT_ONCE
        attended = torch.empty_like(x).unflatten(2, (self.heads, -1))
        for first in range(0, self.heads, HEADS_AT_ONCE):
            some = slice(first, first + HEADS_AT_ONCE)
            q, k, v = self._told(x, weight[:, some], bias[:, some])
            attended[:, :, some] = attend(q, k, v, seed, at_once).transpose(1, 2)
        for start in range(0, x.shape[1], TOKENS_AT_ONCE):
            place = slice(start, start + TOKENS_AT_ONCE)
            x[:, place] = self._feed(x[:, place] + self.proj(attended[:, place].flatten(2)))

    def _attend(self, x: Tensor, seed: int | None) -> Tensor:
        q, k, v = self._told(x, *self._by_heads())
        return attend(q, k, v, seed).transpose(1, 2).flatten(2)

    def _by_heads(self) -> tuple[Tensor, Tensor]:
        """What makes queries, keys and values: weights [3, heads, d, dim], biases [3, heads, d]."""
        weight, bias = (x.unflatten(0, (3, self.heads, -1)) for x in (self.qkv.weight, self.qkv.bias))
        return weight, bias

    def _told(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """What tokens [b, n, dim] ask and tell by some of these weights: [some, b, heads, n, d]."""
        flat = weight.flatten(0, 2), bias.flatten()
        made = in_parts(lambda part: F.linear(self.input_layernorm(part), *flat), x)
        return made.unflatten(2, weight.shape[:3]).permute(2, 0, 3, 1, 4)

    def _feed(self, x: Tensor) -> Tensor:
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.gelu(self.gate_proj(y)) * self.up_proj(y))


def in_parts(step: Callable[..., Tensor], *inputs: Tensor, into: Tensor | None = None) -> Tensor:
    """A step that takes each token by itself, over inputs [b, n, …], in parts of bounded memory.

    What a step makes on its way (float32 copies, hidden layers) is many times the tokens themselves. The
    result is written `into` a tensor if one is given, which may be an input.
    """
    n = inputs[0].shape[1]
    if into is None and (n <= TOKENS_AT_ONCE or torch.is_grad_enabled()):
        return step(*inputs)
    for start in range(0, n, TOKENS_AT_ONCE):
        part = step(*(x[:, start : start + TOKENS_AT_ONCE] for x in inputs))
        if into is None:
            into = part.new_empty(part.shape[0], n, part.shape[2])
        into[:, start : start + TOKENS_AT_ONCE] = part
    assert into is not None
    return into


def position_code(places: Tensor, dim: int) -> Tensor:
    """The fixed sine and cosine code of places [n, 2] (down, right), width first: [n, dim] float32."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, device=places.device) / (dim // 4))
    angles = places.flip(1)[:, :, None] * frequencies  # [n, (right, down), dim/4]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
