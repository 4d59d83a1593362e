"""Numbers of half precision: `benchmarks/half.py` in small, and what overflows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import half
import numpy as np
import pytest
import torch
from helpers.simulated_cuda import simulated_cuda
from test_simulated_cuda import dehazed, picture, tiny_paper

from dehazexl_cli.engine import PlanOverrides
from dehazexl_cli.models.dehazexl import DehazeXL


@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s"])
def test_bundled_networks_do_not_overflow_in_float16(name: str) -> None:
    compared = half.compare(half.network(name), half.scenes_of((), 2, 256))
    assert compared.redone == 0
    assert compared.worst <= 2 and compared.mean < 0.1  # of 255 levels


def test_scores_among_very_many_tokens_are_numbers_in_float16() -> None:
    model = tiny_paper()
    largest, finite = half.scores(model, queries=8)
    assert finite and 0 < largest < torch.finfo(torch.float16).max
    loud = copy.deepcopy(model)
    loud.mixer.layers[0].qkv.weight.data *= 1000
    assert not half.scores(loud, queries=8)[1]


# Far beyond float16 in between, where float32 is not, and as before at the end.
def loud_encoder(model: DehazeXL) -> None:
    model.encoder.stem.weight.data *= 4e5


def loud_bottleneck(model: DehazeXL) -> None:
    block = model.mixer.layers[0]
    block.up_proj.weight.data *= 2e5
    block.down_proj.weight.data /= 2e5


def loud_decoder(model: DehazeXL) -> None:
    model.decoder.ending.first.expand.weight.data *= 2e5
    model.decoder.ending.output.weight.data /= 2e5


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("make_loud", [loud_encoder, loud_bottleneck, loud_decoder])
def test_what_overflows_on_the_device_is_done_again_in_float32(
    make_loud: Callable[[DehazeXL], None], exact: bool
) -> None:
    model, image = tiny_paper(), picture(130, 130)
    make_loud(model)
    model.half().float()  # as its weights are on the device
    expected, _ = dehazed(image, copy.deepcopy(model), device="cpu", precision="fp32")
    with simulated_cuda():
        overrides = PlanOverrides(exact_attention=exact)  # sampled attention mixes where the tokens lie
        output, report = dehazed(image, model, device="cuda", precision="fp16", overrides=overrides)
    assert report.redone_batches > 0
    assert np.abs(expected.astype(int) - output).max() <= 1
    assert np.abs(expected.astype(int) - image).max() > 2, "the model does something"
