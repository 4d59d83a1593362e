"""`dehazexl weights` as a shell sees it: what files hold, whether they work, and ours made of others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import TINY_S, Result, published_state
from safetensors import safe_open
from torch import Tensor, nn

from dehazexl_cli.models import build
from dehazexl_cli.models.checkpoint import load, save
from dehazexl_cli.models.dehazexl_s import DehazeXLS
from dehazexl_cli.training.loop import TrainConfig, Trainer

Command = Callable[..., Result]

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    about = {"licence": "CC0", "metrics": {"output": 23.5}}
    save(path, DehazeXLS(TINY_S), "dehazexl-s", about, torch.float16)
    return path


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for bundled weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr("dehazexl_cli.models.checkpoint.weight_folders", lambda: (folder, folder))
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A trainer's checkpoint whose averaged weights are not those being trained."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    with rasterio.open(tmp_path / "a.png", "w", "PNG", 64, 64, 3, dtype="uint8") as file:
        file.write(pixels)
    trainer = Trainer(TrainConfig(data=(str(tmp_path),), out=str(tmp_path / "run")))
    with torch.no_grad():
        for bias in biases(trainer.average):
            bias.fill_(0.25)
    trainer.checkpoint()
    return tmp_path / "run" / "checkpoint.pth"


def biases(model: nn.Module) -> list[Tensor]:
    return [weight for name, weight in model.named_parameters() if name.endswith(".bias")]


def spoiled(path: Path, value: float) -> Path:
    """A weight file with one number replaced."""
    model = DehazeXLS(TINY_S)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = value
    save(path, model, "dehazexl-s", {}, torch.float32)
    return path


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["verify"], ["convert"]])
def test_help_loads_no_heavy_library(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['dehazexl', 'weights', *{command!r}, '--help']\n"
        "from dehazexl_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'rasterio', 'numpy', 'safetensors'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_list_says_where_there_is_nothing(dehazexl: Command, box: Path) -> None:
    result = dehazexl("weights", "list")
    assert (result.code, result.out) == (0, "")
    assert "no weights come with this installation" in result.err
    assert json.loads(dehazexl("weights", "list", "--json").out) == []


def test_list_names_size_digest_and_file(dehazexl: Command, box: Path, tiny: Path) -> None:
    path = box / "dehazexl-s.safetensors"
    shutil.copy(tiny, path)
    shutil.copy(tiny, box / "of-no-model.safetensors")
    (row,) = json.loads(dehazexl("weights", "list", "--json").out)
    assert row == {
        "name": "dehazexl-s",
        "size_bytes": path.stat().st_size,
        "sha256": load(path).sha256,
        "path": str(path),
    }
    (line,) = dehazexl("weights", "list").out.splitlines()
    assert line.startswith("dehazexl-s ")
    assert line.endswith(str(path))


def test_show_prints_model_config_and_provenance(dehazexl: Command, tiny: Path) -> None:
    facts = json.loads(dehazexl("weights", "show", tiny, "--json").out)
    assert (facts["model"], facts["format"], facts["dtypes"]) == ("dehazexl-s", "dehazexl/1", ["float16"])
    assert facts["about"] == {"licence": "CC0", "metrics": {"output": 23.5}}
    assert facts["config"]["dim"] == TINY_S.dim
    assert facts["sha256"] == load(tiny).sha256
    assert facts["parameters"] == sum(value.numel() for value in DehazeXLS(TINY_S).state_dict().values())
    text = dehazexl("weights", "show", tiny).out
    assert "model    dehazexl-s" in text
    assert "  metrics\n    output: 23.5" in text


def test_show_reads_no_numbers(dehazexl: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("dehazexl_cli.models.checkpoint.read_state", reading)
    assert dehazexl("weights", "show", tiny).code == 0


def test_a_bundled_model_goes_by_its_name(dehazexl: Command, box: Path, tiny: Path) -> None:
    assert dehazexl("weights", "show", "dehazexl-s").code == 5
    shutil.copy(tiny, box / "dehazexl-s.safetensors")
    assert "CC0" in dehazexl("weights", "show", "dehazexl-s").out
    assert dehazexl("weights", "verify", "dehazexl-s").code == 0


def test_show_and_verify_understand_a_trainer_s_checkpoint(dehazexl: Command, trained: Path) -> None:
    facts = json.loads(dehazexl("weights", "show", trained, "--json").out)
    assert (facts["model"], facts["about"]["steps"]) == ("dehazexl-s", 0)
    assert dehazexl("weights", "verify", trained).code == 0


def test_verify_prints_ok(dehazexl: Command, tiny: Path) -> None:
    result = dehazexl("weights", "verify", tiny)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"OK {tiny}: dehazexl-s")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_fail_the_check(dehazexl: Command, tmp_path: Path, value: float) -> None:
    result = dehazexl("weights", "verify", spoiled(tmp_path / "x.safetensors", value))
    assert (result.code, result.out) == (8, "")
    assert "1 tensors of dehazexl-s hold numbers that are not finite" in result.err
    assert len(result.err.splitlines()) == 2


def test_results_that_are_no_numbers_fail_the_check(dehazexl: Command, tmp_path: Path) -> None:
    model = DehazeXLS(TINY_S)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(3e38)
    path = tmp_path / "x.safetensors"
    save(path, model, "dehazexl-s", {}, torch.float32)
    result = dehazexl("weights", "verify", path)
    assert result.code == 8
    assert "pixels that are not finite" in result.err


@pytest.mark.parametrize("command", ["show", "verify"])
def test_what_cannot_be_read_is_exit_5(dehazexl: Command, tmp_path: Path, tiny: Path, command: str) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"head.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"name": "unheard-of", "step": 1, "average": {}}, tmp_path / "odd.pth")
    for name in ("nowhere.pth", "text.safetensors", "text.pth", "other.pth", "odd.pth", "."):
        result = dehazexl("weights", command, tmp_path / name)
        assert (result.code, result.out) == (5, ""), name
        assert len(result.err.splitlines()) == 2
    assert dehazexl("weights", command, "dehazexl-xxl").code == 5


def test_convert_takes_the_averaged_weights_of_a_training(
    dehazexl: Command, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    result = dehazexl("weights", "convert", trained, out)
    assert result.code == 0
    assert "dehazexl-s in fp16" in result.err
    loaded = load(out)
    assert all((bias == 0.25).all() for bias in biases(loaded.model))
    assert loaded.about["steps"] == 0
    assert loaded.about["converted_from"]["file"] == "checkpoint.pth"


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_convert_stores_the_type_asked_for(dehazexl: Command, tmp_path: Path, dtype: str) -> None:
    source, out = tmp_path / "in.pth", tmp_path / "out.safetensors"
    state = build("dehazexl-s").state_dict()
    torch.save({"state_dict": state}, source)
    options = ["--model", "dehazexl-s", "--dtype", dtype, "-q"]
    assert dehazexl("weights", "convert", source, out, *options) == Result(0, "", "")
    expected = {"fp16": torch.float16, "fp32": torch.float32}[dtype]
    with safe_open(out, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {expected}  # noqa: SIM118
    for key, value in load(out).model.state_dict().items():
        assert torch.equal(value, state[key].to(expected).float()), key


@pytest.mark.slow
@pytest.mark.parametrize("network", ["dehazexl", "dehazexl_linear"])
def test_convert_understands_both_published_revisions(
    dehazexl: Command, shared: Path, tmp_path: Path, network: str
) -> None:
    source, out = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(published_state(shared, network), source)
    assert dehazexl("weights", "convert", source, out).code == 0
    facts = json.loads(dehazexl("weights", "show", out, "--json").out)
    assert (facts["model"], facts["dtypes"]) == ("dehazexl-paper", ["float16"])
    assert facts["about"]["revision"] == ("linear" if network == "dehazexl_linear" else "transpose")
    assert facts["sha256"] != facts["about"]["converted_from"]["sha256"]
    assert dehazexl("weights", "verify", out).code == 0


def test_convert_puts_provenance_inside(dehazexl: Command, tiny: Path, tmp_path: Path) -> None:
    card, out = tmp_path / "card.json", tmp_path / "out.safetensors"
    card.write_text('{"licence": "Apache-2.0", "data": ["one", "two"]}')
    assert dehazexl("weights", "convert", tiny, out, "--about", card).code == 0
    about = load(out).about
    assert (about["licence"], about["data"], about["metrics"]) == (
        "Apache-2.0",
        ["one", "two"],
        {"output": 23.5},
    )


def test_weights_too_large_for_half_precision_are_refused(dehazexl: Command, tmp_path: Path) -> None:
    source, out = spoiled(tmp_path / "in.safetensors", 1e5), tmp_path / "out.safetensors"
    result = dehazexl("weights", "convert", source, out)
    assert result.code == 2
    assert "--dtype fp32" in result.err
    assert not out.exists()
    assert dehazexl("weights", "convert", source, out, "--dtype", "fp32").code == 0


def test_convert_keeps_what_is_there_unless_told(dehazexl: Command, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    result = dehazexl("weights", "convert", tiny, out)
    assert result.code == 4
    assert "--overwrite" in result.err
    assert out.read_bytes() == b"precious"
    assert dehazexl("weights", "convert", tiny, out, "--overwrite").code == 0
    assert load(out).name == "dehazexl-s"


def test_what_cannot_be_converted_leaves_nothing(dehazexl: Command, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.safetensors"
    for arguments, code in (
        ([tiny, tmp_path / "out.pth"], 4),
        ([tiny, tmp_path / "no" / "out.safetensors"], 4),
        ([tmp_path / "nowhere.pth", out], 5),
        ([tiny, out, "--model", "dehazexl-paper"], 5),
        ([tiny, out, "--model", "dehazexl-xxl"], 2),
        ([tiny, out, "--dtype", "int8"], 2),
        ([tiny, out, "--about", tmp_path / "nowhere.json"], 3),
        ([tiny, out, "--about", tmp_path / "list.json"], 3),
        ([tiny, out, "--about", tmp_path / "broken.json"], 3),
    ):
        result = dehazexl("weights", "convert", *arguments)
        assert result.code == code, result.err
        assert "Traceback" not in result.err
        assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_cannot_be_written_leaves_nothing(
    dehazexl: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dehazexl_cli.models.checkpoint.save_file", full)
    before = sorted(tmp_path.iterdir())
    result = dehazexl("weights", "convert", tiny, tmp_path / "out.safetensors")
    assert result.code == 4
    assert "No space left" in result.err
    assert sorted(tmp_path.iterdir()) == before
