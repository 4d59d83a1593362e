"""The ending that cannot invent texture: local colour transforms, written at several resolutions.

Haze is I = J·t + A·(1-t), so the clear pixel is J = I + (1/t - 1)·(I - A). Each place gets a transform that
maps a pixel's distance from a learned airlight to its change: factors that are zero where there is no haze,
and an offset. All texture in the output is the input's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.models.interpolation import bilinear_weights

COLOURS = 3
NUMBERS = COLOURS * (COLOURS + 1)  # of a transform: a row of three factors for each colour, and offsets


class AffineEnding(nn.Module):
    """A colour transform per pixel, to which every stage of the decoder adds its share.

    Stages write transforms at their own stride; coarser ones are raised bilinearly and added to the next.
    So the stages that know the scene answer for its pixels directly, not through the finer ones, which
    would learn first and leave them nothing to do.
    """

    def __init__(self, dims: Sequence[int], side: int, patch: int) -> None:
        """Maps have `dims` channels, coarse to fine; the first is `side` cells wide, each next twice that."""
        super().__init__()
        self.heads = nn.ModuleList(Head(dim) for dim in dims)
        self.airlight = nn.Parameter(torch.full((COLOURS,), 0.85))
        sides = [side << number for number in range(len(dims))]
        for number, (cells, raised) in enumerate(zip(sides, [*sides[1:], patch], strict=True)):
            self.register_buffer(f"raise_{number}", bilinear_weights(raised, cells), persistent=False)

    def forward(self, maps: Sequence[Tensor], pixels: Tensor) -> Tensor:
        """Maps [b, side, side, dim] and pixels [b, 3, patch, patch] -> pixels of the same shape, float32."""
        with torch.autocast(pixels.device.type, enabled=False):  # pixels stay float32, in training too
            *_, finest = self._sums(maps)
            return self._dehazed(self._raised(finest, len(maps) - 1), pixels)

    def drafts(self, maps: Sequence[Tensor], pixels: Tensor) -> list[Tensor]:
        """What the coarsest stage, the two coarsest, … would make of pixels by themselves, all but the last.

        Pixels [b, 3, side, side] may be smaller than the patch that the maps are of; drafts are as large.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            *coarser, _ = self._sums(maps)
            size = pixels.shape[2:]
            return [self._dehazed(F.interpolate(fields, size, mode="bilinear"), pixels) for fields in coarser]

    def _sums(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The transforms [b, 12, side, side] of each stage with those of all coarser ones, at its stride."""
        sums: list[Tensor] = []
        for number, (head, seen) in enumerate(zip(self.heads, maps, strict=True)):
            written = head(seen)
            sums.append(written + self._raised(sums[-1], number - 1) if sums else written)
        return sums

    def _raised(self, fields: Tensor, number: int) -> Tensor:
        """The transforms of a stage at the next one's stride; of the last, for every pixel."""
        up = self.get_buffer(f"raise_{number}").float()  # several times faster than F.interpolate
        return up @ fields @ up.mT

    def _dehazed(self, fields: Tensor, pixels: Tensor) -> Tensor:
        distances = (pixels - self.airlight.float().view(1, COLOURS, 1, 1)).unbind(1)
        *factors, red, green, blue = fields.unbind(1)
        changes = []
        for colour, change in enumerate((red, green, blue)):
            for other, distance in enumerate(distances):
                change = torch.addcmul(change, factors[COLOURS * colour + other], distance)
            changes.append(change)
        return pixels + torch.stack(changes, dim=1)


class Head(nn.Module):
    """Transforms [b, 12, side, side] float32 from a map [b, side, side, dim]; zeros at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.affine = nn.Linear(dim, NUMBERS)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor) -> Tensor:
        # What stages add up, and great factors under dense haze, need float32, whatever the weights.
        x = self.norm(x.to(self.norm.weight.dtype)).float()
        return F.linear(x, self.affine.weight.float(), self.affine.bias.float()).permute(0, 3, 1, 2)
