"""A model whose non-finite results are done again in float32.

Half precision overflows where float32 does not; an image with black or blank patches is the usual result.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
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

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        """The context, which may lie where `tokens` lay; see DehazeModel.apply_bottleneck."""
        half, sparing = tokens.dtype == torch.float16, seed is not None or self.model.query_chunk is not None
        # On the host, as a device that has to be spared has no room for a second scene.
        before = tokens.to("cpu", copy=True) if half and sparing else tokens
        context = self.model.apply_bottleneck(tokens, grid, seed)
        # The other types reach as far as float32 does, so doing it anew would give the same.
        if not half or finite(context):
            return context
        self.report.count_redone()
        return held(self.full.apply_bottleneck(before.to(context.device).float(), grid, seed), tokens.dtype)

    def decode(self, batch: PatchBatch, context: Tensor | None, skips: Skips) -> Tensor:
        """What the model decodes; where even float32 gives no number, the pixel stays as it was."""
        assert context is not None, "a patch with ground has seen no other"
        pixels = self.model.decode(batch, context, skips)
        if finite(pixels):
            return pixels
        self.report.count_redone()
        pixels = self.full.decode(batch, context.float(), self.full.encode(batch)[1])
        if finite(pixels):
            return pixels
        self.report.warn("the model gave no number for some pixels; they were left as they were")
        halo = self.model.halo
        side = self.model.patch
        hazy = batch.pixels[..., halo : halo + side, halo : halo + side]
        # Of a pixel that stays, all light gets through.
        same = F.pad(hazy, (0, 0, 0, 0, 0, pixels.shape[1] - hazy.shape[1]), value=1.0)
        return torch.where(torch.isfinite(pixels), pixels, same)


def finite(x: Tensor) -> bool:
    """Whether every number is one. A sum is infinite or NaN if any term is, and is read only once."""
    return bool(torch.isfinite(x.sum(dtype=torch.float32))) or bool(torch.isfinite(x).all())


def held(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in a narrower type, its largest numbers held at that type's ends instead of overflowing."""
    limits = torch.finfo(dtype)
    return x.nan_to_num(0.0).clamp(limits.min, limits.max).to(dtype)
