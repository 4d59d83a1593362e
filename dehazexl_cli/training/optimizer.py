"""The optimizer: Muon for large weights, AdamW for the others, and a learning rate for each layer.

Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) makes the steps of a
matrix orthogonal, so that each of its directions learns, not only the few with large gradients. Of the same
samples it makes less loss than AdamW (docs/training-log.md), for a seventh more time.

Rates go with 1/sqrt(n) of the n inputs that an output gathers. Either optimizer moves every weight by about
the rate, so that output moves n times as far, while weights that start by He's rule are only 1/sqrt(n) large.
With one rate for all, wide convolutions diverge before heads and gates of a few inputs have begun to learn
(for widths that grow without end, Yang et al. have 1/n: "Tensor Programs V", NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

FAN_IN = 2048  # inputs of an output, of layers that learn at the rate itself: 3 x 3 of 228 channels
FASTEST = 5.0  # times the rate, at most: norms and position codes have one input or two
LARGE = 20_000  # weights; below, there are too few directions for orthogonal steps to help
MOMENTUM = 0.95
MOVED = 0.4  # by how many times the rate an orthogonal step moves a weight, as a root of the mean square
# The polynomial a·x + b·x³ + c·x⁵ that brings singular values near 1 within five steps (Jordan et al.).
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
POLYNOMIAL_STEPS = 5


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but for groups of parameters marked `orthogonal`, which take the steps of Muon."""

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, lr=0.0, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)
        self._step_supports_amp_scaling = False  # Muon's steps do not; a GradScaler then skips both

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; gradients of orthogonal groups are None afterwards."""
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonal"] else ():
                if weight.grad is not None:
                    self._step_orthogonally(weight, group["lr"], group["weight_decay"])
                    weight.grad = None  # so that AdamW leaves it as it is
        return super().step(closure)

    def _step_orthogonally(self, weight: nn.Parameter, rate: float, decay: float) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # AdamW looks for it in all that it loads
        momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        ahead = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
        move = orthogonalize(ahead) * (MOVED * sqrt(max(ahead.shape)))
        weight.mul_(1 - rate * decay).sub_(move.view(weight.shape), alpha=rate)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring all singular values [n, m] near 1 (0.7 to 1.2), their vectors kept: Newton-Schulz in bfloat16."""
    a, b, c = POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(POLYNOMIAL_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


def make_optimizer(model: nn.Module, weight_decay: float) -> MuonAdamW:
    """Make the optimizer of a model's parameters; `set_rate` says how fast it learns."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        for parameter in own:
            orthogonal = parameter.dim() > 1 and parameter.numel() > LARGE
            groups.setdefault((rate_factor(own[0]), orthogonal), []).append(parameter)
    return MuonAdamW(
        [
            {"params": own, "factor": factor, "orthogonal": orthogonal}
            for (factor, orthogonal), own in groups.items()
        ],
        weight_decay,
    )


def rate_factor(weight: nn.Parameter) -> float:
    """How many times the rate a layer with that weight [outputs, inputs, …] learns at, its bias with it."""
    fan_in = weight[0].numel() if weight.dim() > 1 else 1
    return min(FASTEST, sqrt(FAN_IN / fan_in))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let each layer learn at its own multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
