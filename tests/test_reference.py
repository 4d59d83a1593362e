"""The published network, exact: outputs of the released code are reproduced from weights by formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import published_state
from torch import Tensor

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, forward_in_memory
from dehazexl_cli.models.checkpoint import load

TOLERANCE = 1e-4  # of the largest output
SCENES = [
    ("dehazexl", "dehazexl_256"),
    ("dehazexl", "dehazexl_512"),
    ("dehazexl_linear", "dehazexl_linear_512"),
]


@pytest.fixture(scope="module")
def networks(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DehazeModel]:
    """Both published revisions, loaded from `.pth` files as their authors would have saved them."""
    loaded = {}
    for network in ("dehazexl", "dehazexl_linear"):
        path = tmp_path_factory.mktemp("weights") / f"{network}.pth"
        torch.save(published_state(shared, network), path)
        loaded[network] = load(path, "dehazexl-paper").model
    return loaded


def image(shared: Path, name: str) -> Tensor:
    with rasterio.open(shared / "reference" / f"{name.replace('linear_', '')}.png") as file:
        return torch.from_numpy(file.read()).float()[None] / 255


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("network", "scene"), SCENES)
def test_output_equals_that_of_the_released_code(
    shared: Path, networks: dict[str, DehazeModel], network: str, scene: str
) -> None:
    expected = np.load(shared / "reference" / f"{scene}.npz")["output"]
    with torch.inference_mode():
        output = networks[network](image(shared, scene))[0].numpy()
    assert abs(output - expected).max() <= TOLERANCE * abs(expected).max()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_encoder_features_equal_those_of_the_released_code(
    shared: Path, networks: dict[str, DehazeModel]
) -> None:
    expected = np.load(shared / "reference" / "dehazexl_256.npz")
    pixels = image(shared, "dehazexl_256")
    with torch.inference_mode():
        _, skips = networks["dehazexl"].encode(PatchBatch((0,), PatchGrid(256, 256, 256), pixels))
    finest, *_, deepest = (skip[0].permute(2, 0, 1).numpy() for skip in skips)
    assert abs(finest[:, ::8, ::8] - expected["stage0"]).max() <= TOLERANCE * abs(expected["stage0"]).max()
    assert abs(deepest - expected["stage3"]).max() <= TOLERANCE * abs(expected["stage3"]).max()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_patch_by_patch_equals_forward(shared: Path, networks: dict[str, DehazeModel]) -> None:
    model = networks["dehazexl"]
    pixels = image(shared, "dehazexl_512")
    with torch.inference_mode():
        whole, single = model(pixels), forward_in_memory(model, pixels, batch_size=1)
    # Libraries choose other kernels for a batch of one, so bits may differ.
    assert abs(single - whole).max() <= TOLERANCE * abs(whole).max()
