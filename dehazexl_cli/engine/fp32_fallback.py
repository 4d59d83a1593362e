"""A model whose non-finite results are done again in float32.

Half precision overflows where float32 does not; an image with black or blank patches is the usual result.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.report import Report


class Fp32Fallback:
    """Runs the three steps of a model, checks what comes out, and counts what had to be done again."""

    def __init__(self, model: DehazeModel, report: Report) -> None:
        self.model = model
        self.report = report
        self._full: DehazeModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def full(self) -> DehazeModel:
        """The same model in float32, made when first needed."""
        if self._full is None:
            self._full = copy.deepcopy(self.model).float()
        return self._full

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        """Tokens and skips; see DehazeModel.encode."""
        tokens, skips = self.model.encode(batch)
        if finite(tokens):
            return tokens, skips
        self.report.count_redone()
        again, full_skips = self.full.encode(batch)
        return held(again, tokens.dtype), tuple(held(skip, tokens.dtype) for skip in full_skips)

    def mix(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        """The mixed scene, which may lie where `tokens` lay; see DehazeModel.mix."""
        half, sparing = tokens.dtype == torch.float16, seed is not None or self.model.queries is not None
        # On the host, as a device that has to be spared has no room for a second scene.
        before = tokens.to("cpu", copy=True) if half and sparing else tokens
        scene = self.model.mix(tokens, grid, seed)
        # The other types reach as far as float32 does, so mixing anew would give the same.
        if not half or finite(scene):
            return scene
        self.report.count_redone()
        return held(self.full.mix(before.to(scene.device).float(), grid, seed), tokens.dtype)

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        """Dehazed pixels; where even float32 gives no number, the pixel stays as it was."""
        pixels = self.model.decode(batch, scene, skips)
        if finite(pixels):
            return pixels
        self.report.count_redone()
        pixels = self.full.decode(batch, scene.float(), self.full.encode(batch)[1])
        if finite(pixels):
            return pixels
        self.report.warn("the model gave no number for some pixels; they were left as they were")
        halo = self.model.halo
        side = self.model.patch
        hazy = batch.pixels[..., halo : halo + side, halo : halo + side]
        return torch.where(torch.isfinite(pixels), pixels, hazy)


def finite(x: Tensor) -> bool:
    """Whether every number is one. A sum is infinite or NaN if any term is, and is read only once."""
    return bool(torch.isfinite(x.sum(dtype=torch.float32))) or bool(torch.isfinite(x).all())


def held(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in a narrower type, its largest numbers held at that type's ends instead of overflowing."""
    limits = torch.finfo(dtype)
    return x.nan_to_num(0.0).clamp(limits.min, limits.max).to(dtype)
