"""A result is the kind of object that was handed over, and what is on disk is read by windows."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import PIL.Image
import pytest
import rasterio
import rioxarray
import torch
import xarray

import dehazexl_cli
from dehazexl_cli import Options
from dehazexl_cli.errors import UsageError

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 70, 90


@pytest.fixture(scope="module")
def dehaze(tiny_weights: Path) -> Callable[..., Any]:
    usual: dict[str, Any] = {
        "model": dehazexl_cli.load_model(weights=tiny_weights),
        "device": "cpu",
        "precision": "fp32",
    }
    return lambda image, **more: dehazexl_cli.dehaze(image, **usual | more)


@pytest.fixture(scope="module")
def picture() -> Array:
    """A hazy ground [3, 70, 90] of bytes."""
    return np.random.default_rng(1).integers(120, 240, (3, HEIGHT, WIDTH), np.uint8)


@pytest.fixture(scope="module")
def expected(picture: Array, dehaze: Callable[..., Any]) -> Array:
    result: Array = dehaze(picture)
    assert (result != picture).mean() > 0.5
    return result


@pytest.fixture(scope="module")
def path(picture: Array, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file, with a place, and its right third nodata."""
    found = tmp_path_factory.mktemp("kinds") / "hazy.tif"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    size = {"width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8"}
    with rasterio.open(found, "w", **size, **place, nodata=0) as file:
        held = picture.copy()
        held[:, :, 60:] = 0
        file.write(held)
    return found


def test_an_array_comes_back_as_one_whatever_its_strides(
    picture: Array, expected: Array, dehaze: Callable[..., Any]
) -> None:
    result = dehaze(picture[:, ::-1][:, ::-1])
    assert type(result) is np.ndarray and np.array_equal(result, expected)


def test_settings_are_options(picture: Array, dehaze: Callable[..., Any], path: Path, tmp_path: Path) -> None:
    options = Options(strength=0.5, bands=(3, 2, 1), mode="tile", tile=64, device="cpu", precision="fp32")
    loaded = dehazexl_cli.load_model("mgbl-s")
    assert np.array_equal(
        dehaze(picture, model=loaded, strength=0.5, bands=(3, 2, 1), mode="tile", tile=64),
        dehazexl_cli.dehaze(picture, model=loaded, options=options),
    )
    same: dict[str, Any] = {"strength": 0.5, "provenance": False}  # which has the time
    dehazexl_cli.dehaze_file(path, tmp_path / "a.tif", model=loaded, options=Options(**same))
    dehazexl_cli.dehaze_file(path, tmp_path / "b.tif", model=loaded, **same)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_masked_array_comes_back_masked(picture: Array, dehaze: Callable[..., Any]) -> None:
    hidden = np.zeros(picture.shape, bool)
    hidden[:, :, 60:] = True
    hidden[0, 0, 0] = True  # one band of three: the pixel is ground
    result = dehaze(np.ma.MaskedArray(picture, hidden))
    assert isinstance(result, np.ma.MaskedArray) and np.array_equal(result.mask, hidden)
    assert np.array_equal(result.data[:, :, 60:], picture[:, :, 60:])
    assert np.array_equal(result.data[:, :, :60], dehaze(picture[:, :, :60].copy()))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, xarray.DataArray])
def test_a_mask_is_true_on_ground(
    kind: Callable[[Array], Any], picture: Array, dehaze: Callable[..., Any]
) -> None:
    ground = np.ones((HEIGHT, WIDTH), bool)
    ground[:, 60:] = False
    hidden = np.ma.MaskedArray(picture, np.broadcast_to(~ground, picture.shape))
    result = dehaze(picture, mask=kind(ground))
    assert np.array_equal(result, dehaze(hidden).data)
    assert np.array_equal(dehaze(hidden, mask=kind(~ground)).data, picture)  # no ground is left


def test_a_mask_is_that_of_files(
    picture: Array, dehaze: Callable[..., Any], path: Path, tmp_path: Path
) -> None:
    ground = np.zeros((HEIGHT, WIDTH), np.uint8)
    ground[10:, :50] = 255
    with rasterio.open(tmp_path / "m.tif", "w", width=WIDTH, height=HEIGHT, count=1, dtype="uint8") as file:
        file.write(ground, 1)
    from_file = dehaze(path, mask=tmp_path / "m.tif")
    with rasterio.open(path) as file:
        assert np.array_equal(dehaze(file.read(), nodata=0, mask=ground), np.moveaxis(from_file, 2, 0))
    with pytest.raises(UsageError, match="a ndarray is no path"):
        dehaze(path, mask=ground)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.bfloat16])
