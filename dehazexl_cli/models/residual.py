"""Convolutions without normalisation that keep the spread of what passes through them.

A norm over a patch would make its neighbours differ, and one over channels divides what tells places apart by
whatever constants have grown beside it. So nothing is normalised: weights start such that spreads stay (He et
al., "Delving deep into rectifiers", ICCV 2015), residual branches start at zero, and no unit can fall silent.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1  # of what is below zero


class Residual(nn.Module):
    """Two 3x3 convolutions, added to their input; at first they add nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(bent(self.first(x)))


def bent(x: Tensor) -> Tensor:
    """Leaky rectifier, in the place of `x`."""
    return F.leaky_relu_(x, SLOPE)


def keep_spread(network: nn.Module) -> None:
    """Start all layers but those that are zero such that they keep the spread of their input.

    Convolutions over several places have a rectifier behind them, which takes half of it.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.any():
            wide = isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1
            nn.init.kaiming_normal_(layer.weight, SLOPE, nonlinearity="leaky_relu" if wide else "linear")
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
