"""DehazeXL: patches through a Swin V2 encoder, all tokens through a global mixer, patches back.

Chen et al., "Tokenize Image Patches: Global Context Fusion for Effective Haze Removal in Large Images",
CVPR 2025, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.attention import PILOT_LOGITS
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.models.bottleneck import TOKENS_AT_ONCE, Bottleneck
from dehazexl_cli.models.swin import PatchMerging, swin_blocks
from dehazexl_cli.plan import Footprint

STRIDE = 32  # pixels per token side
STEM = 4  # pixels per side of a cell of the finest feature map
KERNEL_BYTES = 40 << 20  # measured


@dataclass(frozen=True)
class DehazeXLConfig:
    """The shape of a DehazeXL network."""

    patch: int = 256
    embed: int = 96  # channels at stride 4; they double with every stage
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 16
    mixer_depth: int = 2
    mixer_heads: int = 8
    decoder_depth: int = 2
    decoder_heads: tuple[int, ...] = (24, 12, 6, 3)
    decoder_window: int = 8
    upsample: Literal["transpose", "linear"] = "transpose"  # the released revision, or the earlier one

    @property
    def token_dim(self) -> int:
        """Channels of a token."""
        return self.embed * 2 ** (len(self.depths) - 1)


PAPER = DehazeXLConfig()


class DehazeXL(DehazeModel):
    """The network. Tokens are [b, 64, dim] per 256-pixel patch; the scene is [scenes, patches, 64, dim]."""

    def __init__(self, config: DehazeXLConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.overlap = STRIDE
        self.encoder = Encoder(config)
        self.mixer = Bottleneck(config.token_dim, config.mixer_heads, config.mixer_depth)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        return self.encoder.norm.weight.dtype

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        *skips, deepest = self.encoder(batch.pixels.to(self.dtype))
        return deepest.flatten(1, 2), (*skips, deepest)

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        mixed = self.mixer(tokens.flatten(1, 2), token_places(grid, tokens.device), seed, self.query_chunk)
        return mixed.view_as(tokens)

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        side = self.patch // STRIDE
        x = scene.flatten(0, 1)[list(batch.ids)].unflatten(1, (side, side))
        return self.decoder(x, skips, batch.pixels)

    def _bias_numbers(self) -> int:
        """Numbers of the position biases that are kept, with masks where windows are shifted."""
        sides = [self.patch // STEM >> number for number in range(len(self.config.depths))]
        stages = [*self.encoder.stages, *(stage.blocks for stage in self.decoder.stages)]
        return sum(
            block.attn.heads * block.window**4 * ((side // block.window) ** 2 if block.shift else 1)
            for stage, side in zip(stages, [*sides, *reversed(sides)], strict=True)
            for block in stage
        )

    def footprint(self, dtype: torch.dtype) -> Footprint:
        size = torch.empty((), dtype=dtype).element_size()
        cells = (self.patch // STEM) ** 2
        finest = cells * self.config.embed * size
        token = (self.patch // STRIDE) ** 2 * self.config.token_dim * size
        pixels = 3 * self.patch**2 * 4
        # The C library keeps nearly as many maps as are in flight of wide ones in float32, measured.
        on_cpu = 22 if dtype == torch.float32 else 12
        # Of a block: the hidden layer twice, what goes in, its norm, and a sum; maps of all stages; skips.
        work = 59 * finest // 2 + pixels
        sparing = 17 * token // 10  # mixed in their place; attended, and a head of all; measured
        return Footprint(
            weight_bytes=self.weight_bytes(dtype) + size * self._bias_numbers(),
            token_bytes=token,
            skip_bytes=finest * 15 // 8,  # 1 + 1/2 + 1/4 + 1/8: each stage halves the numbers
            work_bytes=work,
            freed_bytes=max(0, 2 * on_cpu * finest + 6 * pixels - work),
            bottleneck_bytes=7 * token,  # tokens, queries, keys, values, attended, sums; measured
            bottleneck_part_bytes=sparing,
            bottleneck_sampled_bytes=sparing,
            bottleneck_copied_bytes=token if dtype == torch.float16 else 0,
            kernel_bytes=KERNEL_BYTES,
            # Norms in float32, hidden layers and their product, of those tokens that are taken at a time.
            bottleneck_fixed_bytes=TOKENS_AT_ONCE * self.config.token_dim * (8 + 14 * size),
            bottleneck_fixed_patches=TOKENS_AT_ONCE // (self.patch // STRIDE) ** 2,
            bottleneck_pilot_bytes=10 * PILOT_LOGITS,
        )


class Encoder(nn.Module):
    """Swin V2: [b, 3, patch, patch] -> maps [b, side, side, channels] at strides 4, 8, 16, 32."""

    def __init__(self, config: DehazeXLConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.embed, STEM, STEM)
        self.norm = nn.LayerNorm(config.embed)
        self.merges = nn.ModuleList()
        self.stages = nn.ModuleList()
        dim, side = config.embed, config.patch // STEM
        for depth, heads in zip(config.depths, config.heads, strict=True):
            if self.stages:
                self.merges.append(PatchMerging(dim))
                dim, side = 2 * dim, side // 2
            self.stages.append(swin_blocks(2, depth, dim, heads, config.window, side))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stages[0](self.norm(self.stem(x).permute(0, 2, 3, 1)))]
        for merge, stage in zip(self.merges, self.stages[1:], strict=True):
            maps.append(stage(merge(maps[-1])))
        return maps


class Decoder(nn.Module):
    """Joins mixed tokens and skips from coarse to fine (Swin V1) and ends in dehazed pixels."""

    def __init__(self, config: DehazeXLConfig) -> None:
        super().__init__()
        side = config.patch // STRIDE
        dims = [config.token_dim >> number for number in range(len(config.decoder_heads))]
        self.stages = nn.ModuleList(
            DecoderStage(config, dim, heads, side << number, upsample=dim != dims[-1])
            for number, (dim, heads) in enumerate(zip(dims, config.decoder_heads, strict=True))
        )
        self.ending = ResidualImageHead(2 * dims[-1], dims[-1], config.upsample)

    def forward(self, x: Tensor, skips: Skips, pixels: Tensor) -> Tensor:
        """Tokens [b, side, side, dim], skips fine to coarse -> [b, 3, patch, patch] float32."""
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = stage(x, skip)
        return self.ending(x, pixels)


class DecoderStage(nn.Module):
    """One resolution of the decoder."""

    def __init__(self, config: DehazeXLConfig, dim: int, heads: int, side: int, upsample: bool) -> None:
        super().__init__()
        self.blocks = swin_blocks(1, config.decoder_depth, 2 * dim, heads, config.decoder_window, side)
        self.upsample = Upsample(2 * dim, dim // 2, config.upsample) if upsample else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join a map and the skip beside it, both [b, side, side, dim]."""
        return self.upsample(self.blocks(torch.cat([x, skip], dim=-1)))


