"""The contract between engine and models: encode patches, let all see each other once, decode patches.

Models know tensors and patch grids, never rasters. `forward_in_memory` runs the contract in memory, so that
training, attribution and tests run the same arithmetic as the streaming engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.plan import Footprint

Skips = tuple[Tensor, ...]
COLOURS = 3


class PatchBatch(NamedTuple):
    """Some patches of one scene, or of several equal in size: id = scene · patches per scene + patch."""

    ids: tuple[int, ...]
    grid: PatchGrid
    pixels: Tensor  # [b, 3, patch + 2·halo, patch + 2·halo] float32 in [0, 1] on the model's device


class DehazeModel(nn.Module):
    """A network that removes haze in three steps; see the methods for what each must keep.

    Pixels are float32 whatever the dtype of the weights: half precision has too few bits to carry an image
    through. Networks compute in their own dtype and add what they found to the pixels in float32.
    """

    patch: int  # side of a patch, pixels
    halo: int = 0  # pixels seen around a patch beside it
    overlap: int = 0  # pixels, at most, that neighbouring patches share unless the user says otherwise
    token_reduction: Literal["stack", "sum"] = "stack"  # tokens of all patches are kept apart, or added up
    supports_streaming: bool = True  # whether it has the three steps, or `forward` alone
    query_chunk: int | None = None  # tokens that attend at once in exact attention, where memory is short
    tile: int | None = None  # the only side of an image it takes, if it is bound to one
    tells_haze: bool = False  # whether it decodes, after the colours, the share of light that gets through

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        """Encode patches: tokens [b, …] for the bottleneck, skips [b, …] for their own decoding."""
        raise NotImplementedError

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        """Let all patches see each other once; what comes out is their context.

        `tokens` is [scenes, patches, …] of `grid.present`, and so is what it returns; a model that gathers
        by sum gets [scenes, …] summed over all patches and returns [scenes, …]. Scenes do not see each other.
        `seed` None asks for exact attention, an integer for the sampled form where a scene has too many
        tokens. Where memory is to be spared, by a seed or `queries`, and no gradient is asked for, the result
        may lie where `tokens` lay.
        """
        raise NotImplementedError

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        """Decode patches, knowing the context of their scenes: [b, 3, patch, patch] float32, not clamped.

        Of a model that `tells_haze` [b, 4, …], the last of which is transmission, in [0, 1].
        """
        raise NotImplementedError

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of weights in `dtype` and of tables beside them, as allocators give them."""
        sizes = (
            x.numel() * (dtype.itemsize if x.is_floating_point() else x.element_size())
            for x in (*self.parameters(), *self.buffers())
        )
        return sum(-(-size // 512) * 512 for size in sizes)

    def footprint(self, dtype: torch.dtype) -> Footprint:
        """Bytes this model needs when run in `dtype`."""
        raise NotImplementedError

    def forward(self, image: Tensor, seed: int | None = None) -> Tensor:
        """Dehaze images [b, 3, height, width] in [0, 1] as a whole; same shape, not clamped."""
        return forward_in_memory(self, image, seed=seed)[:, :COLOURS]


def forward_in_memory(
    model: DehazeModel,
    image: Tensor,
    *,
    seed: int | None = None,
    batch_size: int | None = None,
    overlap: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Take images [b, 3, height, width] through the three steps in memory, each as a scene of its own.

    Returns all that the model decodes: [b, 3, …], and transmission where it `tells_haze`. All patches go
    through the network at once unless `batch_size` says how many. They meet edge to edge, as published,
    unless they overlap.
    """
    b, _, height, width = image.shape
    grid = PatchGrid(height, width, model.patch, model.halo, overlap, origin)
    batches = cut_batches(image, grid, batch_size or b * len(grid))
    said: list[Tensor] = []
    kept: list[Skips] = []
    for batch in batches:
        tokens, skips = model.encode(batch)
        kept.append(skips)
        if (
            model.token_reduction == "sum" and b == 1
        ):  # added up as they come: kept apart they may outgrow the image
            said = [sum(said, tokens.sum(0, keepdim=True))]
        else:
            said.append(tokens)
    tokens = torch.cat(said).unflatten(0, (b, -1))
    scene = model.apply_bottleneck(tokens.sum(1) if model.token_reduction == "sum" else tokens, grid, seed)
    patches = [model.decode(batch, scene, skips) for batch, skips in zip(batches, kept, strict=True)]
    return join_patches(torch.cat(patches).unflatten(0, (b, len(grid))), grid)


def forward_some_patches(
    model: DehazeModel, image: Tensor, ids: Sequence[int], *, origin: tuple[int, int] = (0, 0)
) -> Tensor:
    """Encode an image [1, 3, height, width] as a whole, and decode only the patches named.

    Returns all that it decodes, [b, 3 or 4, patch, patch]. Patches meet edge to edge.
    """
    height, width = image.shape[2:]
    grid = PatchGrid(height, width, model.patch, model.halo, origin=origin)
    (batch,) = cut_batches(image, grid, len(grid))
    tokens, skips = model.encode(batch)
    scene = model.apply_bottleneck(
        (tokens.sum(0) if model.token_reduction == "sum" else tokens)[None], grid, None
    )
    chosen = list(ids)
    some = PatchBatch(tuple(chosen), grid, batch.pixels[chosen])
    return model.decode(some, scene, tuple(skip[chosen] for skip in skips))


def cut_batches(image: Tensor, grid: PatchGrid, size: int) -> list[PatchBatch]:
    """Patches of images [b, 3, height, width], halo and mirrored overhang included, `size` at a time."""
    rows = torch.tensor([grid.view_rows(row) for row in range(grid.rows)], device=image.device)
    cols = torch.tensor([grid.view_cols(col) for col in range(grid.cols)], device=image.device)
    views = image[:, :, rows[:, None, :, None], cols[None, :, None, :]]  # [b, 3, rows, cols, side, side]
    views = views.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return [
        PatchBatch(tuple(range(start, start + len(part))), grid, part)
        for start, part in zip(range(0, len(views), size), views.split(size), strict=True)
    ]


def join_patches(patches: Tensor, grid: PatchGrid) -> Tensor:
    """[b, patches, 3, patch, patch] -> [b, 3, height, width]: overlaps feathered, overhang cut off."""
    b, _, bands, side, _ = patches.shape
    if not grid.overlap:
        whole = patches.view(b, grid.rows, grid.cols, bands, side, side).permute(0, 3, 1, 4, 2, 5)
        whole = whole.reshape(b, bands, grid.rows * side, grid.cols * side)
        return whole[..., : grid.height, : grid.width]
    reach = [(count - 1) * grid.stride + side for count in (grid.rows, grid.cols)]
    whole = patches.new_zeros(b, bands, *reach)
    for id in range(len(grid)):
        top, left, height, width = grid.box(id)
        whole[..., top : top + height, left : left + width] += patches[:, id] * blend_weights(grid, id, whole)
    return whole[..., : grid.height, : grid.width]


def blend_weights(grid: PatchGrid, id: int, like: Tensor) -> Tensor:
    """How much each pixel of a patch counts where patches overlap, [patch, patch]; all ones if none do."""
    row, col = divmod(id, grid.cols)
    return torch.outer(
        like.new_tensor(grid.edge_weights(row, grid.rows)), like.new_tensor(grid.edge_weights(col, grid.cols))
    )
