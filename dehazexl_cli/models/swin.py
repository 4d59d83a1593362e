"""Window attention: the blocks of Swin Transformer V2 (encoder) and V1 (decoder), channels last.

Liu et al., "Swin Transformer", ICCV 2021, and "Swin Transformer V2", CVPR 2022, as DehazeXL uses them
(CVPR 2025, section 3). Feature maps are [batch, height, width, channels] throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of each window, with a position bias a subclass provides.

    The bias (and the mask that keeps a shifted window's strangers apart) depends on the weights alone, so
    it is worked out once and kept until weights, device, dtype or training mode change.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.proj = nn.Linear(dim, dim)
        self._bias: dict[tuple[int, int, int], Tensor] = {}
        self.register_load_state_dict_post_hook(lambda module, keys: module._bias.clear())

    def position_bias(self) -> Tensor:
        """Bias [heads, n, n] for the n tokens of one window."""
        raise NotImplementedError

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b, windows, heads, n, d] of tokens [b, windows, n, dim]."""
        raise NotImplementedError

    def forward(self, x: Tensor, height: int, width: int, shift: int) -> Tensor:
        """Tokens [b, windows, n, dim] of a height x width map cut into windows after a cyclic shift."""
        b, windows, n, dim = x.shape
        bias = self._bias_for(height, width, shift).to(x.dtype)
        # A mask differs per window, so windows take the place of heads; without one, that of the batch:
        # either way the bias broadcasts and is never copied.
        shape = (b, windows * self.heads, n, -1) if shift else (b * windows, self.heads, n, -1)
        q, k, v = (t.reshape(shape) for t in self.project(x))
        if bias.requires_grad:  # what the fused form falls back to in training takes longer
            out = (q @ k.mT + bias).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        out = out.reshape(b, windows, self.heads, n, -1).transpose(2, 3).reshape(b, windows, n, dim)
        return self.proj(out)

    def _bias_for(self, height: int, width: int, shift: int) -> Tensor:
        key = (height, width, shift)
        if self.training or torch.is_grad_enabled():
            return self._make_bias(*key)
        if key not in self._bias:
            self._bias[key] = self._make_bias(*key)
        return self._bias[key]

    def _make_bias(self, height: int, width: int, shift: int) -> Tensor:
        bias = self.position_bias()
        if not shift:
            return bias[None]
        mask = shift_mask(height, width, self.window, shift, bias.device, bias.dtype)
        return (bias[None] + mask[:, None]).flatten(0, 1)[None]

    def train(self, mode: bool = True) -> Self:
        self._bias.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._bias.clear()
        return super()._apply(fn, recurse)


class WindowAttentionV2(WindowAttention):
    """Swin V2: cosine similarity with a learned scale; bias from a small net on log-spaced offsets."""

    offsets: Tensor
    index: Tensor

    MAX_LOG_SCALE = math.log(100.0)

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__(dim, heads, window)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.register_buffer("offsets", log_offsets(window), persistent=False)
        self.register_buffer("index", offset_index(window), persistent=False)

    def position_bias(self) -> Tensor:
        table = self.cpb_mlp(self.offsets.to(self.qkv.weight.dtype))  # [(2w-1)^2, heads]
        n = self.window**2
        return 16 * torch.sigmoid(table[self.index].view(n, n, -1).permute(2, 0, 1))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = split_heads(F.linear(x, self.qkv.weight, bias), self.heads)
        scale = self.logit_scale.clamp(max=self.MAX_LOG_SCALE).exp()
        return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v


class WindowAttentionV1(WindowAttention):
    """Swin V1: scaled dot products and a learned bias for every offset."""

    index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__(dim, heads, window)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("index", offset_index(window), persistent=False)

    def position_bias(self) -> Tensor:
        n = self.window**2
        return self.relative_position_bias_table[self.index].view(n, n, -1).permute(2, 0, 1)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(self.qkv(x), self.heads)
        return q * q.shape[-1] ** -0.5, k, v


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each added to what came in; version 2 normalises after, 1 before."""

    def __init__(self, version: int, dim: int, heads: int, window: int, shift: int, ratio: int = 4) -> None:
        super().__init__()
        attention = WindowAttentionV2 if version == 2 else WindowAttentionV1
        self.version = version
        self.window = window
        self.shift = shift
        self.attn = attention(dim, heads, window)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, ratio * dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.version == 2:
            x = x + self.norm1(self._attend(x))
            return x + self.norm2(self.mlp(x))
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        shift = self.shift
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        x = window_reverse(self.attn(window_partition(x, self.window), height, width, shift), height, width)
        return torch.roll(x, (shift, shift), (1, 2)) if shift else x


def swin_blocks(version: int, depth: int, dim: int, heads: int, window: int, side: int) -> nn.Sequential:
    """`depth` blocks on a side x side map, every second one shifted by half a window.

    A map no larger than the window is one window of its own size, and nothing is shifted.
    """
    fitted = min(window, side)
    shift = 0 if side <= window else window // 2
    return nn.Sequential(
        *(SwinBlock(version, dim, heads, fitted, shift if i % 2 else 0) for i in range(depth))
    )


class PatchMerging(nn.Module):
    """Halves a map's sides and doubles its channels (Swin V2: the norm comes last)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, dim = x.shape
        x = x.reshape(b, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.norm(self.reduction(x))


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[b, windows, n, 3·dim] -> three times [b, windows, heads, n, d]."""
    b, windows, n, _ = qkv.shape
    q, k, v = qkv.view(b, windows, n, 3, heads, -1).permute(3, 0, 1, 4, 2, 5).unbind(0)
    return q, k, v


def window_partition(x: Tensor, window: int) -> Tensor:
    """[b, height, width, dim] -> [b, windows, window², dim]."""
    b, height, width, dim = x.shape
    x = x.view(b, height // window, window, width // window, window, dim)
    return x.transpose(2, 3).reshape(b, -1, window * window, dim)


def window_reverse(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `window_partition`."""
    b, _, n, dim = x.shape
    window = math.isqrt(n)
    x = x.view(b, height // window, width // window, window, window, dim)
    return x.transpose(2, 3).reshape(b, height, width, dim)


def offset_index(window: int) -> Tensor:
    """Which of the (2·window-1)² offsets lies between each two tokens of a window: [n·n]."""
    axis = torch.arange(window, device="cpu")  # not "meta", which would load torch's compiler, 80 MB
    rows, cols = (t.flatten() for t in torch.meshgrid(axis, axis, indexing="ij"))
    down = rows[:, None] - rows[None, :] + window - 1
    right = cols[:, None] - cols[None, :] + window - 1
    return (down * (2 * window - 1) + right).flatten()


def log_offsets(window: int) -> Tensor:
    """All offsets in a window on Swin V2's logarithmic scale, [(2·window-1)², 2]."""
    axis = torch.arange(1 - window, window, dtype=torch.float32, device="cpu") / max(1, window - 1) * 8
    offsets = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2)
    return offsets.sign() * torch.log2(offsets.abs() + 1) / math.log2(8)


def shift_mask(
    height: int, width: int, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """-100 between tokens that only the cyclic shift made neighbours, else 0: [windows, n, n]."""
    strips = []
    for size in (height, width):
        i = torch.arange(size, device=device)
        strips.append((i >= size - window).int() + (i >= size - shift).int())
    regions = (strips[0][:, None] * 3 + strips[1][None, :]).view(1, height, width, 1)
    regions = window_partition(regions, window)[0, :, :, 0]
    differ = regions[:, :, None] != regions[:, None, :]
    return torch.zeros(differ.shape, device=device, dtype=dtype).masked_fill(differ, -100.0)
