"""Tiles, smaller pictures and whole scenes: the same engine and promises, and what each is known for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Identity, Toy
from test_stream import FP32, scene, streamed, whole
from torch import Tensor, nn

import dehazexl_cli
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import InferenceMode
from dehazexl_cli.errors import DeviceError, UsageError, WeightsError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import PatchBatch, Skips
from dehazexl_cli.models.exported import ExportedModel
from dehazexl_cli.raster.base import Pixels


class Brighter(Identity):
    """Adds a tenth of the scene's mean, so that whoever sees another scene does something else."""

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        mean = scene.flatten(0, 1).mean(0).view(1, 3, 1, 1)
        return super().decode(batch, scene, skips) + 0.1 * mean


MODES = [
    InferenceMode("tile", tile=48),
    InferenceMode("tile", tile=48, tile_overlap=0),
    InferenceMode("tile", tile=50, tile_overlap=9, blend="hard"),
    InferenceMode("whole"),
    InferenceMode("downsample", long_side=40),
    InferenceMode("downsample", long_side=4000),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 130), (96, 96), (300, 41)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_no_change_gives_back_every_bit_in_every_mode(
    mode: InferenceMode, height: int, width: int, dtype: str
) -> None:
    array = scene(height, width).astype(dtype)
    output, report = streamed(array, Identity(), EngineOptions(**FP32, mode=mode))
    assert np.array_equal(output, array)
    assert report.mode == mode.kind


def test_whole_equals_global() -> None:
    array = scene(70, 133)
    for overlap in (0, 4):
        options = EngineOptions(**FP32, overlap=overlap)
        streaming, _ = streamed(array, Toy(), options)
        once, report = streamed(
            array, Toy(), EngineOptions(**FP32, overlap=overlap, mode=InferenceMode("whole"))
        )
        assert abs(once.astype(int) - streaming.astype(int)).max() <= 1
        assert report.overlap == overlap


def test_tiles_that_meet_edge_to_edge_are_scenes_of_their_own() -> None:
    array = scene(100, 130)
    output, report = streamed(
        array, Toy(), EngineOptions(**FP32, mode=InferenceMode("tile", tile=64, tile_overlap=0))
    )
    assert report.plan["tiles"] == [2, 3]
    for top in (0, 64):
        for left in (0, 64, 128):
            part = slice(top, top + 64), slice(left, left + 64)
            alone = whole(np.ascontiguousarray(array[part]), Toy())
            assert abs(output[part].astype(int) - alone).max() <= 1


def uneven() -> Pixels:
    """Dark on the left, bright on the right."""
    ramp = np.linspace(40, 200, 384).astype(np.uint8)
    return np.repeat(np.repeat(ramp[None, :, None], 96, 0), 3, 2)


def steps(output: Pixels, array: Pixels) -> int:
    """The largest step in what was changed."""
    change = output.astype(int) - array
    return int(abs(np.diff(change, axis=1)).max())


def test_tiles_step_where_they_meet_and_feathering_spreads_the_step() -> None:
    array = uneven()
    found = {}
    for name, mode in (
        ("global", InferenceMode("global")),
        ("edge", InferenceMode("tile", tile=96, tile_overlap=0)),
        ("hard", InferenceMode("tile", tile=96, tile_overlap=32, blend="hard")),
        ("feather", InferenceMode("tile", tile=96, tile_overlap=32)),
    ):
        found[name] = steps(streamed(array, Brighter(), EngineOptions(**FP32, mode=mode))[0], array)
    assert found["global"] <= 1
    assert found["edge"] >= 3
    assert found["hard"] >= 3
    assert found["feather"] <= 1


@pytest.mark.parametrize("overlap", [0, 1, 7, 8])
@pytest.mark.parametrize("hard", [False, True])
def test_weights_of_overlapping_patches_sum_to_one(overlap: int, hard: bool) -> None:
    grid = PatchGrid(50, 50, 16, overlap=overlap, hard=hard)
    total = np.zeros(grid.rows * grid.stride + overlap)
    for row in range(grid.rows):
        total[row * grid.stride : row * grid.stride + 16] += grid.edge_weights(row, grid.rows)
    assert total == pytest.approx(1)


def detailed(height: int, width: int) -> Pixels:
    """Ground with fine texture under a slow change of brightness."""
    y, x = np.mgrid[:height, :width]
    texture = np.random.default_rng(0).normal(0, 12, (height, width, 1))
    plane = 110 + 40 * np.sin(x / 60)[:, :, None] * np.cos(y / 50)[:, :, None] + texture
    return np.repeat(plane, 3, 2).clip(0, 255).astype(np.uint8)


class Clearer(Identity):
    """Takes away half of what is brighter than a fifth, as from under an even haze."""

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        return 1.5 * super().decode(batch, scene, skips) - 0.2


def test_guided_upsampling_keeps_detail_that_plain_upsampling_loses() -> None:
    array = detailed(256, 384)
    wanted, _ = streamed(array, Clearer(), EngineOptions(**FP32))
    errors = {}
    for upsampling in ("guided", "plain"):
        mode = InferenceMode("downsample", long_side=96, upsampling=upsampling)  # type: ignore[arg-type]
        output, report = streamed(array, Clearer(), EngineOptions(**FP32, mode=mode))
        errors[upsampling] = float(np.sqrt(np.square(output.astype(float) - wanted).mean()))
        assert report.plan["picture"] == [64, 96]
    assert errors["guided"] < 2.5
    assert errors["plain"] > 10


