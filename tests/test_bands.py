"""Which bands are dehazed, how their numbers become the model's, and colour tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import Identity, Result, Toy, dehaze_file
from rasterio.enums import ColorInterp
from test_stream import FP32, streamed

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.value_ranges import choose_groups
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.models.checkpoint import Loaded
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.memory import ArrayReader

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CPU = EngineOptions(**FP32)  # type: ignore[arg-type]


def noise(*shape: int, dtype: str = "uint16", top: int = 4096, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(1, top, shape).astype(dtype)


def make(path: Path, values: np.ndarray[Any, Any], **profile: Any) -> Path:
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype.name}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **profile}) as file:
        file.write(values)
    return path


def loaded(model: Any) -> Loaded:
    return Loaded(model, "a double", "0" * 64, {})


def read(path: Path) -> np.ndarray[Any, Any]:
    with rasterio.open(path) as file:
        values: np.ndarray[Any, Any] = file.read()
    return values


@pytest.mark.parametrize(
    ("count", "alpha", "wanted", "groups"),
    [
        (3, None, None, [(1, 2, 3)]),
        (4, 4, None, [(1, 2, 3)]),
        (4, None, None, [(1, 2, 3), (4,)]),
        (5, None, (4, 3, 2), [(4, 3, 2), (1,), (5,)]),
        (8, None, (5, 3, 2), [(5, 3, 2), (1, 4, 6), (7,), (8,)]),
        (12, None, (4, 3, 2), [(4, 3, 2), (1, 5, 6), (7, 8, 9), (10, 11, 12)]),
        (2, None, None, [(1,), (2,)]),
    ],
)
def test_all_bands_go_by_threes_after_the_colours(
    count: int, alpha: int | None, wanted: tuple[int, ...] | None, groups: list[tuple[int, ...]]
) -> None:
    reader = ArrayReader(noise(9, 9, count), alpha=alpha)
    assert list(choose_bands(reader.info, wanted, all_bands=True).groups) == groups
    assert list(choose_bands(reader.info, wanted).groups) == groups[:1]


def test_each_group_is_dehazed_as_if_it_were_alone() -> None:
    array = noise(50, 70, 7)
    output, report = streamed(array, Toy(), EngineOptions(**FP32, bands=(3, 2, 1), all_bands=True))
    for bands in ([2, 1, 0], [3, 4, 5], [6]):
        alone, _ = streamed(np.ascontiguousarray(array[:, :, bands]), Toy(), CPU)
        assert np.array_equal(output[:, :, bands], alone)
    assert [group["bands"] for group in report.groups] == [(3, 2, 1), (4, 5, 6), (7,)]


def test_bands_that_do_not_run_on_keep_their_order() -> None:
    from dehazexl_cli.engine.patches import span

    assert span([2, 3, 4]) == slice(2, 5)
    assert span([0, 2, 1, 3]) == [0, 2, 1, 3]  # as far from end to end as if they ran on
    assert span([2, 1, 0]) == [2, 1, 0]


def test_alpha_is_never_touched() -> None:
    array = noise(40, 50, 5, dtype="uint8", top=256)
    output, _ = streamed(array, Toy(), EngineOptions(**FP32, all_bands=True), alpha=4)
    assert np.array_equal(output[:, :, 3], array[:, :, 3])
    assert not np.array_equal(output[:, :, 4], array[:, :, 4])


def test_bands_may_have_ranges_of_their_own() -> None:
    array = noise(40, 50, 3)
    scaled = array * np.array([1, 2, 4], np.uint16)
    ranges = (0.0, 5000.0, 0.0, 10_000.0, 0.0, 20_000.0)
    even, _ = streamed(array, Toy(), EngineOptions(**FP32, input_range=(0, 5000)))
    each, report = streamed(scaled, Toy(), EngineOptions(**FP32, band_ranges=ranges))
    expected = even.astype(int) * [1, 2, 4]
    assert (abs(each.astype(int) - expected) <= [1, 2, 4]).all()
    assert report.groups[0]["ranges"] == [(0, 5000), (0, 10_000), (0, 20_000)]


def test_ranges_must_be_one_or_one_for_each_band() -> None:
    with pytest.raises(UsageError, match="4 numbers for 3 bands"):
        streamed(noise(9, 9, 3), Identity(), EngineOptions(band_ranges=(0, 1, 0, 1)))


def test_scale_and_offset_say_where_zero_is(tmp_path: Path) -> None:
    values = noise(3, 60, 80, top=9000) + np.uint16(1000)
    plain = make(tmp_path / "plain.tif", values)
    shifted = make(tmp_path / "shifted.tif", values)
    with rasterio.open(shifted, "r+") as file:
        file.scales, file.offsets = (1e-4, 1e-4, 2e-4), (-0.1, -0.1, -0.2)
    for path, zero in ((plain, 0), (shifted, 1000)):
        reader = open_reader(path)
        (group,) = choose_groups(reader, choose_bands(reader.info), None)
        assert [range.low for range in group.ranges] == pytest.approx([zero] * 3)
    high = [range.high for range in group.ranges]
    assert high[0] == pytest.approx(2 * high[2] - 1000)
    dehaze_file(shifted, tmp_path / "out.tif", model=loaded(Identity()), options=CPU)
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.scales == (1e-4, 1e-4, 2e-4)
        assert np.array_equal(out.read(), values)


class Brighter(Identity):
    """Adds half of the range."""

    def decode(self, batch: Any, scene: Any, skips: Any) -> Any:
        return super().decode(batch, scene, skips) + 0.5


def test_twelve_bits_stay_twelve_where_the_file_says_so(tmp_path: Path) -> None:
    values = noise(3, 40, 300)
    source = make(tmp_path / "in.tif", values, nbits=12)
    assert open_reader(source).info.bits == 12
    options = EngineOptions(**FP32, input_range=(0, 65535))  # type: ignore[arg-type]
    dehaze_file(source, tmp_path / "out.tif", model=loaded(Brighter()), options=options)
    assert read(tmp_path / "out.tif").max() == 4095
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "12"
    dehaze_file(source, tmp_path / "same.tif", model=loaded(Identity()), options=CPU)
    assert np.array_equal(read(tmp_path / "same.tif"), values)


def test_twelve_bits_stay_twelve_where_the_range_says_so() -> None:
    array = noise(40, 50, 3)
    output, report = streamed(array, Brighter(), EngineOptions(**FP32, input_range=(0, 4095)))
    assert output.max() <= 4095
    assert report.clipped_values == (array > 4095 / 2).sum()


def test_clipping_and_values_outside_the_range_are_counted() -> None:
    array = np.full((20, 20, 3), 100, np.uint16)
    array[:5], array[5:7], array[10:] = 0, 900, 7  # the last is nodata
    output, report = streamed(array, Brighter(), EngineOptions(**FP32, input_range=(50, 150)), nodata=7)
    assert report.outside_range == 7 * 20 * 3
    assert report.clipped_values == 2 * 20 * 3  # 900 is shown as 1, and would be 1.5; 100 becomes 1
    assert (output[5:7] == 900).all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "float32", "float64"])
def test_a_ramp_of_sixteen_bits_keeps_its_levels(tmp_path: Path, dtype: str) -> None:
    ramp = (np.arange(65536).reshape(1, 256, 256) - (32768 if dtype == "int16" else 0)).astype(dtype)
    source = make(tmp_path / "in.tif", np.repeat(ramp, 3, 0))
    dehaze_file(source, tmp_path / "out.tif", model=loaded(Identity(64)), options=CPU)
    assert len(np.unique(read(tmp_path / "out.tif")[0])) >= 60_000


TABLE = {0: (10, 20, 30, 255), 1: (200, 100, 50, 255), 2: (0, 255, 0, 255), 9: (255, 255, 255, 255)}


def paletted(path: Path, numbers: np.ndarray[Any, Any], **profile: Any) -> Path:
    make(path, numbers, photometric="palette", **profile)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, TABLE)
    return path


def test_a_palette_is_expanded_and_that_is_said(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    numbers = np.random.default_rng(0).choice([0, 1, 2, 9], (1, 50, 60)).astype(np.uint8)
    source = paletted(tmp_path / "in.tif", numbers, crs="EPSG:32633")
    run = ("run", source, tmp_path / "out.tif", "--weights", tiny_weights, "--strength", "0", "--json")
    result = dehazexl(*run)
    assert "colour table were expanded to red, green and blue" in result.err
    expanded, doubted = json.loads(result.out)["warnings"]
    assert "colour table" in expanded and "4 different numbers" in doubted
    expected = np.array([TABLE[n][:3] for n in numbers.ravel()]).reshape(50, 60, 3)
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert out.crs.to_epsg() == 32633
        assert np.array_equal(out.read(), expected.transpose(2, 0, 1))


def test_nodata_of_a_palette_becomes_alpha(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).choice([0, 1, 2, 9], (1, 50, 60)).astype(np.uint8)
    source = paletted(tmp_path / "in.tif", numbers, nodata=9)
    report = dehaze_file(source, tmp_path / "out.tif", model=loaded(Toy()), options=CPU)
    assert report.invalid_pixels == (numbers == 9).sum()
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.colorinterp[3] == ColorInterp.alpha
        assert out.nodata is None
        assert np.array_equal(out.read(4) == 0, numbers[0] == 9)
        assert (out.read()[:3, numbers[0] == 9] == 255).all()


@pytest.mark.parametrize("bits", [1, 8])
def test_a_tiff_in_which_0_is_white_is_read_as_grey(tmp_path: Path, bits: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**bits, (40, 48)).astype(np.uint8)
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, numbers.astype(bool) if bits == 1 else numbers, photometric="miniswhite")
    reader = open_reader(path)
    seen = reader.read(Box(0, 0, 40, 48), range(1, reader.info.count + 1))
    assert np.array_equal(seen[0], (2**bits - 1 - numbers) * (255 if bits == 1 else 1))
    dehaze_file(path, tmp_path / "out.tif", model=loaded(Identity()), options=CPU)
    assert np.array_equal(read(tmp_path / "out.tif")[0], seen[0])


SCENES = ["naip_wetland_4band", "mosaic_uint16_3band"]


@pytest.mark.parametrize("name", SCENES)
def test_a_real_scene_differs_from_its_result_in_the_colours_only(
    dehazexl: Command, shared: Path, tmp_path: Path, tiny_weights: Path, name: str
) -> None:
    """What gdalinfo prints of both, field by field."""
    source, target = shared / "data" / "try" / f"{name}.tif", tmp_path / "out.tif"
    bands = ("--bands", "1,2,3")  # without, a warning says that the file does not tell which they are
    result = dehazexl("run", source, target, "--weights", tiny_weights, "--no-provenance", "--json", *bands)
    assert result.code == 0, result.err
    assert json.loads(result.out)["warnings"] == []
    with rasterio.open(source) as before, rasterio.open(target) as after:
        fields = (
            "driver", "shape", "count", "dtypes", "crs", "transform", "bounds", "gcps", "rpcs", "nodatavals",
            "colorinterp", "descriptions", "scales", "offsets", "units", "mask_flag_enums",
        )  # fmt: skip
        for field in fields:
            assert getattr(after, field) == getattr(before, field), field
        # How overviews were made is nothing to say of a file without any.
        assert after.tags() == {k: v for k, v in before.tags().items() if k != "OVR_RESAMPLING_ALG"}
        assert after.tag_namespaces() == before.tag_namespaces()
        for band in before.indexes:
            stale = ("OVR_RESAMPLING_ALG", "STATISTICS_")
            kept = {k: v for k, v in before.tags(band).items() if not k.startswith(stale)}
            assert after.tags(band) == kept
        assert np.array_equal(after.dataset_mask(), before.dataset_mask())
        old, new, ground = before.read(), after.read(), before.dataset_mask() != 0
    assert np.array_equal(old[:, ~ground], new[:, ~ground])
    assert np.array_equal(old[3:], new[3:])
    assert not np.array_equal(old[:3], new[:3])


def test_the_plan_names_every_group_and_its_ranges(dehazexl: Command, tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", noise(4, 40, 50))
    out = dehazexl("plan", source, "--all-bands", "--input-range", "0,9,0,9,0,8,0,7").out
    assert "1,2,3; 0 to 9, 0 to 9, 0 to 8 shown" in out
    assert "bands      4; 0 to 7 shown" in out
