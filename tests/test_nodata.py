"""Pixels that are no ground: whatever their shape, they come out as they were and change nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from conftest import Identity, Toy
from numpy.typing import NDArray
from test_stream import FP32, streamed

from dehazexl_cli import load_model
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import InferenceMode, PlanOverrides, run
from dehazexl_cli.engine.nodata import empty_patches, gaps, valid_bounds
from dehazexl_cli.engine.nodata_filling import fill_nodata
from dehazexl_cli.grid import Box, PatchGrid, SeamLines
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.raster.views import WindowedReader

Bools = NDArray[np.bool_]


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("border", [((7, 0), (0, 0)), ((0, 13), (40, 5)), ((300, 21), (17, 600))])
@pytest.mark.parametrize("reduction", ["stack", "sum"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_border_of_nodata_changes_not_a_bit(
    border: tuple[tuple[int, int], tuple[int, int]], reduction: str, dtype: str
) -> None:
    array = scene(50, 70).astype(dtype)
    alone, _ = streamed(array, Toy(token_reduction=reduction), EngineOptions(**FP32))
    framed, report = streamed(
        np.pad(array, (*border, (0, 0))),
        Toy(token_reduction=reduction),
        EngineOptions(**FP32),
        nodata=0,
    )
    assert np.array_equal(framed, np.pad(alone, (*border, (0, 0))))
    assert report.invalid_pixels == framed.shape[0] * framed.shape[1] - 50 * 70
    assert not np.array_equal(alone, array)


@pytest.mark.parametrize(
    "mode", [InferenceMode("tile", 64), InferenceMode("downsample", long_side=40), InferenceMode("whole")]
)
def test_other_modes_know_borders_groups_and_parts_too(mode: InferenceMode) -> None:
    array = np.concatenate([scene(90, 130), scene(90, 130, 1)], axis=2)
    array[30:50, 60:70] = 0
    options = EngineOptions(**FP32, mode=mode, all_bands=True)
    alone, _ = streamed(array, Toy(), options, nodata=0)
    framed, report = streamed(np.pad(array, ((9, 70), (41, 5), (0, 0))), Toy(), options, nodata=0)
    assert np.array_equal(framed, np.pad(alone, ((9, 70), (41, 5), (0, 0))))
    assert report.invalid_pixels == framed.shape[0] * framed.shape[1] - 90 * 130 + 200
    for bands in (slice(0, 3), slice(3, 6)):
        by_itself, _ = streamed(np.ascontiguousarray(array[:, :, bands]), Toy(), options, nodata=0)
        assert np.array_equal(alone[:, :, bands], by_itself)
    reader = ArrayReader(array, nodata=0)
    part = Box(17, 20, 50, 77)
    writer = ArrayWriter(replace(reader.info, height=50, width=77))
    run(reader, lambda: writer, Toy(), replace(options, window=part))
    assert np.array_equal(writer.array, alone[17:67, 20:97])


def test_the_report_tells_where_patches_meet_in_what_is_written() -> None:
    bordered = np.pad(scene(90, 130), ((9, 70), (41, 5), (0, 0)))
    _, report = streamed(bordered, Toy(), EngineOptions(**FP32), nodata=0)
    assert (report.seam_lines["top"], report.seam_lines["left"]) == (9, 41)
    reader = ArrayReader(bordered, nodata=0)
    writer = ArrayWriter(replace(reader.info, height=60, width=80))
    report = run(reader, lambda: writer, Toy(), EngineOptions(**FP32, window=Box(20, 50, 60, 80)))
    seam_lines = SeamLines(**report.seam_lines)
    assert (seam_lines.top, seam_lines.left) == (9 - 20, 41 - 50)
    grid = PatchGrid(90, 130, Toy().patch)
    edges = [grid.box(column).left + seam_lines.left for column in range(grid.cols)]
    assert seam_lines.starts(80, seam_lines.left) == [edge for edge in edges if 0 < edge < 80]


def ellipse(height: int, width: int) -> Bools:
    y, x = np.mgrid[:height, :width]
    inside: Bools = ((y - height / 2) / (height / 2)) ** 2 + ((x - width / 2) / (width / 2)) ** 2 < 1
    return inside


@pytest.mark.parametrize("reduction", ["stack", "sum"])
@pytest.mark.parametrize("hidden", [0.0, 77.0, np.nan, np.inf])
def test_what_stands_in_invalid_pixels_never_reaches_the_model(reduction: str, hidden: float) -> None:
    valid = ellipse(90, 130)
    array = np.where(valid[:, :, None], scene(90, 130), 0).astype(np.float32)
    alpha = np.where(valid, 255, 0).astype(np.float32)[:, :, None]
    expected, _ = streamed(
        np.concatenate([array, alpha], 2),
        Toy(token_reduction=reduction),
        EngineOptions(**FP32),
        alpha=4,
    )
    array[~valid] = hidden
    output, report = streamed(
        np.concatenate([array, alpha], 2),
        Toy(token_reduction=reduction),
        EngineOptions(**FP32),
        alpha=4,
    )
    assert report.invalid_pixels == (~valid).sum()
    assert np.array_equal(output[valid], expected[valid])
    assert output[~valid].tobytes() == np.concatenate([array, alpha], 2)[~valid].tobytes()


def test_a_patch_without_ground_is_not_computed() -> None:
    array = scene(160, 160)
    array[32:128, 32:128] = 0  # a hole of 6 x 6 patches
    model = Toy()
    _, report = streamed(
        array, model, EngineOptions(**FP32, overrides=PlanOverrides("recompute", 4)), nodata=0
    )
    inside = [id for id in range(100) if 2 < id // 10 < 7 and 2 < id % 10 < 7]
    assert not set(inside) & set(model.encoded)
    assert report.invalid_pixels == 96 * 96


def test_a_scene_without_any_ground_comes_out_as_it_was() -> None:
    array = np.zeros((40, 60, 3), np.uint8)
    for reduction in ("stack", "sum"):
        output, report = streamed(array, Toy(token_reduction=reduction), EngineOptions(**FP32), nodata=0)
        assert (output == 0).all()
        assert report.invalid_pixels == 2400


@pytest.mark.parametrize("seed", range(20))
def test_ground_is_found_whatever_its_shape(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 900, 2)
    array = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(0, 4)):
        array[rng.integers(height), rng.integers(width)] = 1
    found = valid_bounds(ArrayReader(array, nodata=0), [1])
    rows, cols = np.nonzero(array)
    if not rows.size:
        assert found is None
    else:
        assert found == Box(rows.min(), cols.min(), rows.max() - rows.min() + 1, cols.max() - cols.min() + 1)


def test_only_the_ends_of_a_raster_valid_to_its_edges_are_looked_at() -> None:
    class Counting(ArrayReader):
        rows = 0

        def valid(self, box: Box, bands: Sequence[int]) -> Bools | None:
            self.rows += box.height
            return super().valid(box, bands)

    array = np.ones((5000, 30), np.uint8)
    array[2000:2100, 4] = 0
    reader = Counting(array, nodata=0)
    assert valid_bounds(reader, [1]) == Box(0, 0, 5000, 30)
    assert reader.rows <= 512


def test_patches_without_ground_and_runs_to_fill_are_found_by_columns() -> None:
    grid = PatchGrid(16, 160, 16)
    valid = np.zeros((16, 160), bool)
    valid[:, 40:110] = True
    empty = empty_patches(grid, 0, valid)
    assert empty == {0, 1, 7, 8, 9}
    assert gaps(grid, 0, valid, empty) == [slice(16, 128)] or gaps(grid, 0, valid, empty) == [
        slice(16, 64),
        slice(80, 128),
    ]


def test_gaps_show_the_ground_beside_them_mirrored_and_not_smoothed() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint16)
    valid = np.ones((64, 64), bool)
    valid[:, 32:] = False
    filled = fill_nodata(np.where(valid, pixels, 9999), valid, lambda: np.zeros(3))
    assert filled.max() < 255
    assert np.array_equal(filled[:, :, :32], pixels[:, :, :32])
    texture = [filled[:, :, part].astype(float).std() for part in (slice(0, 32), slice(32, 60))]
    assert texture[1] > 0.9 * texture[0]


def test_fills_of_wide_integers_stay_within_their_type() -> None:
    pixels = np.full((1, 9, 9), 2**32 - 1, np.uint32)
    valid = np.zeros((9, 9), bool)
    valid[4, 4] = True
    assert (fill_nodata(pixels, valid, lambda: np.zeros(1)) >= 2**32 - 256).all()


def test_a_part_is_a_raster_of_its_own() -> None:
    array = scene(60, 80)
    array[30:, :20] = 0
    part = WindowedReader(ArrayReader(array, nodata=0), Box(20, 10, 30, 40))
    cut = ArrayReader(np.ascontiguousarray(array[20:50, 10:50]), nodata=0)
    box = Box(5, 6, 20, 30)
    assert (part.info.height, part.info.width) == (30, 40)
    assert np.array_equal(part.read(box, [3, 1]), cut.read(box, [3, 1]))
    assert np.array_equal(part.valid(box, [1, 2, 3]), cut.valid(box, [1, 2, 3]))  # type: ignore[arg-type]
    assert np.array_equal(part.sample([1, 2], 7), cut.sample([1, 2], 7))
    with pytest.raises(ValueError, match="not inside"):
        part.read(Box(0, 0, 31, 40), [1])


def test_identity_gives_back_every_bit_around_any_footprint() -> None:
    array = scene(90, 130)
    array[~ellipse(90, 130)] = 0
    output, _ = streamed(array, Identity(), EngineOptions(device="cpu"), nodata=0)
    assert np.array_equal(output, array)


def rotated(side: int, degrees: float, half: float) -> tuple[Bools, NDArray[np.float64]]:
    """A rotated square footprint, and how deep in it each pixel lies."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    sin, cos = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    depth = half - np.maximum(abs(y * cos + x * sin), abs(x * cos - y * sin))
    return depth > 0, depth


