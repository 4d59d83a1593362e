"""Models with a part taken out, to measure what that part is good for."""

from __future__ import annotations

import torch
from torch import Tensor

from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.plan import Footprint

AT_ONCE = 64  # patches mixed, each by itself, at a time


class BottleneckPerPatch(DehazeModel):
    """A model whose patches do not see each other: each is mixed as if it were a scene of its own.

    Raises UsageError for a model that only knows the sum of all patches, as that is mixed already.
    """

    def __init__(self, model: DehazeModel) -> None:
        super().__init__()
        if model.token_reduction != "stack":
            raise UsageError(
                "this model keeps no tokens of single patches, so none can be left by itself",
                "choose a model with tokens of patches, such as dehazexl-s",
            )
        self.model = model
        self.patch, self.halo, self.overlap = model.patch, model.halo, model.overlap
        self.token_reduction, self.tells_haze = model.token_reduction, model.tells_haze
        self.train(model.training)

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        return self.model.encode(batch)

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        alone = PatchGrid(self.patch, self.patch, self.patch, self.halo)
        parts = tokens.flatten(0, 1)[:, None].split(AT_ONCE)
        mixed = torch.cat([self.model.apply_bottleneck(part, alone, seed) for part in parts])
        return mixed.view(*tokens.shape[:2], *mixed.shape[2:])

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        return self.model.decode(batch, scene, skips)

    def footprint(self, dtype: torch.dtype) -> Footprint:
        return self.model.footprint(dtype)
