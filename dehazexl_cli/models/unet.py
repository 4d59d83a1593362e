"""The U-Net of the bilateral network: a small picture in, a picture of three channels in (0, 1) out."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Halves the picture once per width after the first, doubles it back, joining what it saw on the way."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.ModuleList([double_conv(3, widths[0], widths[0])])
        self.up = nn.ModuleList()
        for fine, coarse in itertools.pairwise(widths):
            self.down.append(double_conv(fine, coarse, coarse))
        *skips, width = widths
        for level, skip in reversed(list(enumerate(skips))):
            joined = skip + width
            width = skips[level - 1] if level else skip
            self.up.append(double_conv(joined, joined // 2, width))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, side, side] -> [b, 3, side, side]; the side is divisible by 2 to the number of halvings."""
        seen = [self.down[0](x)]
        for block in self.down[1:]:
            seen.append(block(F.max_pool2d(seen[-1], 2)))
        x = seen.pop()
        for block in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = block(torch.cat([seen.pop(), x], dim=1))
        return self.last(x).sigmoid()


def double_conv(width: int, middle: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each normalised and rectified."""
    return nn.Sequential(
        nn.Conv2d(width, middle, 3, padding=1),
        BatchNorm(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, out, 3, padding=1),
        BatchNorm(out),
        nn.ReLU(inplace=True),
    )


class BatchNorm(nn.Module):
    """torch's batch normalisation without its count of batches, which weight files need not carry."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=self.training
        )