def hazy_ground(side: int) -> NDArray[np.uint8]:
    """Fields and texture under a haze that thickens to one corner."""
    rng = np.random.default_rng(3)
    fields = np.kron(rng.uniform(0.1, 0.5, (side // 50, side // 50, 3)), np.ones((50, 50, 1)))
    ground = np.clip(fields + rng.normal(0, 0.05, (side, side, 1)), 0, 1)
    y, x = np.mgrid[:side, :side] / side
    veil = np.exp(-(0.4 + 0.8 * y * x))[:, :, None]
    hazy: NDArray[np.uint8] = (255 * (ground * veil + 0.85 * (1 - veil))).clip(1, 255).astype(np.uint8)
    return hazy


@pytest.mark.slow
def test_a_border_of_nodata_changes_not_a_bit_with_the_bundled_weights() -> None:
    array, model = hazy_ground(400), load_model().model
    options = EngineOptions(**FP32, overrides=PlanOverrides(batch=4))  # equal bits are for equal plans
    alone, _ = streamed(array, model, options, nodata=0)
    border = ((130, 70), (99, 301), (0, 0))
    framed, _ = streamed(np.pad(array, border), model, options, nodata=0)
    assert np.array_equal(framed, np.pad(alone, border))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_batches_change_a_level_at_most_with_the_bundled_weights(precision: str) -> None:
    """Libraries choose their kernels by the size of a batch, so that no more can be promised."""
    array, model = hazy_ground(400), load_model("mgbl-s").model
    options = EngineOptions(device="cpu", precision=precision, overrides=PlanOverrides(batch=1))
    single, _ = streamed(array, model, options)
    many, _ = streamed(array, model, replace(options, overrides=PlanOverrides(batch=8)))
    difference = abs(single.astype(int) - many)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


@pytest.mark.slow
def test_no_rim_shows_along_a_rotated_footprint() -> None:
    """The bundled weights, with real ground beyond the footprint's edge and with nodata there."""
    array, model = hazy_ground(800), load_model().model
    valid, depth = rotated(800, 30, 296)
    assert valid.any(0).all() and valid.any(1).all()  # patches lie alike
    with_ground, _ = streamed(array, model, EngineOptions(**FP32))
    array[~valid] = 0
    without, _ = streamed(array, model, EngineOptions(**FP32), nodata=0)
    difference = without.astype(int) - with_ground
    # Every patch hears of the scene, so what lay beyond the edge is missed everywhere, and alike.
    deep = difference[valid & (depth > 64)]
    assert abs(deep.mean()) < 8
    assert deep.std() < 6
    rings = [difference[valid & (depth > at) & (depth <= at + 4)].mean() for at in range(0, 128, 4)]
    # A rim is a step that follows the edge; nobody sees half of a level.
    assert abs(np.diff(rings)).max() < 0.5
    assert max(map(abs, rings)) < 8
