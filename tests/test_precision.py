"""The faster number type of a processor is measured once and remembered."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from dehazexl_cli.engine import precision
from dehazexl_cli.engine.device import choose_precision
from dehazexl_cli.models import build

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    return tmp_path / "dehazexl" / "precision.json"


def pretend(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> list[int]:
    calls: list[int] = []

    def measured() -> dict[str, float]:
        calls.append(1)
        return {"fp32": fp32, "bf16": bf16}

    monkeypatch.setattr(precision, "measured", measured)
    return calls


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(2.0, 1.0, torch.bfloat16), (1.0, 2.0, torch.float32)])
def test_the_faster_one_is_chosen_and_measured_once(
    fp32: float, bf16: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    calls = pretend(monkeypatch, fp32, bf16)
    assert [choose_precision("auto", CPU) for _ in range(3)] == [chosen] * 3
    assert len(calls) == 1
    assert list(json.loads(cache.read_text()).values()) == [{"fp32": fp32, "bf16": bf16}]


def test_a_processor_without_bf16_is_not_measured(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    calls = pretend(monkeypatch, 2.0, 1.0)
    assert choose_precision("auto", CPU) == torch.float32
    assert not calls and not cache.exists()


def test_another_machine_or_number_of_threads_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch, 2.0, 1.0)
    precision.prefers_bf16()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        precision.prefers_bf16()
    finally:
        torch.set_num_threads(before)
    precision.prefers_bf16()  # and the first is still known
    assert len(calls) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "null"])
def test_a_spoilt_memory_is_made_anew(content: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    calls = pretend(monkeypatch, 2.0, 1.0)
    cache.parent.mkdir()
    cache.write_text(content)
    assert precision.prefers_bf16() and precision.prefers_bf16()
    assert len(calls) == 1


def test_without_a_place_to_remember_it_is_measured_each_time(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    calls = pretend(monkeypatch, 2.0, 1.0)
    cache.parent.write_text("a file where the folder should be")
    assert precision.prefers_bf16() and precision.prefers_bf16()
    assert len(calls) == 2


def test_what_is_measured_is_the_time_of_real_work() -> None:
    seconds = precision.measured()
    assert seconds.keys() == {"fp32", "bf16"}
    assert all(0 < value < 5 for value in seconds.values())
    results = [precision.Work(dtype)() for dtype in (torch.float32, torch.bfloat16)]
    assert results[1].dtype == torch.bfloat16
    assert torch.allclose(results[0], results[1].float(), atol=0.1)


@pytest.mark.parametrize("name", ["dehazexl-s", "dehazexl-next", "mgbl-s"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_run_without_a_warning_of_torch(name: str, dtype: torch.dtype) -> None:
    model = build(name).eval().to(dtype)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.rand(1, 3, 260, 70))