def test_the_smaller_picture_is_the_mean_by_area() -> None:
    from dehazexl_cli.engine.downsampling import add_rows

    pixels = torch.rand(3, 90, 70)
    total = torch.zeros(3, 30, 20)
    for top in range(0, 90, 32):
        add_rows(total, pixels[:, top : top + 32], top, 90)
    fine = pixels.repeat_interleave(2, dim=2).view(3, 30, 3, 20, 7).mean((2, 4))
    assert torch.allclose(total, fine, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_nodata_stays_and_does_not_bleed(mode: InferenceMode) -> None:
    array = np.full((96, 150, 3), 120, np.uint8)
    array[30:60, 40:90] = 0
    output, report = streamed(array, Brighter(), EngineOptions(**FP32, mode=mode), nodata=0)
    assert np.array_equal(output[30:60, 40:90], array[30:60, 40:90])
    assert report.invalid_pixels == 30 * 50
    ground = np.delete(output.reshape(-1, 3), np.flatnonzero((array == 0).all(2)), axis=0)
    assert ground.max() - ground.min() <= 1
    assert ground.min() > 120


def test_grey_scenes_run_in_every_mode() -> None:
    array = scene(60, 90)[:, :, 0]
    for mode in MODES:
        output, _ = streamed(array, Toy(), EngineOptions(**FP32, mode=mode))
        assert output.shape == array.shape
        assert (output != array).any()


def test_a_whole_scene_that_does_not_fit_is_refused_by_arithmetic() -> None:
    array = np.zeros((2000, 3000, 3), np.uint8)
    with pytest.raises(DeviceError, match="needs"):
        streamed(array, Identity(), EngineOptions(**FP32, mode=InferenceMode("whole"), max_ram=600 << 20))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: InferenceMode("sideways"),  # type: ignore[arg-type]
        lambda: InferenceMode("tile", blend="soft"),  # type: ignore[arg-type]
        lambda: InferenceMode("tile", tile=8),
        lambda: InferenceMode("global", tile=64).settled(Identity()),
        lambda: InferenceMode(None, long_side=64).settled(Identity()),
        lambda: streamed(
            scene(9, 9), Identity(), EngineOptions(mode=InferenceMode("tile", tile=64, tile_overlap=40))
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: object) -> None:
    with pytest.raises(UsageError):
        wrong()  # type: ignore[operator]


class Net(nn.Module):
    """A network that takes sides of multiples of 8 only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        nn.init.dirac_(self.conv.weight)
        nn.init.constant_(self.conv.bias, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(x, 8)
        large = torch.nn.functional.interpolate(small, scale_factor=8.0)
        return self.conv(x) + 0.0 * large


def exported(path: Path, kind: str, declared: dict[str, object] | None) -> Path:
    """The network as a file."""
    extra = {} if declared is None else {"dehazexl.json": json.dumps(declared)}
    if kind == "script":
        torch.jit.save(torch.jit.script(Net()), str(path), _extra_files=extra)
        return path
    if kind == "fixed":
        program = torch.export.export(Net(), (torch.rand(1, 3, 64, 64),))
    else:
        sides = {
            2: 8 * torch.export.Dim("rows", min=1, max=512),
            3: 8 * torch.export.Dim("cols", min=1, max=512),
        }
        program = torch.export.export(Net(), (torch.rand(1, 3, 64, 80),), dynamic_shapes=({**sides},))
    torch.export.save(program, path, extra_files=extra)
    return path


@pytest.mark.parametrize("kind", ["script", "dynamic", "fixed"])
def test_foreign_networks_run_over_scenes_of_any_size(kind: str, tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt2", kind, {"name": "plus", "multiple": 8})
    loaded = dehazexl_cli.load_model("generic", path)
    assert loaded.name == "plus"
    array = scene(75, 131) // 2
    for mode in (
        InferenceMode(),
        InferenceMode("tile", tile=64),
        *([] if kind == "fixed" else [InferenceMode("whole")]),
    ):
        output, report = streamed(array, loaded.model, EngineOptions(device="cpu", mode=mode))
        assert report.mode == (mode.kind or "tile")
        assert abs(output.astype(float) - array - 25.5).max() <= 0.51


def test_what_a_foreign_network_cannot_do_is_said(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt2", "fixed", None)
    model = dehazexl_cli.load_model("generic", path).model
    assert isinstance(model, ExportedModel)
    assert model.tile == 64
    array = scene(75, 131)
    with pytest.raises(UsageError, match="--mode global"):
        streamed(array, model, EngineOptions(mode=InferenceMode("global")))
    with pytest.raises(UsageError, match="64 x 64 pixels only"):
        streamed(array, model, EngineOptions(device="cpu", mode=InferenceMode("whole")))
    with pytest.raises(UsageError, match="--precision bf16"):
        streamed(array, model, EngineOptions(device="cpu", precision="bf16"))


def test_a_multiple_that_is_not_declared_can_be_given(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt", "script", {"multiple": 3})
    array = scene(75, 131)
    with pytest.raises(WeightsError, match="cannot take an image"):
        streamed(array, dehazexl_cli.load_model("generic", path).model, EngineOptions(device="cpu"))
    streamed(array, dehazexl_cli.load_model("generic", path, 8).model, EngineOptions(device="cpu"))
    with pytest.raises(UsageError, match="multiple is for"):
        dehazexl_cli.load_model("dehazexl-s", path, 8)


@pytest.mark.parametrize("content", [b"", b"no network", b"PK\x03\x04broken"])
def test_files_that_hold_no_network_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="no network"):
        dehazexl_cli.load_model("generic", path)
    with pytest.raises(WeightsError, match="no such file"):
        dehazexl_cli.load_model("generic", tmp_path / "none.pt2")
    with pytest.raises(WeightsError, match="no generic network"):
        dehazexl_cli.load_model("generic")
