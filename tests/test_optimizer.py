"""How fast each layer learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dehazexl_cli.models import build
from dehazexl_cli.training.optimizer import (
    FASTEST,
    MOVED,
    make_optimizer,
    orthogonalize,
    rate_factor,
    set_rate,
)


def test_layers_of_four_times_the_inputs_learn_half_as_fast() -> None:
    narrow, wide = nn.Conv2d(32, 8, 3), nn.Conv2d(128, 8, 3)
    assert rate_factor(narrow.weight) == pytest.approx(2 * rate_factor(wide.weight))


def test_no_layer_learns_faster_than_the_bound() -> None:
    assert rate_factor(nn.LayerNorm(64).weight) == FASTEST
    assert rate_factor(nn.Parameter(torch.tensor(0.1))) == FASTEST


@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s"])
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


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_all_directions_of_an_orthogonal_step_are_about_as_long(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    u, lengths, v = torch.linalg.svd(matrix, full_matrices=False)
    step = orthogonalize(matrix)
    found = torch.linalg.svdvals(step)
    assert lengths.max() > 4 * lengths.min() and found.min() > 0.6 and found.max() < 1.3
    assert (step * (u @ v)).sum() / (step.norm() * (u @ v).norm()) > 0.97  # the vectors are the same


def test_large_weights_take_orthogonal_steps_of_the_rate() -> None:
    layer = nn.Conv2d(256, 16, 3).to(memory_format=torch.channels_last)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, 0.0)
    set_rate(optimizer, 1e-3)
    image = torch.randn(2, 256, 8, 8, generator=torch.Generator().manual_seed(0))
    layer(image).square().sum().backward()
    optimizer.step()
    moved = (layer.weight - before).square().mean().sqrt().item()
    assert moved == pytest.approx(MOVED * rate_factor(layer.weight) * 1e-3, rel=0.15)
    assert torch.linalg.matrix_rank((layer.weight - before).flatten(1), rtol=0.1) == 16


def test_steps_that_overflowed_are_skipped_for_all_weights() -> None:
    layer = nn.Conv2d(256, 16, 3)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer, scaler = make_optimizer(layer, 0.0), torch.amp.GradScaler("cpu")
    set_rate(optimizer, 1e-3)
    scaler.scale(layer(torch.full((1, 256, 4, 4), 1e38)).square().sum()).backward()
    scaler.step(optimizer)
    assert all(map(torch.equal, layer.parameters(), before))
