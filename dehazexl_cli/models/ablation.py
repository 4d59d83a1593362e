"""Models with a part taken out, to measure what that part is good for."""

from __future__ import annotations

import torch
from torch import Tensor

from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import Batch, Dehazer, Skips
from dehazexl_cli.plan import Footprint


class WithoutMixing(Dehazer):
    """A model whose patches do not see each other: its mixer's output is the mixer's input.

    Raises UsageError for a model that only knows the sum of all patches, as that is mixed already.
    """

    def __init__(self, model: Dehazer) -> None:
        super().__init__()
        if model.gather != "stack":
            raise UsageError(
                "this model keeps no tokens of single patches, so it cannot run without mixing",
                "choose a model with a token mixer, such as dehazexl-s",
            )
        self.model = model
        self.patch, self.halo, self.overlap = model.patch, model.halo, model.overlap
        self.gather = model.gather
        self.train(model.training)

    def encode(self, batch: Batch) -> tuple[Tensor, Skips]:
        return self.model.encode(batch)

    def mix(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        return tokens

    def decode(self, batch: Batch, scene: Tensor, skips: Skips) -> Tensor:
        return self.model.decode(batch, scene, skips)

    def footprint(self, dtype: torch.dtype) -> Footprint:
        return self.model.footprint(dtype)
