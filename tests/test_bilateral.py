"""The published bilateral network: exact, and streamed as it runs on the whole image at once."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from conftest import published_state
from torch import Tensor, nn

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, run
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import PatchBatch, cut_batches, forward_in_memory, join_patches
from dehazexl_cli.models.checkpoint import load
from dehazexl_cli.models.mgbl import COLOURS, BilateralConfig, MultiGuidedBilateral, cubic_weights
from dehazexl_cli.models.unet import BatchNorm
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

EXACT = 1e-4  # of the largest output, against the released code
STREAMED = 1e-5  # of the largest output, against the whole image
SMALL = BilateralConfig(patch=32, grid_side=32, colour_side=48, widths=(8, 12, 16), cells=4, depth=8)


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiGuidedBilateral:
    """The network, loaded from a `.pth` file as its authors would have saved it."""
    path = tmp_path_factory.mktemp("weights") / "mgbl.pth"
    torch.save(published_state(shared, "mgbl"), path)
    model = load(path).model
    assert isinstance(model, MultiGuidedBilateral)
    return model


def small(patch: int = 32) -> MultiGuidedBilateral:
    """A small network whose every part shows in its output: no weight is left where it starts."""
    torch.manual_seed(0)
    model = MultiGuidedBilateral(dataclasses.replace(SMALL, patch=patch)).eval()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.2, 1.5)
            nn.init.normal_(module.bias, std=0.5)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.6)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1.5 / module.weight[0].numel() ** 0.5)
    return model


def noise(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def picture(shared: Path, name: str) -> tuple[Tensor, Tensor]:
    with rasterio.open(shared / "reference" / f"{name}.png") as file:
        pixels = torch.from_numpy(file.read()).float()[None] / 255
    return pixels, torch.from_numpy(np.load(shared / "reference" / f"{name}.npz")["output"])[None]


def at_once(model: MultiGuidedBilateral, image: Tensor) -> Tensor:
    """The network as the paper draws it, over the whole image, without patches, halos or masks.

    In float64: in float32, torch's resizing is wrong by a share of a pixel that grows with the image.
    """
    model, image = copy.deepcopy(model).double(), image.double()
    height, width = image.shape[2:]
    config = model.config

    def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size, mode="bicubic", align_corners=True)

    def padded(block: nn.Sequential, x: Tensor) -> Tensor:
        for layer in block:
            x = layer(F.pad(x, (1, 1, 1, 1)) if getattr(layer, "kernel_size", None) == (3, 3) else x)
        return x

    grids = F.adaptive_avg_pool2d(
        model.grid_net(resized(image, (config.grid_side,) * 2)),
        (4 * config.cells, config.depth * config.cells),
    ).view(-1, 12, config.depth, config.cells, config.cells)
    colour = resized(model.colour_net(resized(image, (config.colour_side,) * 2)), (height, width))
    ends = [torch.linspace(-1, 1, size, dtype=torch.float64) for size in (height, width)]
    down, right = torch.meshgrid(*ends, indexing="ij")
    painted = []
    for i, name in enumerate(COLOURS):
        guide = model.guides[name]
        depth = guide.last(padded(guide.second, padded(guide.first, image[:, i : i + 1]))).tanh()[:, 0]
        places = torch.stack([right.expand_as(depth), down.expand_as(depth), depth], dim=-1)[:, None]
        m = F.grid_sample(grids, places, align_corners=True)[:, :, 0].unflatten(1, (3, 4))
        tinted = model.bend(model.tints[name](colour))
        painted.append(torch.einsum("boihw,bihw->bohw", m[:, :, :3], tinted) + m[:, :, 3])
    mist = padded(model.fuse, torch.cat(painted, dim=1))
    return model.bend(padded(model.gain, mist) * image - mist + 1).float()


def require_close(output: Tensor, expected: Tensor, tolerance: float) -> None:
    assert output.shape == expected.shape
    assert (output - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["mgbl_360x640", "mgbl_512x512"])
def test_output_equals_that_of_the_released_code(
    shared: Path, published: MultiGuidedBilateral, name: str
) -> None:
    image, expected = picture(shared, name)
    with torch.inference_mode():
        require_close(published(image), expected, EXACT)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_published_network_streams_as_it_runs_whole(
    shared: Path, published: MultiGuidedBilateral
) -> None:
    image, _ = picture(shared, "mgbl_360x640")
    with torch.inference_mode():
        require_close(forward_in_memory(published, image, batch_size=2), at_once(published, image), STREAMED)


SIZES = [(64, 64), (33, 50), (10, 7), (100, 20), (37, 129), (1, 40), (40, 1), (1, 1), (2, 2), (65, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", [1, 7, 32, 200])
def test_streamed_equals_whole_for_every_scene_and_patch(size: tuple[int, int], patch: int) -> None:
    model, image = small(patch), noise(*size)
    with torch.inference_mode():
        require_close(model(image), at_once(model, image), STREAMED)


@pytest.mark.parametrize("size", [(33, 50), (100, 20), (10, 7), (64, 129)])
@pytest.mark.parametrize("overlap", [1, 5, 16])
def test_patches_that_overlap_change_nothing(size: tuple[int, int], overlap: int) -> None:
    model, image = small(), noise(*size)
    with torch.inference_mode():
        require_close(forward_in_memory(model, image, overlap=overlap), at_once(model, image), STREAMED)


def test_every_part_of_the_small_network_shows_in_its_output() -> None:
    model, image = small(), noise(50, 70).requires_grad_()
    output = model(image)
    output.square().sum().backward()
    assert image.grad is not None and image.grad.abs().min() > 0
    unseen = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert unseen == []


def test_scenes_in_one_batch_are_dehazed_as_one_by_one() -> None:
    model, images = small(), noise(50, 70, count=3)
    with torch.inference_mode():
        together = forward_in_memory(model, images, batch_size=5)  # batches cross from one scene to the next
        alone = torch.cat([model(image[None]) for image in images])
    require_close(together, alone, STREAMED)


def test_patches_may_come_in_any_order() -> None:
    model, image = small(), noise(70, 90)
    grid = PatchGrid(70, 90, model.patch, model.halo)
    (batch,) = cut_batches(image, grid, len(grid))
    order = torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))
    mixed = PatchBatch(tuple(order.tolist()), grid, batch.pixels[order])
    with torch.inference_mode():
        scene = model.apply_bottleneck(model.encode(mixed)[0].sum(0, keepdim=True), grid, None)
        patches = model.decode(mixed, scene, ())[order.argsort()]
        require_close(join_patches(patches[None], grid), model(image), STREAMED)


@pytest.mark.parametrize("size", [(64, 48), (37, 129), (10, 7)])
def test_what_overhangs_the_scene_is_never_looked_at(size: tuple[int, int]) -> None:
    model, image = small(), noise(*size)
    grid = PatchGrid(*size, model.patch, model.halo)
    ones = cut_batches(torch.ones_like(image), grid, len(grid))[0]
    (batch,) = cut_batches(image, grid, len(grid))
    rows = torch.arange(-model.halo, model.patch + model.halo)
    for id, pixels in enumerate(ones.pixels):
        box = grid.box(id)
        pixels *= ((rows + box.top >= 0) & (rows + box.top < size[0]))[:, None]
        pixels *= (rows + box.left >= 0) & (rows + box.left < size[1])
    elsewhere = batch._replace(pixels=torch.where(ones.pixels > 0, batch.pixels, 7.0))
    with torch.inference_mode():
        tokens, _ = model.encode(elsewhere)
        assert torch.equal(tokens, model.encode(batch)[0])
        scene = model.apply_bottleneck(tokens.sum(0, keepdim=True), grid, None)
        both = [join_patches(model.decode(b, scene, ())[None], grid) for b in (batch, elsewhere)]
    assert torch.equal(*both)


@pytest.mark.parametrize(("size", "source"), [(320, 1000), (1000, 320), (7, 7), (1, 9), (9, 1), (256, 255)])
def test_weights_are_those_of_bicubic_resizing(size: int, source: int) -> None:
    weights = cubic_weights(torch.arange(size)[None], size, torch.arange(source)[None], source)[0]
    line = torch.rand(source, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(line.view(1, 1, 1, -1), (1, size), mode="bicubic", align_corners=True).flatten()
    # Places are exact here and rounded to float32 there.
    torch.testing.assert_close(weights @ line, expected, rtol=0, atol=2e-4)


def test_through_the_engine_it_gives_what_it_gives_in_memory() -> None:
    model = small()
    array = (noise(90, 130)[0].permute(1, 2, 0) * 255).byte().numpy()
    reader, writers = ArrayReader(array), list[ArrayWriter]()

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info, "hwc"))
        return writers[-1]

    run(
        reader,
        make_writer,
        model,
        EngineOptions(device="cpu", precision="fp32", overrides=PlanOverrides(batch=3)),
    )
    with torch.inference_mode():
        expected = at_once(model, torch.from_numpy(array).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    difference = writers[-1].array.astype(float) - (255 * expected).permute(1, 2, 0).numpy()
    assert abs(difference).max() <= 0.51
    assert writers[-1].array.std() > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thumbnails_and_pixels_are_float32_whatever_the_weights(dtype: torch.dtype) -> None:
    model, image = small().to(dtype), noise(70, 90)
    grid = PatchGrid(70, 90, model.patch, model.halo)
    (batch,) = cut_batches(image, grid, len(grid))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        tokens, skips = model.encode(batch)
        pixels = model.decode(batch, model.apply_bottleneck(tokens.sum(0, keepdim=True), grid, None), skips)
    assert (tokens.dtype, pixels.dtype, skips) == (torch.float32, torch.float32, ())
    inner = batch.pixels[..., model.halo : -model.halo, model.halo : -model.halo]
    expected = small().decode(batch, small().apply_bottleneck(tokens.sum(0, keepdim=True), grid, None), ())
    error = (pixels - expected).abs()
    assert error.mean() < 0.1 * (expected - inner).abs().mean()
    assert (
        pixels != pixels.to(torch.bfloat16)
    ).float().mean() > 0.9  # finer than the steps of half precision


def test_it_is_as_large_as_published() -> None:
    with torch.device("meta"):
        model = build("mgbl-paper")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 34.55
    footprint = model.footprint(torch.float32)
    assert (footprint.token_bytes, footprint.skip_bytes, footprint.bottleneck_bytes) == (0, 0, 0)
    assert footprint.weight_bytes > 4 * 34_550_000
