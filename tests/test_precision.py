"""Which number type a network computes in, and that all of them run."""

from __future__ import annotations

import warnings

import pytest
import torch

from dehazexl_cli.engine import device
from dehazexl_cli.engine.device import choose_precision
from dehazexl_cli.models import build


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_processor_with_bf16_computes_in_it(
    has_bf16: bool, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: has_bf16)
    assert choose_precision("auto", torch.device("cpu")) == chosen
    assert choose_precision("fp32", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_run_without_a_warning_of_torch(name: str, dtype: torch.dtype) -> None:
    model = build(name).eval().to(dtype)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.rand(1, 3, 260, 70))
