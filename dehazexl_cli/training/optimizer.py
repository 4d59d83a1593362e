"""The optimizer: AdamW with a learning rate for each layer, the larger the fewer inputs an output has.

AdamW moves every weight of a layer by about its rate, so an output that gathers n inputs moves n times as
far, while weights that start by He's rule are only 1/sqrt(n) large. With one rate for all, wide convolutions
diverge before heads and gates of a few inputs have begun to learn. Rates that go with 1/sqrt(n) turn the
weights of all layers by like angles (for widths that grow without end, Yang et al. have 1/n: "Tensor Programs
V", NeurIPS 2021).
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import nn

FAN_IN = 2048  # inputs of an output, of layers that learn at the rate itself: 3 x 3 of 228 channels
FASTEST = 5.0  # times the rate, at most: norms and position codes have one input or two


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Make the optimizer of a model's parameters; `set_rate` says how fast it learns."""
    groups: dict[float, list[nn.Parameter]] = {}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own:
            groups.setdefault(rate_factor(own[0]), []).extend(own)
    parameters: list[dict[str, Any]] = [{"params": own, "factor": factor} for factor, own in groups.items()]
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)


def rate_factor(weight: nn.Parameter) -> float:
    """How many times the rate a layer with that weight [outputs, inputs, …] learns at, its bias with it."""
    fan_in = weight[0].numel() if weight.dim() > 1 else 1
    return min(FASTEST, sqrt(FAN_IN / fan_in))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let each layer learn at its own multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
