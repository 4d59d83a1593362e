"""`dehazexl-s`: a good dehazer before it has learned anything, and convolutions to make it better.

Of the family of DehazeXL (Chen et al., CVPR 2025): patches are encoded to tokens, a global bottleneck lets
the whole scene be seen once, patches are decoded. What needs the whole scene is gathered as tokens: how dark
the darkest things are, means and deviations, and what a small network sees. The bottleneck makes of them the
scene's dark envelopes, what tokens tell each other, and one vector for the scene. The decoder is convolutions
over a patch; each of its stages writes shares of envelopes and corrections of a colour transform
(`dark_envelopes`). It ends in an affine transform per place and colour, so it cannot invent texture.

How thick haze is can only be told by comparing grounds, and a patch of a large scene may show nothing but
one roof under one cloud. So the bottleneck also dehazes a thumbnail of such a scene, put together from its
tokens, and tells each patch the transforms that were found there; these make up most of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips, cut_batches
from dehazexl_cli.models.dark_envelopes import (
    COLOURS,
    TRANSFORM,
    candidates,
    colour_transforms,
    darkest_cells,
    envelope,
    keep_unseen,
    share_seen,
    transmission,
)
from dehazexl_cli.models.dehazexl import STEM, STRIDE, token_places
from dehazexl_cli.models.interpolation import bilinear_weights
from dehazexl_cli.models.residual import FixedNormConv2d, ResidualBlock, leaky_relu, zero_init
from dehazexl_cli.models.token_bottleneck import TokenBottleneck, TokenMap
from dehazexl_cli.plan import Footprint

NEAR = 5  # cells of STEM pixels: the window of the narrowest envelope
WINDOWS = (3, 9)  # tokens: the windows of the wider envelopes; the widest is the scene
STATISTICS = 4 * COLOURS  # of a token: least, mean, deviation and greatest of each colour
ENVELOPES = COLOURS * (len(WINDOWS) + 1)  # that come from the bottleneck
VEILS = 1 + 2 * (len(WINDOWS) + 2)  # candidates of a veil
NUMBERS = VEILS + TRANSFORM + 1  # the last corrects transmission
MARGIN = 1  # tokens around a patch that its context reaches
CELLS = STRIDE // STEM  # per side of a token
PICTURE = COLOURS * CELLS**2  # numbers of a token: the mean colours of its cells
SHARE = 0.75  # of the transforms of a large scene that are its thumbnail's
OVERALL = TRANSFORM + 1  # numbers of a token: the thumbnail's transform, and its share
CENTER, SPREAD = 0.45, 0.22  # of pixels, so that networks see numbers around 0


@dataclass(frozen=True)
class DehazeXLSConfig:
    """The shape of the network."""

    patch: int = 256
    encoder_widths: tuple[int, ...] = (24, 48, 96)  # channels at strides 4, 8, 16
    token_dim: int = 96  # of what the encoder makes of a token
    dim: int = 128  # of tokens in the bottleneck, and of the context that patches get
    wide_dim: int = 160  # of tokens of four times the side
    latents: int = 16  # that hear all tokens, and that all tokens hear; 0: tokens do not attend
    heads: int = 4
    scene_dim: int = 96  # of what is said of the scene as one
    widths: tuple[int, ...] = (48, 96, 160, 224)  # channels at strides 4, 8, 16, 32
    down_blocks: tuple[int, ...] = (1, 1, 2, 2)
    up_blocks: tuple[int, ...] = (1, 1, 1)  # at strides 4, 8, 16


DEFAULT = DehazeXLSConfig()


class DehazeXLS(DehazeModel):
    """The network. Tokens are [b, 64, statistics + picture + token_dim] per 256-pixel patch.

    The scene is told to each patch as one vector: the tokens of the bottleneck around it, envelopes and the
    thumbnail's transforms among them, and the scene's own.
    """

    def __init__(self, config: DehazeXLSConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.overlap = STRIDE
        self.tells_haze = True
        self.encoder = Encoder(config)
        self.bottleneck = TokenBottleneck(
            statistics=STATISTICS,
            token_dim=config.token_dim,
            dim=config.dim,
            wide_dim=config.wide_dim,
            latents=config.latents,
            heads=config.heads,
            scene_dim=config.scene_dim,
            windows=WINDOWS,
        )
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        return self.encoder.last.weight.dtype

    @property
    def side(self) -> int:
        """Tokens per side of a patch."""
        return self.patch // STRIDE

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        with torch.autocast(batch.pixels.device.type, enabled=False):
            known = token_statistics(batch.pixels)
            picture = F.pixel_unshuffle(F.avg_pool2d(batch.pixels, STEM), CELLS)
        seen = self.encoder(normalized_cells(batch.pixels).to(self.dtype))
        tokens = torch.cat([known, seen.float(), picture], dim=1).flatten(2).mT
        # Half precision has room for statistics of 8 bits and more; bfloat16 has not.
        return (tokens if self.dtype == torch.float32 else tokens.half()), ()

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        # The map begins with the scene, wherever that lies in a larger one.
        places = token_places(replace(grid, origin=(0, 0)), tokens.device)
        size = -(-grid.height // STRIDE), -(-grid.width // STRIDE)
        seen = TokenMap.of(tokens.flatten(1, 2), places, size)
        said, picture = seen.tokens.split([STATISTICS + self.config.token_dim, PICTURE], dim=1)
        scene = self.bottleneck(seen._replace(tokens=said))
        if max(grid.height, grid.width) >= STEM * self.patch:
            overall = self._overall(picture, seen.present)
        else:  # it would hardly be smaller than the scene
            overall = said.new_zeros(len(said), OVERALL, *size)
        scene = scene._replace(map=torch.cat([scene.map, overall], dim=1))
        offsets = torch.arange(-MARGIN, self.side + MARGIN, device=tokens.device)
        rows, cols = (
            torch.arange(count, device=tokens.device)[:, None] * (grid.stride / STRIDE) + offsets
            for count in (grid.rows, grid.cols)
        )
        around = scene.around(rows, cols).flatten(1, 2).flatten(2)
        if grid.empty:
            around = around[:, grid.present]
        whole = scene.vector[:, None].expand(-1, around.shape[1], -1)
        return torch.cat([around, whole], dim=2)

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        return self.decoder(batch.pixels, *self._told(batch, scene))

    def _told(self, batch: PatchBatch, scene: Tensor) -> tuple[Tensor, Tensor]:
        """What each patch of a batch is told: of the tokens around it, and of the scene as one."""
        told = scene.flatten(0, 1)[list(batch.ids)]
        around, whole = told.split([told.shape[1] - self.config.scene_dim, self.config.scene_dim], dim=1)
        side = self.side + 2 * MARGIN
        return around.unflatten(1, (-1, side, side)), whole

    def _overall(self, picture: Tensor, present: Tensor) -> Tensor:
        """What a scene's thumbnail tells each of its tokens [b, OVERALL, h, w]."""
        cells = F.pixel_shuffle(picture, CELLS)
        small = thumbnail(cells, F.interpolate(present, scale_factor=CELLS), self.patch)
        grid = PatchGrid(small.shape[2], small.shape[3], self.patch)
        (batch,) = cut_batches(small, grid, len(small))
        tokens, _ = self.encode(batch)
        told = self._told(batch, self.apply_bottleneck(tokens[:, None], grid, None))
        transforms = self.decoder.transforms(batch.pixels, *told)[:, :TRANSFORM]
        inside = transforms[..., : -(-grid.height // STEM), : -(-grid.width // STEM)]
        raised = F.interpolate(inside, present.shape[2:], mode="bilinear", antialias=True)
        return torch.cat([raised, torch.full_like(raised[:, :1], SHARE)], dim=1)

    def footprint(self, dtype: torch.dtype) -> Footprint:
        size = torch.empty((), dtype=dtype).element_size()
        config = self.config
        token = (self.patch // STRIDE) ** 2
        seen = 4 * token * (STATISTICS + config.token_dim + PICTURE)
        scene = 4 * token * (config.dim + ENVELOPES + OVERALL)
        said = seen if dtype == torch.float32 else seen // 2
        told = 4 * ((self.side + 2 * MARGIN) ** 2 * (config.dim + ENVELOPES + OVERALL) + config.scene_dim)
        cells = (self.patch // STEM) ** 2
        finest = cells * config.widths[0] * size
        stages = sum(cells * width * size >> 2 * number for number, width in enumerate(config.widths))
        pixels = 3 * self.patch**2 * 4
        known = COLOURS * (STEM**2 + VEILS + 2) + 2 * ENVELOPES + 2 * COLOURS + OVERALL + NUMBERS
        # Pixels, what they are told, and what is known of cells; beside them a residual block and the stages
        # before, or a gain and an offset for each pixel, and the result.
        work = pixels + told + 4 * cells * known + max(7 * finest // 2 + stages, 3 * pixels)
        return Footprint(
            weight_bytes=self.weight_bytes(dtype),
            token_bytes=told,  # which is more than was said
            skip_bytes=0,
            work_bytes=work,
            freed_bytes=max(0, 8 * finest + 8 * pixels - work),
            # What was said, the map, and what is told twice; or in its place two maps of what was said, and
            # five of the network's own.
            bottleneck_bytes=said + max(told + scene, 2 * seen + 5 * token * config.dim * size - told),
            bottleneck_fixed_bytes=work,  # of the thumbnail
            bottleneck_fixed_patches=STEM**2,
            kernel_bytes=40 << 20,
        )


def thumbnail(picture: Tensor, present: Tensor, side: int) -> Tensor:
    """Average a picture [b, 3, h, w] down to a longer side; what is not present gets the mean colour."""
    mean = (picture * present).sum((2, 3), keepdim=True) / present.sum()
    scale = side / max(picture.shape[2:])
    height, width = (max(1, round(length * scale)) for length in picture.shape[2:])
    return F.adaptive_avg_pool2d(torch.where(present > 0, picture, mean), (height, width))


class Encoder(nn.Module):
    """What a small network makes of 32 x 32 pixels: [b, 48, side, side] at stride 4 -> [b, dim, …] at 32."""

    def __init__(self, config: DehazeXLSConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.encoder_widths
        self.first = FixedNormConv2d(COLOURS * STEM**2, fine, 1)
        self.second = FixedNormConv2d(fine, middle, stride=2)
        self.third = FixedNormConv2d(middle, coarse, stride=2)
        self.blocks = nn.Sequential(ResidualBlock(coarse), ResidualBlock(coarse))
        self.last = FixedNormConv2d(coarse, config.token_dim, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = leaky_relu(layer(x))
        return self.last(self.blocks(x))


class Decoder(nn.Module):
    """Convolutions over a patch and what it was told, to a colour transform for every pixel."""

    def __init__(self, config: DehazeXLSConfig) -> None:
        super().__init__()
        widths = config.widths
        known = COLOURS * STEM**2 + ENVELOPES + 2 * COLOURS  # pixels, wide envelopes, narrow ones, cells
        self.dim = config.dim
        self.down = nn.ModuleList()
        before = known
        for number, (width, blocks) in enumerate(zip(widths, config.down_blocks, strict=True)):
            stride = 2 if number else 1
            self.down.append(Stage(before, width, blocks, stride, config.scene_dim))
            before = width
        self.context_proj = zero_init(nn.Conv2d(config.dim, widths[-1], 1))
        self.upconv = nn.ModuleList()
        self.up = nn.ModuleList()
        self.heads = nn.ModuleList([zero_init(nn.Conv2d(widths[-1], NUMBERS, 1))])
        for number in reversed(range(len(widths) - 1)):
            self.upconv.append(zero_init(nn.Conv2d(widths[number + 1], widths[number], 1)))
            self.up.append(
                nn.Sequential(*(ResidualBlock(widths[number]) for _ in range(config.up_blocks[number])))
            )
            self.heads.append(zero_init(nn.Conv2d(widths[number], NUMBERS, 1)))
        self.scene_head = zero_init(nn.Linear(config.scene_dim, NUMBERS))
        with torch.no_grad():
            self.scene_head.bias[:VEILS] = torch.tensor(START)
        cells = config.patch // STEM
        tokens = config.patch // STRIDE
        self.register_buffer("raise_context", bilinear_weights(cells, tokens, MARGIN), persistent=False)
        self.register_buffer("raise_pixels", bilinear_weights(config.patch, cells), persistent=False)

    def forward(self, pixels: Tensor, context: Tensor, scene: Tensor) -> Tensor:
        """Dehaze pixels [b, 3, patch, patch], told context [b, …, side, side] and scene [b, scene_dim].

        Context is dim + ENVELOPES + OVERALL channels for each token. Returns colours, then transmission.
        """
        transforms = self.transforms(pixels, context, scene)
        with torch.autocast(pixels.device.type, enabled=False):
            up = self.get_buffer("raise_pixels").float()
            gain, offset, arriving = (up @ transforms @ up.mT).split([COLOURS, COLOURS, 1], dim=1)
            return torch.cat([torch.addcmul(offset, gain, pixels), arriving], dim=1)

    def transforms(self, pixels: Tensor, context: Tensor, scene: Tensor) -> Tensor:
        """Return gains, offsets, and transmission, [b, 7, cells, cells] of patches."""
        dtype = self.context_proj.weight.dtype
        said, wide, overall = context.split([self.dim, ENVELOPES, OVERALL], dim=1)
        with torch.autocast(pixels.device.type, enabled=False):
            cells = darkest_cells(pixels, STEM)
            near = envelope(cells, NEAR)
            up = self.get_buffer("raise_context").float()
            wide, overall = up @ wide.float() @ up.mT, up @ overall.float() @ up.mT
            known = torch.cat(
                [normalized_cells(pixels), normalize(torch.cat([wide, near, cells], dim=1))], dim=1
            )
            veils = candidates([near, *wide.split(COLOURS, dim=1)])
        numbers = self._numbers(
            known.to(dtype), said[..., MARGIN:-MARGIN, MARGIN:-MARGIN].to(dtype), scene.to(dtype)
        )
        with torch.autocast(pixels.device.type, enabled=False):
            numbers, arriving = numbers.float().split([VEILS + TRANSFORM, 1], dim=1)
            overall, share = overall.split([TRANSFORM, 1], dim=1)
            transforms = colour_transforms(numbers, veils).lerp(overall, share)
            return torch.cat(
                [keep_unseen(transforms, share_seen(near)), transmission(transforms, arriving)], dim=1
            )

    def _numbers(self, x: Tensor, said: Tensor, scene: Tensor) -> Tensor:
        """Shares and corrections of each cell [b, NUMBERS, cells, cells]: what every stage has written."""
        kept = []
        for stage in self.down:
            x = stage(x, scene)
            kept.append(x)
        x = x + self.context_proj(said)
        numbers = self.scene_head(scene)[:, :, None, None] + self.heads[0](x)
        skips = reversed(kept[:-1])
        for conv, blocks, head, skip in zip(self.upconv, self.up, self.heads[1:], skips, strict=True):
            x = blocks(upsample(conv(x)).add_(skip))
            numbers = upsample(numbers) + head(x)
        return numbers


# Where learning starts: shares (as logits) of no veil, then of each envelope by colours and grey.
START = (0.0, -1.0, -1.0, 0.0, -1.0, 0.5, -1.0, 1.0, 0.0)


class Stage(nn.Module):
    """A resolution on the way down: a convolution, gated by what the scene is like, and residual blocks."""

    def __init__(self, before: int, width: int, blocks: int, stride: int, scene_dim: int) -> None:
        super().__init__()
        self.conv = FixedNormConv2d(before, width, stride=stride)
        self.gate = zero_init(nn.Linear(scene_dim, 2 * width))
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))

    def forward(self, x: Tensor, scene: Tensor) -> Tensor:
        factor, offset = self.gate(scene)[:, :, None, None].chunk(2, dim=1)
        return self.blocks(leaky_relu(torch.addcmul(offset, self.conv(x), 1 + factor)))


def upsample(x: Tensor) -> Tensor:
    """A map of twice the sides, between its cells linearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def normalized_cells(pixels: Tensor) -> Tensor:
    """Pixels [b, 3, h, w] in [0, 1] as networks see them: centred, at stride 4 [b, 48, h / 4, w / 4]."""
    return F.pixel_unshuffle(normalize(pixels), STEM).contiguous(memory_format=torch.channels_last)


def normalize(values: Tensor) -> Tensor:
    """Values in [0, 1] around 0."""
    return (values - CENTER) / SPREAD


def token_statistics(pixels: Tensor) -> Tensor:
    """Least, mean, deviation and greatest of each colour: [b, 3, h, w] -> [b, 12, h / 32, w / 32]."""
    half = F.avg_pool2d(pixels, 2)
    least, greatest = -F.max_pool2d(-half, STRIDE // 2), F.max_pool2d(half, STRIDE // 2)
    mean = F.avg_pool2d(half, STRIDE // 2)
    variance = F.avg_pool2d(half.square(), STRIDE // 2) - mean.square()
    return torch.cat([least, mean, variance.clamp(min=0).sqrt(), greatest], dim=1)
