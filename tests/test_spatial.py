"""The bilateral network on a spatial grid: what a pixel gets depends on the scene, not on how it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, run
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import PatchBatch, cut_batches, forward_in_memory
from dehazexl_cli.models.bilateral_grid import (
    BILATERAL_GRID,
    CELL,
    ROW,
    BilateralGridConfig,
    BilateralGridModel,
    Thumbnail,
)
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

TINY = BilateralGridConfig(patch=64, view=96, widths=(8, 8, 16, 16, 24), guide_width=4)
STREAMED = 1e-5  # of the largest output, against the whole image
SHAPES = [(64, 64), (300, 700), (1100, 530), (33, 1025), (5, 9), (1, 1)]


def tiny(patch: int = 64) -> BilateralGridModel:
    """A small network whose every part shows in its output: no weight is left where it starts."""
    torch.manual_seed(0)
    model = BilateralGridModel(TINY).eval()
    model.patch = patch
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=1 / module.weight[0].numel() ** 0.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


def noise(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def test_fresh_weights_change_nothing() -> None:
    image = noise(100, 60)
    with torch.inference_mode():
        assert torch.equal(build("mgbl-s").eval()(image), image)


def test_is_small() -> None:
    assert sum(p.numel() for p in build("mgbl-s").parameters()) <= 4_000_000


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_cutting_into_patches_of_any_size_changes_nothing(height: int, width: int) -> None:
    image = noise(height, width)
    with torch.inference_mode():
        whole = forward_in_memory(tiny(max(height, width)), image)
        assert (whole - image).abs().max() > 0.1
        for patch in (16, 50, 64, 256):
            cut = forward_in_memory(tiny(patch), image, batch_size=3)
            assert (cut - whole).abs().max() <= STREAMED * whole.abs().max()


def test_streamed_through_the_engine_equals_whole() -> None:
    pixels = (noise(150, 220)[0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)
    with torch.inference_mode():
        whole = forward_in_memory(tiny(256), torch.from_numpy(pixels / 65535).float().permute(2, 0, 1)[None])
    wanted = (whole[0].permute(1, 2, 0).clamp(0, 1) * 65535).numpy()
    for batch in (1, 3):
        reader = ArrayReader(pixels)
        writer = ArrayWriter(reader.info)
        options = EngineOptions(
            input_range=(0, 65535), precision="fp32", device="cpu", overrides=PlanOverrides(batch=batch)
        )
        run(reader, lambda w=writer: w, tiny(), options)  # type: ignore[misc]
        assert np.abs(writer.array.astype(np.float64) - wanted).max() <= 0.5 + 65535 * STREAMED * 3


def test_scenes_of_a_batch_do_not_see_each_other() -> None:
    images = noise(90, 150, count=3)
    with torch.inference_mode():
        together = tiny()(images)
        for image, result in zip(images, together, strict=True):
            assert (tiny()(image[None])[0] - result).abs().max() <= STREAMED * result.abs().max()


@pytest.mark.parametrize("step", [1, 3, 7])
def test_the_view_is_the_mean_of_blocks(step: int) -> None:
    model = tiny()
    height, width = 96 * step - step // 2, 40 * step  # the last row of blocks is not whole
    image = noise(height, width)
    grid = PatchGrid(height, width, model.patch)
    view = Thumbnail.of(grid, TINY.view)
    assert view == (step, 96, 40)
    seen = []
    model.net.register_forward_hook(lambda net, inputs, result: seen.append(inputs[0]))
    with torch.inference_mode():
        model(image)
    wanted = F.avg_pool2d(image, step, ceil_mode=True)  # its last blocks are means of what there is
    got = seen[0][:, :, :96, :40] * model.std + model.mean
    assert (got - wanted).abs().max() < 1e-5


def test_transforms_are_those_that_grid_sample_would_find() -> None:
    """Slicing written with matrix products against the plain trilinear lookup in torch."""
    model, height, width = tiny(), 200, 130
    image = noise(height, width)
    grid = PatchGrid(height, width, model.patch)
    view = Thumbnail.of(grid, TINY.view)
    rows, cols = view.cells
    scene = torch.randn(1, TINY.depth * ROW * 3 * rows * cols, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = sliced_plainly(model, image, scene, view)
        for batch in cut_batches(image, grid, 2):
            patches = model.decode(batch, scene, ())
            for id, patch in zip(batch.ids, patches, strict=True):
                box = grid.box(id)
                part = wanted[:, box.top : box.bottom, box.left : box.right]
                inside = patch[:, : part.shape[1], : part.shape[2]]
                assert (inside - part).abs().max() <= STREAMED * wanted.abs().max()


def sliced_plainly(model: BilateralGridModel, image: Tensor, scene: Tensor, view: Thumbnail) -> Tensor:
    """[3, height, width]: each colour's row of transforms looked up at its guide's depth."""
    height, width = image.shape[2:]
    depth = TINY.depth
    cells = scene.view(depth, ROW, 3, *view.cells).permute(2, 1, 0, 3, 4)  # [colour, number, depth, …]
    guides = model.guide(image)[0]
    places = [
        ((torch.arange(size) + 0.5) / (CELL * view.step) - 0.5).clamp(0, count - 1) / (count - 1) * 2 - 1
        for size, count in zip((height, width), view.cells, strict=True)
    ]
    down, right = torch.meshgrid(*places, indexing="ij")
    at = torch.stack([right.expand(3, -1, -1), down.expand(3, -1, -1), guides * 2 - 1], dim=-1)[:, None]
    found = F.grid_sample(cells, at, align_corners=True, padding_mode="border")[:, :, 0]  # [3, 4, h, w]
    distance = image[0] - model.airlight.view(3, 1, 1)
    return image[0] + (found[:, :3] * distance).sum(1) + found[:, 3]


def test_every_weight_learns() -> None:
    model = tiny().train()
    model(noise(100, 160, count=2)).square().mean().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    silent = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert not silent


def test_tokens_of_patches_add_up_to_the_view_however_they_are_cut() -> None:
    image = noise(130, 210)
    sums = []
    for patch in (64, 37):
        model = tiny(patch)
        batches = cut_batches(image, PatchGrid(130, 210, patch), 4)
        sums.append(torch.cat([model.encode(PatchBatch(*batch))[0] for batch in batches]).sum(0))
    assert (sums[0] - sums[1]).abs().max() < 1e-4


def test_half_precision_keeps_pixels_whole() -> None:
    model = BilateralGridModel(BILATERAL_GRID).eval().to(torch.bfloat16)
    image = noise(70, 70)
    with torch.inference_mode():
        assert torch.equal(model(image), image)
