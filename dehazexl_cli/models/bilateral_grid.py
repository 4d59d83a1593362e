"""Multi-guided bilateral learning on a true spatial grid: fast, small, and exact when streamed.

After Zheng et al., "Ultra-High-Definition Image Dehazing via Multi-Guided Bilateral Learning", CVPR 2021,
and Gharbi et al., "Deep Bilateral Learning for Real-Time Image Enhancement", SIGGRAPH 2017. A network looks
at a small view of the whole scene and writes a bilateral grid of 3x4 colour transforms. At full resolution
each pixel looks its transform up by its place and by three guides: the guide of a colour plane says at which
depth of the grid the row of the transform that makes this colour is read.

Unlike in the published form, a cell of the grid has a place in the scene, the view keeps the scene's shape,
and transforms apply to the scene's own pixels. The view is a mean over square blocks of pixels, hence a sum
over patches; the rest needs one pixel and the grid. So streaming changes nothing, however patches are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.plan import Footprint

CELL = 8  # pixels of the view per cell of the grid and side
COARSEST = 32  # the view's network halves it five times
ROW = 4  # numbers in a row of a colour transform: three factors and an offset
STRIP_PIXELS = 2**15  # worked on at a time, so that what a strip needs stays in the processor's cache
# In training each strip adds to the gradient of all cells around, so fewer are faster: a step by a fifth.
TRAINING_STRIP_PIXELS = 2**18
NORM_GROUPS = 8


@dataclass(frozen=True)
class BilateralGridConfig:
    """The shape of a bilateral network on a spatial grid."""

    patch: int = 256  # the result does not depend on it
    view: int = 512  # longest side of the view of the whole scene, pixels
    widths: tuple[int, ...] = (32, 64, 96, 160, 192)  # channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the view
    down_blocks: tuple[int, ...] = (0, 0, 2, 2, 2)  # residual blocks on the way down
    up_blocks: tuple[int, ...] = (2, 1)  # and on the way up, at 1/8 and 1/16
    depth: int = 4  # of the grid, along the guides
    guide_width: int = 8
    mean: tuple[float, float, float] = (0.458, 0.476, 0.444)  # normalisation of the view
    std: tuple[float, float, float] = (0.169, 0.159, 0.155)


BILATERAL_GRID = BilateralGridConfig()


class Thumbnail(NamedTuple):
    """How a scene is seen as a whole: as means over blocks of `step` x `step` pixels."""

    step: int
    height: int
    width: int

    @classmethod
    def of(cls, grid: PatchGrid, longest: int) -> Thumbnail:
        """The view of a scene, its longer side at most `longest` pixels."""
        step = -(-max(grid.height, grid.width) // longest)
        return cls(step, -(-grid.height // step), -(-grid.width // step))

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the grid, over the view's size rounded up to what the network takes."""
        return rounded_up(self.height) // CELL, rounded_up(self.width) // CELL


