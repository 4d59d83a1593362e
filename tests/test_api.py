"""The Python interface, as somebody tries it who has an array, a tensor or a picture at hand."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rasterio
import torch
import typer
import xarray
from conftest import Result

import dehazexl_cli
from dehazexl_cli import DehazeError, Options, dehaze, processors
from dehazexl_cli.cli import app
from dehazexl_cli.engine.value_ranges import choose_groups
from dehazexl_cli.errors import InputError, UsageError, WeightsError
from dehazexl_cli.models.checkpoint import Loaded
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.memory import ArrayReader

Command = Callable[..., Result]
CPU = Options(device="cpu", precision="fp32")
# Options of `run` that say how it talks, which model it takes, and how one process does it.
OF_THE_COMMAND = {
    "haze_map",
    "stac",
    "as_json",
    "print_paths",
    "progress",
    "quiet",
    "verbose",
    "report_file",
    "dry_run",
    "dask",
}
ARGUMENTS = {
    "haze_map",
    "sources",
    "target",
    "model",
    "weights",
    "multiple",
    "overwrite",
    "resume",
    "in_place",
}


@pytest.fixture(scope="module")
def loaded(tiny_weights: Path) -> Loaded:
    return dehazexl_cli.load_model(weights=tiny_weights)


@pytest.fixture(scope="module")
def picture() -> np.ndarray[Any, Any]:
    """A hazy ground [40, 50, 3] of bytes."""
    return np.random.default_rng(1).integers(120, 240, (40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(picture: np.ndarray[Any, Any], loaded: Loaded) -> np.ndarray[Any, Any]:
    return dehaze(picture, model=loaded, options=CPU)


def test_bands_first_are_dehazed_as_bands_last(
    picture: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], loaded: Loaded
) -> None:
    first = dehaze(np.moveaxis(picture, 2, 0), model=loaded, options=CPU)
    assert first.shape == (3, 40, 50)
    assert np.array_equal(np.moveaxis(first, 0, 2), expected)
    assert (expected != picture).mean() > 0.5


def test_what_rasterio_read_is_understood(
    tmp_path: Path, picture: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], loaded: Loaded
) -> None:
    with rasterio.open(tmp_path / "a.tif", "w", width=50, height=40, count=3, dtype="uint8") as file:
        file.write(np.moveaxis(picture, 2, 0))
    with rasterio.open(tmp_path / "a.tif") as file:
        assert np.array_equal(dehaze(file.read(), model=loaded, options=CPU), np.moveaxis(expected, 2, 0))
    assert np.array_equal(dehaze(tmp_path / "a.tif", model=loaded, options=CPU), expected)


@pytest.mark.parametrize("axis", [0, -3, 2, -1])
def test_the_user_says_which_axis_the_bands_are_on(axis: int, loaded: Loaded) -> None:
    small = np.random.default_rng(2).integers(100, 200, (12, 14, 3), np.uint8)
    given = small if axis in (2, -1) else np.moveaxis(small, 2, 0)
    result = dehaze(given, model=loaded, options=CPU, channel_axis=axis)
    assert result.shape == given.shape
    with pytest.raises(UsageError, match="which axis"):
        dehaze(given, model=loaded, options=CPU)


def test_spectra_are_refused_unless_their_axis_is_said(loaded: Loaded) -> None:
    with pytest.raises(UsageError, match=r"\[40, 50, 60\]"):
        dehaze(np.zeros((40, 50, 60), np.uint8), model=loaded)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ([[1, 2], [3]], "NumPy can make no array of this list"),
        (None, "a NoneType is no picture"),
        (object(), "a object is no picture"),
        (["a.tif", "b.tif"], "a list is no picture"),
        (np.zeros((2, 3, 40, 50), np.uint8), "several pictures"),
        (np.zeros(5, np.uint8), "1 axes"),
        (np.zeros((40, 50), np.int64), "int64"),
        (torch.zeros(3, 40, 50, requires_grad=True), "no array of this"),
        (PIL.Image.new("P", (50, 40)), "mode P"),
        (xarray.DataArray(np.zeros((2, 40, 50), np.uint8), dims=("time", "y", "x")), "several pictures"),
        (xarray.DataArray(np.zeros((2, 2, 40, 50), np.uint8), dims=("time", "band", "y", "x")), "several"),
        (np.zeros((0, 50), np.uint8), "no pixels"),
        ("nowhere.tif", "no such file"),
        (b"bytes", "no picture"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(image: Any, words: str, loaded: Loaded) -> None:
    with pytest.raises(InputError, match=words) as refused:
        dehaze(image, model=loaded)
    assert refused.value.hint


def test_models_go_by_name(picture: np.ndarray[Any, Any]) -> None:
    by_name = dehaze(picture, model="mgbl-s", options=CPU)
    assert np.array_equal(by_name, dehaze(picture, model=dehazexl_cli.load_model("mgbl-s"), options=CPU))


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"model": "no-such"}, UsageError, "no model named"),
        ({"model": torch.nn.Identity()}, UsageError, "model is a Identity"),
        ({"model": "mgbl-paper"}, WeightsError, "name a file with weights"),
        ({"options": {"strength": 1}}, UsageError, "options is a dict"),
        ({"strenght": 0.5}, UsageError, "no option strenght\nthe nearest is strength"),
        ({"options": Options(), "strength": 0.5}, UsageError, "options and strength are both given"),
        ({"strength": 2}, UsageError, "strength 2 is out of range"),
        ({"progress": 0.5}, UsageError, "progress=0.5"),
        ({"mask": np.ones((40, 49), bool)}, InputError, r"mask \[40, 49\] does not fit .* \[40, 50\]"),
        ({"mask": "mask.tif"}, UsageError, "mask has no meaning here\npass .* as an array"),
        ({"options": Options(bands=(7, 8, 9))}, UsageError, "name them with bands"),
        ({"options": Options(window=(0, 0, 5, 5))}, UsageError, "window has no meaning here"),
        ({"options": Options(device="abacus")}, DehazeError, "abacus"),
        ({"options": Options(overlap=4000)}, UsageError, "^overlap 4000"),
        ({"options": Options(tile=512)}, UsageError, "^tile has no meaning in mode global\nadd mode tile"),
    ],
)
def test_refusals_are_in_words_of_python(
    arguments: dict[str, Any], kind: type[DehazeError], words: str, picture: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(kind) as refused:
        dehaze(picture, **{"model": "mgbl-s"} | arguments)
    assert "--" not in f"{refused.value} {refused.value.message} {refused.value.hint}"
    assert re.search(words, f"{refused.value.message}\n{refused.value.hint}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": "much"},
        {"strength": 2},
        {"bands": "4,3,2"},
        {"bands": 4},
        {"mode": "magic"},
        {"input_range": "bytes"},
        {"input_range": (1, 2, "x")},
        {"window": (0, 0, 5)},
        {"bbox": (1, 2, 3)},
        {"bbox_crs": "EPSG:4326"},
        {"context": "scene"},
        {"max_ram": "lots"},
        {"max_ram": -1},
        {"precision": "fp8"},
        {"threads": 0},
        {"threads": 1.5},
        {"all_bands": 1},
        {"creation": ["COMPRESS=ZSTD"]},
        {"seed": None},
    ],
)
def test_options_that_cannot_be_are_refused_where_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        Options(**wrong)
    assert next(iter(wrong)) in refused.value.message
    assert "--" not in refused.value.message


def test_options_are_those_of_the_command() -> None:
    group: Any = typer.main.get_command(app)
    named = {param.name for param in group.commands["run"].params if param.name.isidentifier()}
    renamed = {"no_provenance": "provenance", "band_ranges": "input_range"}
    wanted = {renamed.get(name, name) for name in named - OF_THE_COMMAND - ARGUMENTS}
    fields = {field.name for field in dataclasses.fields(Options)}
    assert fields == {name for name in wanted if "." not in name}


def test_options_take_what_numpy_and_rasterio_give(
    tmp_path: Path, dehazexl: Command, small_scene: Path
) -> None:
    options = Options(
        bands=np.array([3, 2, 1]),
        window=[8, 4, np.int64(20), 16],
        input_range=[(0, 200), (0, 210), (0, 220)],
        max_ram="8G",
        strength=np.float32(0.5),
        creation={"compress": "ZSTD"},
        provenance=False,
        device="cpu",
        precision="fp32",
    )
    out = tmp_path / "python.tif"
    report = dehazexl_cli.dehaze_file(small_scene, out, model="mgbl-s", options=options)
    assert (report.width, report.height, report.bands) == (20, 16, (3, 2, 1))
    same = tmp_path / "command.tif"
    flags = ["--bands", "3,2,1", "--window", "8,4,20,16", "--input-range", "0,200,0,210,0,220"]
    flags += ["--strength", "0.5", "--co", "COMPRESS=ZSTD", "--no-provenance", "--model", "mgbl-s"]
    flags += ["--device", "cpu", "--precision", "fp32"]
    assert dehazexl("run", small_scene, same, *flags, "-q").code == 0
    assert out.read_bytes() == same.read_bytes()


def test_floats_are_shown_as_bytes_are_on_request(picture: np.ndarray[Any, Any], loaded: Loaded) -> None:
    floats = (picture / 255).astype(np.float32)
    by_type = Options(device="cpu", precision="fp32", input_range="dtype")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = dehaze(floats, model=loaded, options=by_type)
    as_bytes = dehaze(picture, model=loaded, options=CPU)
    assert np.abs(result * 255 - as_bytes).max() <= 0.51
    with pytest.warns(UserWarning, match="input_range dtype"):
        stretched = dehaze(floats, model=loaded, options=CPU)
    assert np.abs(stretched * 255 - as_bytes).max() > 1


def test_words_for_the_range_go_for_every_type(picture: np.ndarray[Any, Any]) -> None:
    for dtype, white in (("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", 1)):
        reader = ArrayReader(picture.astype(dtype))
        (group,) = choose_groups(reader, choose_bands(reader.info, None), "dtype")
        assert [(each.low, each.high) for each in group.ranges] == [(0, white)] * 3
        (group,) = choose_groups(reader, choose_bands(reader.info, None), "percentiles")
        assert group.ranges[0].source == "percentiles"
        assert 230 < group.ranges[0].high < 240


def test_the_command_notes_that_floats_were_stretched(
    dehazexl: Command, tmp_path: Path, picture: np.ndarray[Any, Any]
) -> None:
    path = tmp_path / "float.tif"
    with rasterio.open(path, "w", width=50, height=40, count=3, dtype="float32") as file:
        file.write(np.moveaxis(picture / 255, 2, 0).astype("float32"))
    run = ("run", path, tmp_path / "out.tif", "--model", "mgbl-s", "--overwrite", "--device", "cpu")
    assert "note: the floats, of 0 to 1" in dehazexl(*run).err
    told = dehazexl(*run, "--input-range", "dtype", "--json")
    assert "note: the floats" not in told.err
    assert '"high": 1.0' in told.out


def test_waiting_threads_give_way_unless_the_user_says_otherwise() -> None:
    for given, expected in (
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ):
        environment = dict(given)
        processors.share(environment)
        assert environment == expected


@pytest.mark.parametrize(
    ("script", "warned"),
    [
        ("import dehazexl_cli, torch", False),
        ("import dehazexl_cli.models", False),
        ("import torch, dehazexl_cli", True),
        ("import torch, dehazexl_cli; torch.set_num_threads(1)", False),
    ],
)
def test_who_loads_torch_first_is_told_once(script: str, warned: bool) -> None:
    script += "\nfrom dehazexl_cli import load_model\nload_model('mgbl-s'); load_model('mgbl-s')"
    script = "import os; os.environ.pop('GOMP_SPINCOUNT', 0); os.environ['OMP_NUM_THREADS'] = '2'\n" + script
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    assert said.count("UserWarning: torch was imported before") == warned
