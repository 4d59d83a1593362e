"""Arrays as scenes, in every layout, and back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import RasterInfo
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.raster.pixels import PIXEL_TYPES

PIXELS = np.random.default_rng(0).integers(0, 255, (3, 31, 47)).astype(np.uint8)  # [c, h, w]
SCENE = Box(0, 0, 31, 47)


def copy(reader: ArrayReader, seed: int = 0) -> np.ndarray:
    random, top, info = np.random.default_rng(seed), 0, reader.info
    with ArrayWriter(info, reader.layout) as writer:
        while top < info.height:
            height = min(int(random.integers(1, 12)), info.height - top)
            writer.write(reader.read(Box(top, 0, height, info.width), range(1, info.count + 1)))
            top += height
        writer.commit()
    return writer.array


@pytest.mark.parametrize("dtype", PIXEL_TYPES)
@pytest.mark.parametrize("layout", ["hw", "hwc", "chw"])
def test_an_array_comes_back_identical_in_its_own_layout(layout: str, dtype: str) -> None:
    array = {"hw": PIXELS[0], "hwc": np.moveaxis(PIXELS, 0, 2), "chw": PIXELS}[layout].astype(dtype)
    reader = ArrayReader(array, channels_first=layout == "chw")
    found = copy(reader)
    assert reader.layout == layout and reader.info.dtype == dtype
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_the_last_axis_is_bands_unless_said_otherwise() -> None:
    info = ArrayReader(PIXELS).info
    assert (info.height, info.width, info.count) == (3, 31, 47)
    info = ArrayReader(PIXELS, channels_first=True).info
    assert (info.height, info.width, info.count, info.driver) == (31, 47, 3, "MEM")


def test_a_box_of_some_bands_is_a_copy() -> None:
    array = PIXELS.copy()
    box = ArrayReader(array, channels_first=True).read(Box(2, 3, 4, 5), [3, 1])
    array[:] = 0
    assert np.array_equal(box, PIXELS[[2, 0], 2:6, 3:8])


def test_a_box_outside_the_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside"):
        ArrayReader(PIXELS, channels_first=True).read(Box(0, 40, 5, 8), [1])


def test_foreign_byte_order_is_read_as_ones_own() -> None:
    reader = ArrayReader(PIXELS[0].astype(">u2"))
    found = reader.read(SCENE, [1])
    assert reader.info.dtype == "uint16" and found.dtype.isnative
    assert np.array_equal(found[0], PIXELS[0])


def test_integers_without_nodata_and_alpha_are_all_ground() -> None:
    reader = ArrayReader(PIXELS, channels_first=True)
    assert reader.valid(SCENE, [1, 2]) is None
    assert reader.sample([1, 2], 10).shape == (2, 100)


def test_nodata_in_every_band_is_no_ground() -> None:
    array = np.ones((4, 5, 3), np.int16)
    array[1, 2], array[3, 3, 0] = -1, -1
    reader = ArrayReader(array, nodata=-1)
    ground = reader.valid(Box(0, 0, 4, 5), [1, 2, 3])
    assert ground is not None and np.argwhere(~ground).tolist() == [[1, 2]]
    assert reader.valid(Box(2, 0, 2, 5), [1, 2, 3]) is None
    assert reader.sample([1, 2], 9).shape == (2, 19)
    assert reader.sample([1], 9).shape == (1, 18)  # by that band alone


def test_nan_in_any_band_and_alpha_0_are_no_ground() -> None:
    array = np.ones((4, 5, 4), np.float32)
    array[0, 0, 2], array[1, 1, 3] = np.nan, 0
    ground = ArrayReader(array, alpha=4, nodata=float("nan")).valid(Box(0, 0, 4, 5), [1, 2, 3])
    assert ground is not None and np.argwhere(~ground).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros(5, np.uint8), "1 axes"),
        (np.zeros((1, 2, 3, 4), np.uint8), "4 axes"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.zeros((5, 5), bool), "bool"),
        (np.zeros((5, 5), np.float16), "float16"),
        (np.zeros((5, 5), np.complex64), "complex"),
        (np.ma.masked_equal(PIXELS, 0), "mask"),
    ],
)
def test_an_array_that_is_no_scene_says_what_to_do(array: np.ndarray, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        ArrayReader(array)
    assert caught.value.hint


def test_an_alpha_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no band 4"):
        ArrayReader(PIXELS, channels_first=True, alpha=4)


def test_there_is_no_array_before_all_rows_are_committed() -> None:
    info = ArrayReader(PIXELS, channels_first=True).info
    with ArrayWriter(info, "chw") as writer:
        writer.write(PIXELS[:, :30])
        with pytest.raises(ValueError, match="only 30 of 31"):
            writer.commit()
        with pytest.raises(ValueError, match="before commit"):
            _ = writer.array
    with pytest.raises(ValueError, match="before commit"):
        _ = writer.array


def test_rows_that_do_not_fit_are_refused() -> None:
    writer = ArrayWriter(RasterInfo("out", "MEM", 31, 47, 3, "uint8"))
    for wrong in [PIXELS[:2], PIXELS[:, :, :9], PIXELS.astype(np.int16), np.concatenate([PIXELS, PIXELS], 1)]:
        with pytest.raises(ValueError, match="rows"):
            writer.write(wrong)


def test_several_bands_do_not_fit_two_axes() -> None:
    with pytest.raises(ValueError, match="hw"):
        ArrayWriter(RasterInfo("out", "MEM", 31, 47, 3, "uint8"), "hw")


def test_arrays_and_the_interface_do_not_load_gdal() -> None:
    code = "import sys, dehazexl_cli.raster.memory; sys.exit('rasterio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