class BilateralGridModel(DehazeModel):
    """The network. Tokens are the sums of the view's blocks [b, n]; the scene is its grid [scenes, k]."""

    token_reduction = "sum"
    mean: Tensor
    std: Tensor

    def __init__(self, config: BilateralGridConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.net = GridNet(config)
        self.guide = Guide(config.guide_width)
        self.airlight = nn.Parameter(torch.full((3,), 0.85))
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        return self.net.head.weight.dtype

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        view = Thumbnail.of(batch.grid, self.config.view)
        sums = batch.pixels.new_zeros(len(batch.ids), 3, view.height, view.width)
        with torch.autocast(batch.pixels.device.type, enabled=False):  # a sum over thousands of patches
            for number, (id, pixels) in enumerate(zip(batch.ids, batch.pixels, strict=True)):
                # Taken one by one: what comes of unpacking a tensor must not be written to under autograd.
                add_block_sums(pixels, batch.grid, id % len(batch.grid), view, sums[number])
        return sums.flatten(1), ()

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        view = Thumbnail.of(grid, self.config.view)
        rows = block_sizes(grid.height, view.step, tokens)
        cols = block_sizes(grid.width, view.step, tokens)
        seen = tokens.view(-1, 3, view.height, view.width) / torch.outer(rows, cols)
        seen = (seen - self.mean.float()) / self.std.float()
        beyond = (0, rounded_up(view.width) - view.width, 0, rounded_up(view.height) - view.height)
        return self.net(F.pad(seen, beyond, mode="replicate").to(self.dtype)).float().flatten(1)

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        with torch.autocast(batch.pixels.device.type, enabled=False):  # pixels stay float32, in training too
            down, right, cells = self._around(batch, scene.float())
            # Between two depths it goes up linearly; so it is the first, and how far each step was climbed.
            levels = cells.unflatten(1, (self.config.depth, ROW * 3))
            steps = torch.cat([levels[:, :1], levels.diff(dim=1)], dim=1)
            raised = steps @ right.mT[:, None, None]  # [b, depth, 12, n, side]
            raised = raised.transpose(2, 3).flatten(3)  # [b, depth, n, 12 · side]
            side = batch.pixels.shape[-1]
            at_once = TRAINING_STRIP_PIXELS if torch.is_grad_enabled() else STRIP_PIXELS
            rows = max(1, at_once // (side * len(batch.ids)))
            strips = [
                self._dehazed(batch.pixels[:, :, top : top + rows], down[:, top : top + rows], raised)
                for top in range(0, side, rows)
            ]
            return torch.cat(strips, dim=2)

    def _dehazed(self, pixels: Tensor, down: Tensor, raised: Tensor) -> Tensor:
        """Rows of patches [b, 3, rows, side], with the weights [b, rows, n] of the grid's rows there."""
        depth = self.guide(pixels) * (self.config.depth - 1)
        distance = (pixels - self.airlight.float().view(1, 3, 1, 1)).transpose(1, 2)  # [b, rows, 3, side]
        result = pixels.transpose(1, 2)
        for level, transform in enumerate(raised.unbind(1)):
            *factors, change = (down @ transform).unflatten(2, (ROW, 3, -1)).unbind(2)  # [b, rows, 3, side]
            for colour, factor in enumerate(factors):
                change = torch.addcmul(change, factor, distance[:, :, colour : colour + 1])
            if level:
                change = change * (depth - (level - 1)).clamp(0, 1).transpose(1, 2)
            result = result + change
        return result.transpose(1, 2)

    def _around(self, batch: PatchBatch, scene: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the grid's rows and columns around each patch, and that part [b, depth · 12, n, n]."""
        grid = batch.grid
        view = Thumbnail.of(grid, self.config.view)
        cells = scene.view(len(scene), -1, *view.cells)
        size = CELL * view.step
        boxes = [grid.box(id % len(grid)) for id in batch.ids]
        rows = [interp_weights(box.top, box.height, size, view.cells[0], scene) for box in boxes]
        cols = [interp_weights(box.left, box.width, size, view.cells[1], scene) for box in boxes]
        around = [
            cells[id // len(grid), :, row.first : row.last, col.first : col.last]
            for id, row, col in zip(batch.ids, rows, cols, strict=True)
        ]
        return (
            torch.stack([row.weights for row in rows]),
            torch.stack([col.weights for col in cols]),
            torch.stack(around),
        )

    def footprint(self, dtype: torch.dtype) -> Footprint:
        size = torch.empty((), dtype=dtype).element_size()
        view = 3 * self.config.view**2 * 4
        finest = self.config.widths[0] * (self.config.view // 2) ** 2 * size
        pixels = 3 * self.patch**2 * 4
        raised = self.config.depth * ROW * 3 * (self.patch // CELL + 3) * self.patch * 4
        return Footprint(
            weight_bytes=self.weight_bytes(dtype) + 2 * view,
            token_bytes=0,  # they are summed
            skip_bytes=0,
            # Sums beside the pixels; or these, the result whole and in strips, and transforms of all columns.
            work_bytes=max(view + pixels, 3 * pixels + raised),
            freed_bytes=pixels,
            bottleneck_bytes=0,
            bottleneck_fixed_bytes=3 * finest,  # a U-Net at work
        )


class Guide(nn.Module):
    """At which depth of the grid, 0 to 1, each pixel looks, for every colour: at first its own brightness."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.last = nn.Linear(width, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [b, 3, height, width] float32 -> depths of the same shape."""
        flat = pixels.flatten(2)
        return (flat + wide(self.last, wide(self.first, flat).relu())).clamp(0, 1).view_as(pixels)


class GridNet(nn.Module):
    """A U-Net without its finest levels: view [b, 3, h, w] -> grid [b, depth · 12, h / 8, w / 8]."""

    def __init__(self, config: BilateralGridConfig) -> None:
        super().__init__()
        widths = config.widths
        self.down = nn.ModuleList()
        before = 3
        for width, blocks in zip(widths, config.down_blocks, strict=True):
            halving = nn.Conv2d(before, width, 3, stride=2, padding=1)
            self.down.append(
                nn.Sequential(halving, nn.ReLU(), *(ResidualBlock(width) for _ in range(blocks)))
            )
            before = width
        self.whole = nn.Linear(widths[-1], widths[-1])  # what the scene is like on average
        self.lift = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, blocks in zip((3, 2), reversed(config.up_blocks), strict=True):
            self.lift.append(nn.Conv2d(widths[level + 1], widths[level], 1))
            self.up.append(nn.Sequential(*(ResidualBlock(widths[level]) for _ in range(blocks))))
        self.head = nn.Conv2d(widths[2], config.depth * ROW * 3, 1)
        nn.init.zeros_(self.head.weight)  # at first nothing is changed
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for stage in self.down:
            x = stage(x)
            seen.append(x)
        x = x + self.whole(x.mean((2, 3)))[:, :, None, None]
        for lift, blocks, skip in zip(self.lift, self.up, (seen[3], seen[2]), strict=True):
            x = F.interpolate(lift(x), scale_factor=2, mode="bilinear") + skip
            x = blocks(x)
        return self.head(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions on normalised input, added to it; at first nothing is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(self.norm(x)).relu())


class InterpWeights(NamedTuple):
    """The cells along an axis between which the pixels of a patch lie, and how much each weighs."""

    first: int
    last: int  # one beyond
    weights: Tensor  # [pixels, cells]


def interp_weights(start: int, length: int, size: int, count: int, like: Tensor) -> InterpWeights:
    """Linear weights of the cells, `size` pixels each, around pixels start..start+length-1 of an axis.

    Equally many cells for patches of equal length, so that patches can be stacked; where the axis has
    fewer, all of them.
    """
    reach = min(count, length // size + 3)
    first = max(0, min((2 * start + 1 - size) // (2 * size), count - reach))
    place = (torch.arange(start, start + length, device=like.device) + 0.5) / size - 0.5
    place = place.clamp(0, count - 1) - first
    cells = torch.arange(reach, device=like.device)
    return InterpWeights(
        first, first + reach, (1 - (place[:, None] - cells).abs()).clamp(min=0).to(like.dtype)
    )


def add_block_sums(pixels: Tensor, grid: PatchGrid, id: int, view: Thumbnail, out: Tensor) -> None:
    """Add one patch [3, patch, patch] to the sums of its scene's blocks, `out` [3, height, width]."""
    top, left, height, width = grid.box(id)
    height, width = min(height, grid.height - top), min(width, grid.width - left)
    first_row, down = into_blocks(top, height, view.step, pixels)
    first_col, right = into_blocks(left, width, view.step, pixels)
    sums = down @ pixels[:, :height, :width] @ right.mT
    # Not with +=, which autograd refuses where the slice is all of `out`.
    out[:, first_row : first_row + len(down), first_col : first_col + len(right)].add_(sums)


def into_blocks(start: int, length: int, step: int, like: Tensor) -> tuple[int, Tensor]:
    """The first block that pixels start..start+length-1 lie in, and who lies in which [blocks, length]."""
    first = start // step
    blocks = torch.arange(start, start + length, device=like.device) // step - first
    count = (start + length - 1) // step - first + 1
    return first, (blocks == torch.arange(count, device=like.device)[:, None]).to(like.dtype)


def block_sizes(size: int, step: int, like: Tensor) -> Tensor:
    """Pixels of an axis in each of its blocks; the last may have fewer."""
    starts = torch.arange(0, size, step, device=like.device)
    return (size - starts).clamp(max=step).to(like.dtype)


def rounded_up(size: int) -> int:
    """A side of the view as the network takes it."""
    return -(-size // COARSEST) * COARSEST


def wide(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over channels [b, channels, n], in the dtype of `x`, whatever that of its weights."""
    return torch.baddbmm(layer.bias.to(x.dtype)[:, None], layer.weight.to(x.dtype).expand(len(x), -1, -1), x)
