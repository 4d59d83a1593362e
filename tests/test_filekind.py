"""Files that go by the name of weights are known for what they are; none of torch's advice is passed on."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from torch import Tensor, nn

from dehazexl_cli.models.filekind import Kind, kind_of

Command = Callable[..., Result]


class Net(nn.Module):
    """The least network there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, called after it, with a suffix that says nothing."""
    folder = tmp_path_factory.mktemp("nets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net()), str(folder / "script.pt"))
        torch.jit.save(torch.jit.trace(Net(), torch.rand(1, 3, 32, 32)), str(folder / "traced.pt"))
        torch.export.save(torch.export.export(Net(), (torch.rand(1, 3, 64, 64),)), folder / "exported.pt")
        torch.save(Net(), folder / "module.pt")
        torch.save(Net().state_dict(), folder / "state.pt")
        torch.save(Net().state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    for name, content in {
        "page.pt": b"<!DOCTYPE html><html>",
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\n",
        "keras.pt": b"\x89HDF\r\n\x1a\n",
        "onnx.pt": b"\x08\x08\x12\x07pytorch",
        "unknown.pt": b"PK\x03\x04broken",
        "empty.pt": b"",
    }.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("script", Kind.script),
        ("traced", Kind.script),
        ("exported", Kind.exported),
        ("module", Kind.pickled),
        ("state", Kind.pickled),
        ("old", Kind.pickled),
        ("page", Kind.page),
        ("pointer", Kind.pointer),
        ("keras", Kind.keras),
        ("onnx", Kind.onnx),
        ("unknown", Kind.unknown),
        ("empty", Kind.unknown),
    ],
)
def test_a_file_is_known_for_what_it_is(files: Path, name: str, kind: Kind) -> None:
    assert kind_of(files / f"{name}.pt") is kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("script", "run it with --model generic"),
        ("exported", "run it with --model generic"),
        ("module", "torch.save(model.state_dict()"),
        ("page", "the link to the file itself"),
        ("pointer", "git lfs pull"),
        ("onnx", "torch.export.save"),
        ("unknown", "download or copy it again"),
    ],
)
def test_what_holds_no_weights_says_what_to_do(files: Path, dehazexl: Command, name: str, words: str) -> None:
    shown = dehazexl("weights", "show", files / f"{name}.pt")
    assert shown.code == 5
    assert words in shown.err
    assert "weights_only" not in shown.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("module", "objects of Python"),
        ("state", "no network that"),
        ("page", "holds no network that can run"),
        ("unknown", "holds no network that can run"),
    ],
)
def test_what_holds_no_network_says_what_to_do(
    files: Path, dehazexl: Command, small_scene: Path, name: str, words: str
) -> None:
    run = ("run", small_scene, small_scene.with_name("out.tif"), "--model", "generic")
    result = dehazexl(*run, "--weights", files / f"{name}.pt")
    assert result.code == 5
    assert words in result.err
    assert "weights_only" not in result.err
    assert len(result.err.splitlines()) == 2


@pytest.mark.parametrize("name", ["script", "traced", "exported"])
def test_networks_from_elsewhere_run_without_words_of_torch(
    files: Path, small_scene: Path, name: str
) -> None:
    # In a process of its own: torch says some things once, and pytest takes warnings for itself.
    line = ["run", small_scene, small_scene.with_name("out.tif"), "--model", "generic", "--weights"]
    command = [sys.executable, "-m", "dehazexl_cli", *map(str, line), str(files / f"{name}.pt"), "-q"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_numbers_are_those_of_the_network(files: Path) -> None:
    import dehazexl_cli

    image = np.random.default_rng(0).integers(60, 190, (40, 50, 3), np.uint8)
    options = dehazexl_cli.Options(device="cpu")
    model = dehazexl_cli.load_model("generic", files / "script.pt")
    result = dehazexl_cli.dehaze(image, model=model, options=options)
    net = torch.jit.load(str(files / "script.pt"))
    with torch.inference_mode():
        expected = net(torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)))[0]
    near = np.clip(expected.numpy().transpose(1, 2, 0) * 255, 0, 255)
    assert np.abs(result - near).max() <= 0.51


@pytest.mark.parametrize(
    ("content", "hint"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"<!DOCTYPE html>", "a web page")],
)
def test_weights_are_known_for_what_they_are_under_a_name_that_promises_numbers(
    dehazexl: Command, tmp_path: Path, content: bytes, hint: str
) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    result = dehazexl("weights", "show", path)
    assert result.code == 5 and hint in result.err
