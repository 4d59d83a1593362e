"""How much light gets through: the map that goes with a result, and what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Toy
from torch import Tensor

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.engine.haze import KINDS, NO_GROUND, shares_of_haze
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import PatchBatch, Skips
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.report import Report

FP32 = {"device": "cpu", "precision": "fp32"}


class Telling(Toy):
    """The toy network, which takes green for what gets through."""

    tells_haze = True

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        side = slice(self.halo, self.halo + self.patch)
        return torch.cat([super().decode(batch, scene, skips), batch.pixels[:, 1:2, side, side]], dim=1)


def dehazed(
    array: Pixels, options: EngineOptions, model: Toy | None = None, **of: object
) -> tuple[Pixels, Pixels, Report]:
    """The result [h, w, bands], the map [h, w], and the report."""
    reader = ArrayReader(array, **of)  # type: ignore[arg-type]
    box = options.window or Box(0, 0, reader.info.height, reader.info.width)
    info = replace(reader.info, height=box.height, width=box.width)
    writers: list[ArrayWriter] = []
    maps: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(info, "hwc"))
        return writers[-1]

    def make_map() -> ArrayWriter:
        maps.append(ArrayWriter(RasterInfo("map", "MEM", box.height, box.width, 1, "uint8"), "hw"))
        return maps[-1]

    report = run(reader, make_writer, model or Telling(), options, make_map=make_map)
    return writers[-1].array, maps[-1].array, report


def scene(height: int, width: int, dtype: str = "uint8", bands: int = 3) -> Pixels:
    array = np.random.default_rng(0).random((height, width, bands))
    return array.astype(dtype) if dtype == "float32" else (array * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("overlap", [0, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_map_is_what_the_network_tells_in_per_cent(dtype: str, overlap: int) -> None:
    array = scene(37, 50, dtype)
    options = EngineOptions(**FP32, overlap=overlap, band_ranges="dtype")
    _, found, report = dehazed(array, options)
    low, high = report.low, report.high
    expected = 100 * ((array[..., 1].astype(float) - low) / (high - low)).clip(0, 1)
    assert np.abs(found - expected).max() <= 0.51
    assert report.haze["transmission"] == pytest.approx(expected.mean() / 100, abs=0.002)


def test_the_result_is_the_same_with_the_map_and_without() -> None:
    array = scene(37, 50)
    with_map, *_ = dehazed(array, EngineOptions(**FP32))
    reader, writer = ArrayReader(array), ArrayWriter(ArrayReader(array).info, "hwc")
    report = run(reader, lambda: writer, Toy(), EngineOptions(**FP32))
    assert np.array_equal(with_map, writer.array)
    assert report.haze == {}  # of a network that tells none


def test_without_ground_nothing_is_told() -> None:
    array = scene(40, 50)
    array[:10] = array[:, 30:] = 0
    array[20, 20] = 0
    _, found, report = dehazed(array, EngineOptions(**FP32), nodata=0)
    ground = (array != 0).any(axis=2)
    assert np.array_equal(found == NO_GROUND, ~ground)
    assert report.haze["transmission"] == pytest.approx(found[ground].mean() / 100, abs=1e-4)
    _, found, report = dehazed(np.zeros_like(array), EngineOptions(**FP32), nodata=0)
    assert (found == NO_GROUND).all()
    assert report.haze == {}


def test_a_part_of_the_scene_has_its_part_of_the_map() -> None:
    array = scene(70, 60)
    _, whole, _ = dehazed(array, EngineOptions(**FP32))
    _, part, _ = dehazed(array, EngineOptions(**FP32, window=Box(13, 20, 40, 31)))
    assert np.array_equal(part, whole[13:53, 20:51])


def test_all_bands_are_told_of_by_the_colours() -> None:
    array = scene(37, 50, bands=5)
    _, found, _ = dehazed(array, EngineOptions(**FP32, all_bands=True))
    assert np.array_equal(found, dehazed(array[..., :3], EngineOptions(**FP32))[1])


def test_networks_and_modes_that_tell_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="haze map"):
        dehazed(scene(37, 50), EngineOptions(**FP32), Toy())


def test_shares_are_of_the_ground_and_add_up_to_all_of_it() -> None:
    counts = np.zeros(NO_GROUND, np.int64)
    counts[[0, 9, 10, 34, 35, 64, 65, 89, 90, 100]] = (1, 1, 2, 2, 3, 3, 4, 4, 15, 15)
    shares = shares_of_haze(counts)
    assert shares["transmission"] == pytest.approx(
        (9 + 20 + 68 + 105 + 192 + 260 + 356 + 1350 + 1500) / 5000, abs=1e-4
    )
    assert [shares[kind] for kind in KINDS] == [0.04, 0.08, 0.12, 0.16, 0.6]


def test_pixels_under_closed_cloud_become_nodata_where_that_is_wanted() -> None:
    array = scene(37, 50, bands=4)
    array[array == 7] = 8
    plain, found, _ = dehazed(array, EngineOptions(**FP32), nodata=7)
    marked, _, report = dehazed(array, EngineOptions(**FP32, unseen="nodata"), nodata=7)
    closed = found < KINDS["dense"]
    assert 0 < closed.mean() < 0.5
    assert (marked[closed] == 7).all()
    assert np.array_equal(marked[~closed], plain[~closed])
    assert report.haze["closed"] == pytest.approx(closed.mean(), abs=1e-4)


def test_what_is_unseen_cannot_be_marked_without_a_value_for_it_or_by_networks_that_tell_no_haze() -> None:
    reader = ArrayReader(scene(37, 50))
    with pytest.raises(UsageError, match="no nodata value"):
        run(
            reader, lambda: ArrayWriter(reader.info, "hwc"), Telling(), EngineOptions(**FP32, unseen="nodata")
        )
    with pytest.raises(UsageError, match="--unseen nodata is not possible"):
        run(
            ArrayReader(scene(37, 50), nodata=0),
            lambda: ArrayWriter(reader.info, "hwc"),
            Toy(),
            EngineOptions(**FP32, unseen="nodata"),
        )
    with pytest.raises(UsageError, match="--unseen hide"):
        EngineOptions(unseen="hide")  # type: ignore[arg-type]
