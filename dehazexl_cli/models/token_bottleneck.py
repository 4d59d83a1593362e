"""The global bottleneck of `dehazexl-s`: what all tokens of a scene say together.

Tokens of all patches come to lie on one map of the scene. It is read in three ways: as dark envelopes, by
convolutions with a wider view, and by latents, a few vectors that attend to every token and that every token
attends to (induced attention: Lee et al., "Set Transformer", ICML 2019). Latents are as many for any scene,
so attention is exact at any size and takes time and memory in proportion to the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.models.dark_envelopes import COLOURS, envelope
from dehazexl_cli.models.interpolation import linear_weights
from dehazexl_cli.models.residual import SLOPE, FixedNormConv2d, ResidualBlock, leaky_relu, zero_init

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of tokens over the scene
DARKEST = 0.01  # the quantile of tokens that is taken for the scene's darkest: single ones may be damaged
CENTER, SPREAD = 0.4, 0.25  # of statistics, so that layers see numbers around 0
WIDE = 4  # tokens per side of a wide one


class TokenMap(NamedTuple):
    """Tokens where they lie in their scenes; zeros where there is no ground."""

    tokens: Tensor  # [scenes, channels, height, width] float32
    present: Tensor  # [1, 1, height, width] float32: 1 where there is ground, else 0

    @classmethod
    def of(cls, tokens: Tensor, places: Tensor, size: tuple[int, int]) -> TokenMap:
        """Tokens [scenes, n, channels] at places [n, 2] (down, right, in tokens) on a map of that size.

        Where patches overlap, a cell holds the mean of its tokens. Tokens beyond the edge of the scene
        are dropped: they show what was mirrored there.
        """
        height, width = size
        cell = (places + 0.5).floor().long()
        inside = (cell[:, 0] < height) & (cell[:, 1] < width)
        index = (cell[:, 0] * width + cell[:, 1])[inside]
        tokens = tokens[:, inside].float()
        sums = tokens.new_zeros(tokens.shape[0], height * width, tokens.shape[2])
        sums = sums.index_add(1, index, tokens)
        counts = tokens.new_zeros(height * width).index_add(0, index, tokens.new_ones(len(index)))
        mean = (sums / counts.clamp(min=1)[:, None]).mT.unflatten(2, size)
        return cls(mean, (counts > 0).float().view(1, 1, height, width))


class SceneContext(NamedTuple):
    """What the bottleneck made of a scene."""

    map: Tensor  # [scenes, channels, height, width]: context, then envelopes
    vector: Tensor  # [scenes, scene_dim]

    def around(self, rows: Tensor, cols: Tensor) -> Tensor:
        """The map at rows [n, side] and columns [m, side] of tokens: [scenes, n, m, channels, side, side].

        Between tokens it is read linearly, and beyond the edge of the scene the edge is repeated.
        """
        down = linear_weights(rows, self.map.shape[2])
        right = linear_weights(cols, self.map.shape[3]).flatten(0, 1)
        whole, side = self.map.contiguous(), cols.shape[1]
        # Row by row, as all rows of patches at once would be many times the map.
        read = [(one @ whole @ right.mT).unflatten(3, (-1, side)).permute(0, 3, 1, 2, 4) for one in down]
        return torch.stack(read, dim=1)


class TokenBottleneck(nn.Module):
    """A map of tokens -> the scene's context, envelopes and vector."""

    def __init__(
        self,
        *,
        statistics: int,
        token_dim: int,
        dim: int,
        wide_dim: int,
        latents: int,
        heads: int,
        scene_dim: int,
        windows: Sequence[int],
    ) -> None:
        super().__init__()
        self.statistics, self.windows = statistics, tuple(windows)
        self.scene = nn.Sequential(
            nn.Linear(len(QUANTILES) * statistics + 2 * dim, 2 * scene_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(2 * scene_dim, scene_dim),
        )
        self.token_proj = FixedNormConv2d(statistics + token_dim, dim, 1)
        self.first = ResidualBlock(dim)
        self.widen = FixedNormConv2d(dim, wide_dim, WIDE, stride=WIDE)
        self.wide = nn.Sequential(ResidualBlock(wide_dim), ResidualBlock(wide_dim))
        self.narrow = zero_init(nn.Conv2d(wide_dim, dim, 1))
        self.attention = InducedAttention(dim, latents, heads) if latents else None
        self.scene_proj = zero_init(nn.Linear(scene_dim, dim))
        self.last = ResidualBlock(dim)

    def forward(self, seen: TokenMap) -> SceneContext:
        """Scenes do not see each other."""
        with torch.autocast(seen.tokens.device.type, enabled=False):
            statistics = seen.tokens[:, : self.statistics]
            envelopes = self._envelopes(statistics[:, :COLOURS], seen.present)
            spread = quantiles(statistics, seen.present).flatten(1)
        dtype = self.token_proj.weight.dtype
        known = torch.cat([normalize(statistics), seen.tokens[:, self.statistics :]], dim=1)
        x = leaky_relu(self.token_proj((known * seen.present).to(dtype)))
        x = self.first(x)
        x = x + self._widely(x)
        if self.attention is not None:
            x = x + self.attention(x, seen.present)
        vector = self.scene(torch.cat([normalize(spread), moments(x, seen.present)], dim=1).to(dtype))
        x = self.last(x + self.scene_proj(vector)[:, :, None, None])
        return SceneContext(torch.cat([x.float(), envelopes], dim=1), vector.float())

    def _envelopes(self, least: Tensor, present: Tensor) -> Tensor:
        """Of each window, then of the scene: [scenes, 3·(windows + 1), height, width]."""
        darkest = quantiles(least, present, (DARKEST,))[..., None].expand_as(least)
        filled = torch.where(present > 0, least, 1.0)
        wide = [envelope(filled, window) for window in self.windows]
        return torch.cat([*wide, darkest], dim=1)

    def _widely(self, x: Tensor) -> Tensor:
        """What convolutions over tokens of four times the side say, at the tokens' own places."""
        height, width = x.shape[2:]
        beyond = (-width % WIDE, -height % WIDE)
        wide = self.narrow(self.wide(leaky_relu(self.widen(F.pad(x, (0, beyond[0], 0, beyond[1]))))))
        return F.interpolate(wide, scale_factor=WIDE, mode="bilinear")[..., :height, :width]


class InducedAttention(nn.Module):
    """Latents attend to all tokens, then all tokens attend to the latents: [b, dim, h, w] -> the same."""

    def __init__(self, dim: int, latents: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.latents = nn.Parameter(torch.empty(latents, dim))
        nn.init.uniform_(self.latents, -1, 1)
        self.norm = nn.RMSNorm(dim, elementwise_affine=False)
        self.token_kv = nn.Linear(dim, 2 * dim)
        self.token_q = nn.Linear(dim, dim)
        self.latent_kv = nn.Linear(dim, 2 * dim)
        self.latent_norm = nn.RMSNorm(dim, elementwise_affine=False)
        self.proj = zero_init(nn.Linear(dim, dim))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = self.norm(x.flatten(2).mT)
        there = (present > 0).flatten(1)[:, None, None]  # [1, 1, 1, n]
        queries = self._split(self.latents[None].expand(len(x), -1, -1))
        latents = self.latents + attend(queries, *self._pair(self.token_kv(tokens)), there)
        latents = self.latent_norm(latents)
        attended = attend(self._split(self.token_q(tokens)), *self._pair(self.latent_kv(latents)))
        return self.proj(attended).mT.unflatten(2, (height, width))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = x.chunk(2, dim=2)
        return self._split(keys), self._split(values)


def attend(queries: Tensor, keys: Tensor, values: Tensor, there: Tensor | None = None) -> Tensor:
    """Attention of [b, heads, n, d] to those of [b, heads, m, d] that are `there`: [b, n, heads · d]."""
    heard = F.scaled_dot_product_attention(queries.to(values.dtype), keys, values, attn_mask=there)
    return heard.transpose(1, 2).flatten(2)


def quantiles(x: Tensor, present: Tensor, levels: Sequence[float] = QUANTILES) -> Tensor:
    """Quantiles of each channel over the tokens with ground: [b, channels, h, w] -> [b, channels, levels]."""
    ordered = present_tokens(x, present).sort(dim=2).values
    last = ordered.shape[2] - 1
    places = torch.tensor(levels, device=x.device) * last
    first = places.floor().long()
    return torch.lerp(ordered[:, :, first], ordered[:, :, (first + 1).clamp(max=last)], places - first)


def normalize(statistics: Tensor) -> Tensor:
    """Bring statistics of pixels in [0, 1] around 0."""
    return (statistics - CENTER) / SPREAD


def present_tokens(x: Tensor, present: Tensor) -> Tensor:
    """The tokens with ground, in a row: [b, channels, n]."""
    x = x.flatten(2)
    there = present.flatten() > 0
    return x if bool(there.all()) else x[:, :, there]


def moments(x: Tensor, present: Tensor) -> Tensor:
    """Mean and deviation of each channel over the tokens with ground: [b, 2 · channels] float32."""
    tokens = present_tokens(x.float(), present)
    return torch.cat([tokens.mean(2), tokens.var(2, unbiased=False).add(1e-5).sqrt()], dim=1)