def test_a_tensor_comes_back_as_a_tensor(
    dtype: torch.dtype, picture: Array, expected: Array, dehaze: Callable[..., Any]
) -> None:
    result = dehaze(torch.from_numpy(picture).to(dtype), input_range=(0, 255))
    assert isinstance(result, torch.Tensor)
    assert (result.dtype, result.shape, result.device.type) == (dtype, picture.shape, "cpu")
    assert (result.float() - torch.from_numpy(expected).float()).abs().max() <= 1


PILLOWS: dict[str, tuple[int, Any]] = {
    "RGB": (3, np.uint8),
    "RGBX": (4, np.uint8),
    "RGBA": (4, np.uint8),
    "L": (1, np.uint8),
    "LA": (2, np.uint8),
    "F": (1, np.float32),
    "I;16": (1, np.dtype("<u2")),
    "I;16B": (1, np.dtype(">u2")),
}


@pytest.mark.parametrize("mode", PILLOWS)
def test_a_pillow_image_comes_back_as_one(mode: str, dehaze: Callable[..., Any]) -> None:
    count, dtype = PILLOWS[mode]
    numbers = np.random.default_rng(0).integers(120, 240, (16, 14, count)).astype(dtype)
    if mode.endswith("A"):
        numbers[:8, :, -1] = 0
    image = PIL.Image.frombytes(mode, (14, 16), numbers.tobytes())
    image.info["icc_profile"] = b"sRGB"
    result = dehaze(image, input_range=(0, 255))
    assert (type(result), result.mode, result.size, result.info) == (
        PIL.Image.Image,
        mode,
        (14, 16),
        image.info,
    )
    before, after = (np.asarray(each).reshape(numbers.shape) for each in (image, result))
    assert np.array_equal(before, numbers)
    colours = count - (count in (2, 4))
    assert np.array_equal(after[..., colours:], before[..., colours:])
    if mode.endswith("A"):  # what is transparent is no ground
        assert np.array_equal(after[:8], before[:8])
    assert (after[8:, :, :colours] != before[8:, :, :colours]).mean() > 0.5


OPENED: dict[str, dict[str, Any]] = {
    "file": {},
    "dask": {"chunks": {"x": 32, "y": 16}},
    "floats": {"masked": True},
    "loaded": {"cache": True},
}


@pytest.mark.parametrize("how", OPENED)
def test_a_dataarray_comes_back_with_its_place(how: str, path: Path, dehaze: Callable[..., Any]) -> None:
    given: Any = rioxarray.open_rasterio(path, **OPENED[how])
    if how == "loaded":
        given.load()
    result = dehaze(given, input_range=(0, 255))
    assert isinstance(result, xarray.DataArray)
    assert result.drop_attrs().equals(given.drop_attrs().copy(data=result.values))  # dims and coordinates
    assert (result.attrs, result.name, result.dtype) == (given.attrs, given.name, given.dtype)
    assert result.rio.crs == "EPSG:32632" and result.rio.transform() == given.rio.transform()
    known = np.moveaxis(dehaze(path, input_range=(0, 255)), 2, 0)
    known = np.where(known == 0, np.nan, known) if how == "floats" else known
    assert np.nanmax(abs(result.values - known.astype(np.float32))) <= 0.51
    assert np.array_equal(np.isnan(result.values), np.isnan(known))


@pytest.mark.parametrize("dims", list(itertools.permutations(("band", "y", "x"))))
def test_dimensions_of_a_dataarray_may_be_in_any_order(
    dims: tuple[str, ...], picture: Array, expected: Array, dehaze: Callable[..., Any]
) -> None:
    given = xarray.DataArray(picture, dims=("band", "y", "x")).transpose(*dims)
    result = dehaze(given)
    assert result.dims == dims
    assert np.array_equal(result.transpose("band", "y", "x").values, expected)


