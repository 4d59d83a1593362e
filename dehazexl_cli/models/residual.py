"""Convolutions without normalisation that keep the spread of what passes through them.

A norm over a patch would make its neighbours differ, and one over channels divides what tells places apart
by whatever constants have grown beside it. So nothing is normalised but weights: those of convolutions with a
rectifier behind them start such that spreads stay (He et al., "Delving deep into rectifiers", ICCV 2015), and
keep their norm while they learn (Salimans, Kingma, "Weight normalization", NeurIPS 2016). A network that
begins well is else tempted to silence what does not help yet: its coarse stages said nothing after a few
hundred steps, and nothing taught them any more.
"""

from __future__ import annotations

from math import sqrt
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

SLOPE = 0.1  # of what is below zero
NORM = sqrt(2 / (1 + SLOPE**2))  # of the weights of one output: what a rectifier takes, they give


class FixedNormConv2d(nn.Conv2d):
    """A convolution whose weights have one norm for each output; `restore_norm` brings it back."""

    def __init__(self, before: int, width: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(before, width, kernel, stride, padding=kernel // 2 if kernel % 2 else 0)
        nn.init.kaiming_uniform_(self.weight, SLOPE)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def restore_norm(self) -> None:
        """Bring the weights of each output to NORM exactly, as trainers do after each step."""
        self.weight *= NORM / self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to their input; at first they add nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = FixedNormConv2d(width, width)
        self.second = zero_init(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(leaky_relu(self.first(x)))


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky rectifier, in the place of `x`."""
    return F.leaky_relu_(x, SLOPE)


def zero_init(layer: Layer) -> Layer:
    """The layer with weights and bias of zero: what it is to say, it learns."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
