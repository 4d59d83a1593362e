"""Source numbers to the model's range and back, one range for a scene, and ground where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Identity
from numpy.typing import NDArray
from test_stream import FP32, streamed

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.device import choose_device, choose_precision
from dehazexl_cli.engine.nodata_filling import fill_nodata
from dehazexl_cli.engine.scaling import apply_change, normalize
from dehazexl_cli.engine.value_ranges import choose_range
from dehazexl_cli.errors import DeviceError, InputError, UsageError
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.base import RasterInfo, ValueRange, range_of
from dehazexl_cli.raster.memory import ArrayReader

CPU = torch.device("cpu")


def info(count: int, alpha: int | None = None) -> RasterInfo:
    return RasterInfo("x", "MEM", 9, 9, count, "uint8", alpha=alpha)


@pytest.mark.parametrize(
    ("count", "alpha", "wanted", "bands"),
    [
        (3, None, None, (1, 2, 3)),
        (1, None, None, (1,)),
        (2, 2, None, (1,)),
        (4, 4, None, (1, 2, 3)),
        (4, 1, None, (2, 3, 4)),
        (8, None, None, (1, 2, 3)),
        (8, None, (5, 3, 2), (5, 3, 2)),
        (8, None, (7,), (7,)),
    ],
)
def test_colours_are_the_first_three_bands_that_are_not_alpha(
    count: int, alpha: int | None, wanted: tuple[int, ...] | None, bands: tuple[int, ...]
) -> None:
    assert choose_bands(info(count, alpha), wanted).colours == bands


def test_an_image_of_alpha_alone_has_no_colours() -> None:
    with pytest.raises(InputError, match="no band but alpha"):
        choose_bands(info(1, 1), None)


def test_the_dark_end_is_not_stretched_away() -> None:
    haze_over_ground = np.random.default_rng(0).integers(900, 3000, (3, 100, 100))
    assert range_of(haze_over_ground).low == 0
    assert range_of(haze_over_ground).high == pytest.approx(3000, rel=0.01)


def test_data_below_zero_begin_at_a_low_percentile() -> None:
    values = np.linspace(-10, 30, 10_001)
    assert range_of(values).low == pytest.approx(-10, abs=0.1)


@pytest.mark.parametrize("values", [np.zeros(9), np.full(9, 7.0), np.array([np.nan]), np.array([])])
def test_even_and_empty_scenes_have_a_range_too(values: np.ndarray) -> None:  # type: ignore[type-arg]
    assert range_of(values).scale > 0


def test_ranges_are_given_or_of_the_type_or_of_the_scene() -> None:
    bytes_, words = (ArrayReader(np.full((9, 9, 3), 90, dtype)) for dtype in ("uint8", "uint16"))
    assert choose_range(bytes_, (1, 2, 3), None) == ValueRange(0, 255, "dtype")
    assert choose_range(words, (1, 2, 3), None).source == "percentiles"
    assert choose_range(words, (1, 2, 3), (5, 4095)) == ValueRange(5, 4095, "given")
    with pytest.raises(UsageError, match="empty"):
        choose_range(words, (1, 2, 3), (5, 5))


@pytest.mark.parametrize(
    ("dtype", "given", "fine"),
    [
        ("uint8", (0, 255), True),
        ("uint8", (0, 256), False),
        ("uint8", (0, 4095), False),
        ("uint16", (0, 65535), True),
        ("uint16", (-1, 4095), False),
        ("uint16", (0, 1e6), False),
        ("int16", (-32768, 32767), True),
        ("float32", (-1e6, 1e6), True),
    ],
)
def test_a_range_beyond_the_type_cannot_be(dtype: str, given: tuple[float, float], fine: bool) -> None:
    reader = ArrayReader(np.full((9, 9, 3), 90, dtype))
    if fine:
        assert choose_range(reader, (1, 2, 3), given) == ValueRange(*given, "given")
    else:
        with pytest.raises(UsageError, match=f"beyond pixels of {dtype}"):
            choose_range(reader, (1, 2, 3), given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, 4000), None),
        ((0, 12_000), None),
        ((0, 65_535), "band 1: its numbers end at 39"),
        ((0, 900), "band 1: 7"),
        ((5000, 9000), "band 1: its numbers end at 39"),
    ],
)
def test_a_range_that_does_not_fit_the_numbers_is_doubted(
    given: tuple[float, float], said: str | None
) -> None:
    array = np.random.default_rng(0).integers(0, 4000, (60, 70, 3)).astype(np.uint16)
    _, report = streamed(array, Identity(), EngineOptions(**FP32, input_range=given))  # type: ignore[arg-type]
    assert len(report.warnings) == (0 if said is None else 3)
    assert said is None or said in report.warnings[0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.uint32, torch.float64])
def test_no_change_gives_back_every_bit_and_a_change_its_amount(dtype: torch.dtype) -> None:
    numbers = torch.tensor([0, 3, 77, 200], dtype=dtype)
    radiometry = ValueRange(0.0, 100.0, "given")
    assert normalize(numbers, radiometry).tolist() == pytest.approx([0, 0.03, 0.77, 1])
    assert torch.equal(apply_change(numbers, torch.zeros(4), radiometry), numbers)
    changed = apply_change(numbers, torch.tensor([0.5, 0, -0.07, -0.25]), radiometry)
    assert changed.dtype == dtype
    assert changed.tolist() == pytest.approx([50, 3, 70, 175])


def test_results_are_held_within_their_type() -> None:
    numbers = torch.tensor([5, 250], dtype=torch.uint8)
    assert apply_change(numbers, torch.tensor([-1.0, 1.0]), ValueRange(0, 255, "dtype")).tolist() == [0, 255]


def nothing() -> NDArray[np.float64]:
    raise AssertionError("there is ground to fill from")


def test_gaps_take_the_values_around_them() -> None:
    pixels = np.zeros((3, 32, 48), np.float32)
    pixels[:, :, :24], pixels[:, :, 24:] = 10, 20
    valid = np.ones((32, 48), bool)
    valid[5:20, 3:15] = valid[5:20, 30:45] = False
    hidden = np.where(valid, pixels, -999)
    filled = fill_nodata(hidden, valid, nothing)
    assert np.array_equal(filled[:, valid], pixels[:, valid])
    assert abs(filled[:, 5:20, 3:12] - 10).max() < 1
    assert abs(filled[:, 5:20, 33:45] - 20).max() < 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 9)])
def test_where_nothing_is_valid_the_default_is_taken(shape: tuple[int, int]) -> None:
    pixels, valid = np.full((3, *shape), np.nan, np.float32), np.zeros(shape, bool)
    filled = fill_nodata(pixels, valid, lambda: np.array([7.0, 8.0, 9.0]))
    assert (filled == np.array([7, 8, 9])[:, None, None]).all()


def test_a_single_valid_pixel_fills_the_scene() -> None:
    valid = np.zeros((9, 14), bool)
    valid[4, 11] = True
    filled = fill_nodata(np.where(valid, 5, np.nan)[None].astype(np.float32), valid, nothing)
    assert np.allclose(filled, 5)


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(UsageError):
        choose_device("gpu")
    with pytest.raises((DeviceError, UsageError)):
        choose_device("cuda:99")


def test_precision_follows_the_device() -> None:
    assert choose_precision("auto", torch.device("cuda")) == torch.float16
    assert choose_precision("auto", CPU) in (torch.bfloat16, torch.float32)
    assert choose_precision("fp32", CPU) == torch.float32
    with pytest.raises(UsageError):
        choose_precision("int4", CPU)