class Upsample(nn.Module):
    """Doubles a map's sides: by transposed convolution, or by a linear layer whose channels spread out."""

    def __init__(self, dim: int, out: int, kind: Literal["transpose", "linear"]) -> None:
        super().__init__()
        self.out = out
        self.norm: nn.Module = nn.Identity()
        if kind == "transpose":
            self.expand: nn.Module = nn.ConvTranspose2d(dim, out, 2, 2)
        else:
            self.expand = nn.Linear(dim, 4 * out, bias=False)
            self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.expand, nn.ConvTranspose2d):
            return self.expand(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        b, height, width, _ = x.shape
        x = self.expand(x).view(b, height, width, 2, 2, self.out).transpose(2, 3)
        return self.norm(x.reshape(b, 2 * height, 2 * width, self.out))


class ResidualImageHead(nn.Module):
    """The published ending: a residual image from the features at stride 4."""

    def __init__(self, width: int, dim: int, upsample: Literal["transpose", "linear"]) -> None:
        super().__init__()
        self.first = Upsample(width, dim // 2, upsample)
        self.up = Upsample(dim // 2, dim // 8, upsample)
        self.output = nn.Conv2d(dim // 8, 3, 1, bias=False)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        return pixels + self.output(self.up(self.first(x)).permute(0, 3, 1, 2)).float()


def token_places(grid: PatchGrid, device: torch.device) -> Tensor:
    """Where tokens lie, (down, right) in tokens from the origin, by present patches: [n, 2] float32."""
    side = grid.patch // STRIDE
    starts = torch.tensor(
        [[grid.origin[0] + box.top, grid.origin[1] + box.left] for box in map(grid.box, grid.present)],
        dtype=torch.float32,
    )
    within = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    return (starts[:, None] / STRIDE + within[None]).view(-1, 2).to(device)