def test_other_dimensions_are_told_apart_as_those_of_arrays(
    picture: Array, expected: Array, dehaze: Callable[..., Any]
) -> None:
    result = dehaze(xarray.DataArray(np.moveaxis(picture, 0, 2), dims=("row", "column", "colour")))
    assert np.array_equal(result.values, np.moveaxis(expected, 0, 2))
    grey = dehaze(xarray.DataArray(picture[0], dims=("row", "column"), name="grey"))
    assert np.array_equal(grey.values, dehaze(picture[0])) and grey.name == "grey"


def test_bands_of_a_dataarray_go_by_their_names(picture: Array, dehaze: Callable[..., Any]) -> None:
    given = xarray.DataArray(picture, dims=("band", "y", "x"), coords={"band": ["blue", "green", "red"]})
    swapped = dehaze(picture, bands=(3, 2, 1))
    assert np.array_equal(dehaze(given).values, swapped)
    named = xarray.DataArray(picture, dims=("band", "y", "x"), attrs={"long_name": ("blue", "green", "red")})
    assert np.array_equal(dehaze(named).values, swapped)


def test_nodata_of_a_dataarray_is_heeded_without_rioxarray_too(
    picture: Array, dehaze: Callable[..., Any]
) -> None:
    held = picture.copy()
    held[:, :, 60:] = 7
    given = xarray.DataArray(held, dims=("band", "y", "x"), attrs={"_FillValue": 7})
    assert np.array_equal(dehaze(given).values, dehaze(held, nodata=7))


def test_a_dataarray_in_chunks_is_never_there_as_a_whole(dehaze: Callable[..., Any]) -> None:
    sizes: list[int] = []

    def made(block: Array) -> Array:
        sizes.append(block.size)
        return block

    side, chunk = 1024, 128
    ground = dask.array.random.randint(120, 240, (3, side, side), chunks=(3, chunk, chunk)).astype("uint8")
    given = xarray.DataArray(
        ground.map_blocks(made, dtype="uint8"), dims=("band", "y", "x"), attrs={"_FillValue": 7}
    )
    held: list[int] = []
    take: Any = xarray.DataArray.values

    def values(array: Any) -> Any:
        held.append(array.size)
        return take.fget(array)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(xarray.DataArray, "values", property(values))
        result = dehaze(given, model=dehazexl_cli.load_model("mgbl-s"), mode="tile", tile=128)
    assert result.shape == given.shape and isinstance(result.data, np.ndarray)
    assert given.chunks is not None
    assert max(held) <= 3 * 2 * chunk * side < given.size  # a row of tiles with what they share
    assert max(sizes) == 3 * chunk * chunk


@pytest.mark.parametrize("settings", [{}, {"mode": "tile", "tile": 32}], ids=["global", "tile"])
def test_progress_is_a_fraction_that_ends_at_1(
    settings: dict[str, Any], picture: Array, path: Path, tmp_path: Path
) -> None:
    told: list[float] = []
    options = {"model": "mgbl-s", "device": "cpu", **settings}
    dehazexl_cli.dehaze(picture, progress=told.append, **options)
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told) and len(set(told)) > 2
    told.clear()
    dehazexl_cli.dehaze_file(path, tmp_path / "out.tif", progress=told.append, **options)
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told)


def test_progress_ends_at_1_where_a_file_is_copied(tmp_path: Path) -> None:
    told: list[float] = []
    with dehazexl_cli.api.told(told.append) as watch:
        assert watch is not None
    assert told == [1]


def test_who_is_told_of_progress_may_end_the_run(picture: Array, path: Path, tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        if fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dehazexl_cli.dehaze_file(path, tmp_path / "out.tif", model="mgbl-s", progress=stop)
    assert not list(tmp_path.iterdir())


def test_progress_true_is_a_bar_on_stderr(picture: Array, capfd: pytest.CaptureFixture[str]) -> None:
    dehazexl_cli.dehaze(picture, model="mgbl-s", progress=True)
    shown = capfd.readouterr()
    assert "Dehazing" in shown.err and "100%" in shown.err and not shown.out


def test_no_library_is_loaded_that_was_not_there() -> None:
    script = (
        "import sys, numpy, dehazexl_cli\n"
        "dehazexl_cli.dehaze(numpy.full((32, 32, 3), 90, 'uint8'), model='mgbl-s')\n"
        "print({'PIL', 'xarray', 'rioxarray', 'rich', 'dask'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
