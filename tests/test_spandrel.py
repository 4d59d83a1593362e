"""Weights of other projects, as far as the package spandrel recognises their networks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from conftest import Result
from safetensors.torch import save_file
from torch import Tensor, nn

import dehazexl_cli
from dehazexl_cli.errors import WeightsError

Command = Callable[..., Result]


class Darken(nn.Module):
    """Halves what it sees; of one tensor, so that a state dict of it is recognised by that."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Parameter(torch.tensor([0.5]))

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[0] == 1, "one image at a time"
        assert image.shape[2] % 8 == image.shape[3] % 8 == 0
        return image * self.halves


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of spandrel's interface as is used; what it knows is Darken."""
    module: Any = ModuleType("spandrel")

    class Descriptor:
        scale, input_channels, output_channels = 1, 3, 3
        size_requirements = SimpleNamespace(multiple_of=8)
        architecture = SimpleNamespace(name="Darken")

        def __init__(self, state: dict[str, Tensor]) -> None:
            self.model = Darken()
            self.model.load_state_dict(state)

        def __call__(self, image: Tensor) -> Tensor:
            made: Tensor = self.model(image)
            return made

    class UnsupportedModelError(Exception):
        pass

    class ModelLoader:
        def load_from_state_dict(self, state: dict[str, Tensor]) -> Any:
            if "halves" not in state:
                raise UnsupportedModelError
            return Descriptor(state)

    module.ImageModelDescriptor, module.ModelLoader = Descriptor, ModelLoader
    module.UnsupportedModelError = UnsupportedModelError
    module.canonicalize_state_dict = lambda state: {k.removeprefix("module."): v for k, v in state.items()}
    monkeypatch.setitem(sys.modules, "spandrel", module)
    return module


def saved(folder: Path, state: dict[str, Any], name: str = "net.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize("key", [None, "params", "params_ema", "state_dict"])
@pytest.mark.parametrize("name", [None, "generic"])
def test_a_network_that_spandrel_knows_runs_by_tiles(
    key: str | None, name: str | None, spandrel: ModuleType, tmp_path: Path
) -> None:
    state = {"module.halves": torch.tensor([0.5])}
    loaded = dehazexl_cli.load_model(name, saved(tmp_path, {key: state} if key else state))
    assert loaded.about == {"architecture": "Darken", "multiple": 8} and loaded.name == "net"
    image = np.random.default_rng(0).integers(60, 190, (75, 90, 3), np.uint8)
    result = dehazexl_cli.dehaze(image, model=loaded, tile=32, mode="tile", device="cpu")
    assert abs(result - image / 2).max() <= 0.51


def test_safetensors_of_others_run_too(spandrel: ModuleType, tmp_path: Path) -> None:
    save_file({"halves": torch.tensor([0.5])}, tmp_path / "net.safetensors")
    assert dehazexl_cli.load_model(weights=tmp_path / "net.safetensors").about["architecture"] == "Darken"


def test_the_command_runs_it(
    spandrel: ModuleType, dehazexl: Command, small_scene: Path, tmp_path: Path
) -> None:
    weights = saved(tmp_path, {"halves": torch.tensor([0.5])})
    result = dehazexl(
        "run", small_scene, tmp_path / "out.tif", "--weights", weights, "--device", "cpu", "--json"
    )
    assert result.code == 0, result.err
    assert '"mode": "tile"' in result.out
    with rasterio.open(small_scene) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert abs(after.read().astype(float) - before.read() / 2).max() <= 0.51


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"scale": 4}, "this Darken makes images 4 times as large"),
        ({"input_channels": 1}, "makes 3 bands of 1"),
    ],
)
def test_what_makes_no_image_like_its_own_is_refused(
    about: dict[str, int], words: str, spandrel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in about.items():
        monkeypatch.setattr(spandrel.ImageModelDescriptor, name, value)
    with pytest.raises(WeightsError, match=words):
        dehazexl_cli.load_model(weights=saved(tmp_path, {"halves": torch.tensor([0.5])}))


def test_what_spandrel_does_not_know_or_cannot_fill_is_refused(spandrel: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no network that dehazexl or spandrel knows"):
        dehazexl_cli.load_model(weights=saved(tmp_path, {"other": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="spandrel cannot make a network of it"):
        dehazexl_cli.load_model(weights=saved(tmp_path, {"halves": torch.zeros(2)}))


def test_without_spandrel_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(WeightsError, match="no network that is known here") as refused:
        dehazexl_cli.load_model(weights=saved(tmp_path, {"halves": torch.zeros(1)}))
    assert "pip install 'dehazexl[spandrel]'" in refused.value.hint


def test_a_torchvision_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match=r"cannot be loaded \(operator torchvision::nms") as refused:
        dehazexl_cli.load_model(weights=saved(tmp_path, {"halves": torch.zeros(1)}))
    assert "torchvision from one index" in refused.value.hint


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [None, "generic"])
def test_code_in_a_file_is_not_run(name: str | None, spandrel: ModuleType, tmp_path: Path) -> None:
    weights = saved(tmp_path, {"halves": Trap(tmp_path / "sprung")})
    with pytest.raises(WeightsError, match="objects of Python"):
        dehazexl_cli.load_model(name, weights)
    assert not (tmp_path / "sprung").exists()


def test_a_network_of_spandrel_itself_gives_its_own_numbers(tmp_path: Path) -> None:
    try:
        from spandrel.architectures.NAFNet import NAFNet
    except (ImportError, RuntimeError) as error:  # the latter of torchvision
        pytest.skip(f"spandrel cannot be imported: {error}")
    torch.manual_seed(0)
    net = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]).eval()
    for part in net.parameters():  # those that scale its branches begin as 0
        nn.init.normal_(part, std=0.1)
    loaded = dehazexl_cli.load_model(weights=saved(tmp_path, {"params": net.state_dict()}))
    assert loaded.about["architecture"] == "NAFNet"
    image = np.random.default_rng(0).integers(60, 190, (64, 96, 3), np.uint8)
    result = dehazexl_cli.dehaze(image, model=loaded, mode="whole", device="cpu")
    with torch.inference_mode():
        made = net(torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)))[0].clamp(0, 1)
    near = made.numpy().transpose(1, 2, 0) * 255
    assert abs(result - near).max() <= 0.51 and abs(near - image).max() > 5
