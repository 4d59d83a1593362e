"""How fast each layer learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dehazexl_cli.models import build
from dehazexl_cli.training.optimizer import FASTEST, make_optimizer, rate_factor, set_rate


def test_layers_of_four_times_the_inputs_learn_half_as_fast() -> None:
    narrow, wide = nn.Conv2d(32, 8, 3), nn.Conv2d(128, 8, 3)
    assert rate_factor(narrow.weight) == pytest.approx(2 * rate_factor(wide.weight))


def test_no_layer_learns_faster_than_the_bound() -> None:
    assert rate_factor(nn.LayerNorm(64).weight) == FASTEST
    assert rate_factor(nn.Parameter(torch.tensor(0.1))) == FASTEST


@pytest.mark.parametrize("name", ["dehazexl-s", "dehazexl-next", "mgbl-s"])
def test_every_parameter_is_learned_once(name: str) -> None:
    model = build(name)
    groups = make_optimizer(model, 0.0).param_groups
    learned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(learned) == sorted(map(id, model.parameters()))


def test_one_step_moves_weights_by_the_rate_times_the_factor() -> None:
    layer = nn.Linear(128, 4)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, 0.0)
    set_rate(optimizer, 1e-3)
    layer(torch.ones(1, 128)).sum().backward()
    optimizer.step()
    assert (before - layer.weight).mean().item() == pytest.approx(4e-3, rel=0.01)
