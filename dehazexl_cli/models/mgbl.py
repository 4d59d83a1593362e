"""Multi-guided bilateral learning: affine colour transforms from a small picture, sliced by three guides.

Zheng et al., "Ultra-High-Definition Image Dehazing via Multi-Guided Bilateral Learning", CVPR 2021. One
U-Net turns a thumbnail into a bilateral grid of 3x4 transforms, another turns a second thumbnail into a
colour picture. At full resolution, a small net per colour plane says at which depth of the grid each pixel
looks up the transform that is applied to the raised colour picture; a few convolutions join the results.

Resizing is linear in the pixels, so the thumbnails are sums over patches. The network pads with zeros at
the edges of the scene, so before each convolution whatever lies outside is set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.models.unet import BatchNorm, UNet
from dehazexl_cli.plan import Footprint

CUBIC = -0.75  # the free parameter of bicubic interpolation
AFFINE = 12  # numbers of a colour transform: three rows of three factors and an offset
COLOURS = "rgb"
HALO = 5  # five 3x3 convolutions follow one another: two in a guide, one in `fuse`, two in `gain`


@dataclass(frozen=True)
class BilateralConfig:
    """The shape of a multi-guided bilateral network."""

    patch: int = 256  # the result does not depend on it
    grid_side: int = 256  # of the thumbnail that becomes the bilateral grid, pixels
    colour_side: int = 320  # of the thumbnail that becomes the colour picture, pixels
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # of both U-Nets, fine to coarse
    cells: int = 16  # of the bilateral grid along height and along width
    depth: int = 16  # cells along the guide
    guide_width: int = 16


PUBLISHED = BilateralConfig()


class Thumbnail(NamedTuple):
    """Where the pixels of some patches lie, and which of them lie in the scene."""

    rows: Tensor  # [b, side] scene row of each pixel row; outside: below 0, or the height and more
    cols: Tensor  # [b, side]
    grid: PatchGrid

    def cut(self, margin: int) -> Thumbnail:
        """The view without its outermost pixels."""
        inner = slice(margin, self.rows.shape[1] - margin)
        return Thumbnail(self.rows[:, inner], self.cols[:, inner], self.grid)

    def masked(self, x: Tensor) -> Tensor:
        """`x` [b, channels, side, side], zero outside the scene."""
        rows = (self.rows >= 0) & (self.rows < self.grid.height)
        cols = (self.cols >= 0) & (self.cols < self.grid.width)
        return x * (rows[:, None, :, None] & cols[:, None, None, :])


class MultiGuidedBilateral(DehazeModel):
    """The network. Tokens are both thumbnails [b, n]; the scene is grid and colour picture [scenes, k]."""

    token_reduction = "sum"
    halo = HALO

    def __init__(self, config: BilateralConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.grid_net = UNet(config.widths)
        self.colour_net = UNet(config.widths)
        self.guides = nn.ModuleDict({colour: Guide(config.guide_width) for colour in COLOURS})
        self.tints = nn.ModuleDict({colour: nn.Conv2d(3, 3, 1) for colour in COLOURS})
        self.fuse = nn.Sequential(nn.Conv2d(9, 16, 3), nn.PReLU(), nn.Conv2d(16, 3, 1), nn.PReLU())
        self.gain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 3, 3), nn.PReLU())
        self.bend = nn.PReLU()  # of the three tints and of the output

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        return self.bend.weight.dtype

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        view = view_of(batch, self.halo).cut(self.halo)
        pixels = batch.pixels[..., HALO:-HALO, HALO:-HALO]
        with torch.autocast(pixels.device.type, enabled=False):  # a sum over thousands of patches
            thumbnails = [
                shrunk(pixels, view, side) for side in (self.config.grid_side, self.config.colour_side)
            ]
        return torch.cat([thumbnail.flatten(1) for thumbnail in thumbnails], dim=1), ()

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        config = self.config
        first = 3 * config.grid_side**2
        for_grid = tokens[:, :first].view(-1, 3, config.grid_side, config.grid_side)
        for_colour = tokens[:, first:].view(-1, 3, config.colour_side, config.colour_side)
        picture = self.grid_net(for_grid.to(self.dtype)).float()
        # Published so: the cells are a picture of three channels, pooled and read in another shape.
        cells = F.adaptive_avg_pool2d(picture, (4 * config.cells, config.depth * config.cells))
        colour = self.colour_net(for_colour.to(self.dtype)).float()
        return torch.cat([cells.flatten(1), colour.flatten(1)], dim=1)

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        view = view_of(batch, self.halo)
        x = view.masked(batch.pixels).to(self.dtype)
        depths = torch.cat(
            [self.guides[colour](x[:, i : i + 1], view) for i, colour in enumerate(COLOURS)], dim=1
        )
        # From here on it is a picture, and stays float32 as pixels do, in training too.
        with torch.autocast(x.device.type, enabled=False):
            cells, colour = self._unpacked(batch, scene.float())
            view = view.cut(2)
            painted = self._painted(sliced(cells, depths.float(), view), raised(colour, view))
            mist = run_wide(self.fuse, view.masked(painted))
            gain = run_wide(self.gain[:2], view.cut(1).masked(mist))
            gain = run_wide(self.gain[2:], view.cut(2).masked(gain))
            pixels = batch.pixels[..., HALO:-HALO, HALO:-HALO]
            return run_wide(self.bend, gain * pixels - mist[..., 2:-2, 2:-2] + 1)

    def _unpacked(self, batch: PatchBatch, scene: Tensor) -> tuple[Tensor, Tensor]:
        """For each patch its scene's grid [b, 12, depth, cells, cells] and colours [b, 3, side, side]."""
        config = self.config
        mine = scene[[id // len(batch.grid) for id in batch.ids]]
        first = AFFINE * config.depth * config.cells**2
        cells = mine[:, :first].unflatten(1, (AFFINE, config.depth, config.cells, config.cells))
        return cells, mine[:, first:].unflatten(1, (3, config.colour_side, config.colour_side))

    def _painted(self, transforms: Tensor, colour: Tensor) -> Tensor:
        """Transforms [b, 12, guides, side, side] applied to [b, 3, side, side] -> [b, 9, side, side]."""
        transforms = transforms.unflatten(1, (3, 4))  # [b, out, in, guides, side, side]
        painted = []
        for i, name in enumerate(COLOURS):
            tinted = run_wide(self.bend, run_wide(self.tints[name], colour))
            painted.append((transforms[:, :, :3, i] * tinted[:, None]).sum(2) + transforms[:, :, 3, i])
        return torch.cat(painted, dim=1)

    def footprint(self, dtype: torch.dtype) -> Footprint:
        size = torch.empty((), dtype=dtype).element_size()
        config = self.config
        thumbnails = 3 * (config.grid_side**2 + config.colour_side**2) * 4
        finest = config.widths[0] * max(config.grid_side, config.colour_side) ** 2 * size
        seen = (self.patch + 2 * self.halo) ** 2
        return Footprint(
            # With the weights, what is there once however large the scene: thumbnails.
            weight_bytes=self.weight_bytes(dtype) + 3 * thumbnails,
            token_bytes=0,  # they are summed
            skip_bytes=0,
            work_bytes=120 * seen * 4,  # float32 from the grid on, and transforms are 36 numbers; measured
            bottleneck_bytes=0,
            bottleneck_fixed_bytes=10 * finest,  # a U-Net at work
        )


class Guide(nn.Module):
    """Where along the depth of the grid each pixel looks, from one colour plane."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3), BatchNorm(width), nn.PReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3), BatchNorm(width), nn.PReLU())
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, plane: Tensor, view: Thumbnail) -> Tensor:
        """A plane [b, 1, side, side] that is zero outside the scene -> depths [b, 1, side - 4, side - 4]."""
        return self.last(self.second(view.cut(1).masked(self.first(plane)))).tanh()


def run_wide(module: nn.Module, x: Tensor) -> Tensor:
    """The module in the dtype of `x`, whatever that of its weights."""
    weights = {name: weight.to(x.dtype) for name, weight in module.named_parameters()}
    return torch.func.functional_call(module, weights, (x,))


def view_of(batch: PatchBatch, halo: int) -> Thumbnail:
    """Where the pixels of a batch lie, halo included."""
    grid, device = batch.grid, batch.pixels.device
    corners = [grid.box(id % len(grid))[:2] for id in batch.ids]
    tops, lefts = torch.tensor(corners, device=device).T
    along = torch.arange(-halo, grid.patch + halo, device=device)
    return Thumbnail(tops[:, None] + along, lefts[:, None] + along, grid)


def shrunk(pixels: Tensor, view: Thumbnail, side: int) -> Tensor:
    """What patches [b, 3, patch, patch] add to a thumbnail of their scene: [b, 3, side, side].

    Pixels outside the scene add nothing, and those that patches share are added once.
    """
    grid = view.grid
    places = torch.arange(side, device=pixels.device)[None]
    rows, cols = own(view.rows, grid.stride, grid.rows), own(view.cols, grid.stride, grid.cols)
    down = cubic_weights(places, side, rows, grid.height)  # [b, side, patch]
    right = cubic_weights(places, side, cols, grid.width)
    return down[:, None] @ pixels @ right[:, None].mT


def own(places: Tensor, stride: int, count: int) -> Tensor:
    """Places [b, patch] along an axis of `count` patches, those that the next patch begins with as -1."""
    patch = places.div(stride, rounding_mode="floor").clamp(max=count - 1)
    return torch.where(patch == patch[:, :1], places, -1)


def raised(picture: Tensor, view: Thumbnail) -> Tensor:
    """A picture [b, 3, side, side] of the whole scene at the pixels of the view."""
    side = picture.shape[-1]
    cells = torch.arange(side, device=picture.device)[None]
    down = cubic_weights(view.rows, view.grid.height, cells, side)  # [b, pixels, side]
    right = cubic_weights(view.cols, view.grid.width, cells, side)
    return down[:, None] @ picture @ right[:, None].mT


def cubic_weights(places: Tensor, size: int, sources: Tensor, source_size: int) -> Tensor:
    """Bicubic weights [b, n, m] by which sources [b, m] make up places [b, n] of an axis resized to `size`.

    First and last pixels of both axes coincide; beyond its ends the source's are repeated. Sources outside
    0..source_size-1 weigh nothing. Positions are exact: integers, up to the fraction.
    """
    last = max(1, size - 1)
    along = places * (source_size - 1)
    before = along.div(last, rounding_mode="floor")
    beyond = (along - before * last).float() / last  # [b, n] in [0, 1)
    weights = torch.zeros((), device=places.device)
    for tap in range(-1, 3):
        index = (before + tap).clamp(0, source_size - 1)
        share = cubic((beyond - tap).abs())
        weights = weights + share[:, :, None] * (index[:, :, None] == sources[:, None, :])
    return weights


def cubic(distance: Tensor) -> Tensor:
    """The bicubic kernel at distances from 0 to 2."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)


def sliced(cells: Tensor, depths: Tensor, view: Thumbnail) -> Tensor:
    """Transforms from grids [b, 12, depth, cells, cells] at depths [b, guides, side, side] of each pixel."""
    down = view.rows * (2 / max(1, view.grid.height - 1)) - 1  # [b, side], the scene's ends at -1 and 1
    right = view.cols * (2 / max(1, view.grid.width - 1)) - 1
    places = torch.stack(
        torch.broadcast_tensors(right[:, None, None, :], down[:, None, :, None], depths), dim=-1
    )
    return F.grid_sample(cells, places, align_corners=True)  # [b, 12, guides, side, side]
