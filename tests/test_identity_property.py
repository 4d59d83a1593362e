"""Whatever the size, type, bands, blocks, compression and nodata: what is not changed comes out the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from conftest import Identity
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.pixels import PIXEL_TYPES

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
COMPRESSIONS = ("none", "deflate", "lzw", "zstd", "packbits", "lzma", "lerc")
BLOCKS: tuple[dict[str, Any], ...] = (
    {},
    {"blockysize": 1},
    {"blockysize": 7},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"tiled": True, "blockxsize": 64, "blockysize": 32},
)
LARGEST = 3e38  # nearly the largest float32


class Case(NamedTuple):
    """A raster to be made."""

    height: int
    width: int
    count: int
    dtype: str
    interleave: str
    blocks: dict[str, Any]
    compress: str
    nodata: float | None
    values: str
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dtype = draw(st.sampled_from(PIXEL_TYPES))
    floats = dtype.startswith("float")
    nodata = draw(st.sampled_from([None, 0.0, 7.0, *([float("nan"), -9999.0] if floats else [])]))
    return Case(
        height=draw(st.integers(1, 70)),
        width=draw(st.integers(1, 70)),
        count=draw(st.integers(1, 6)),
        dtype=dtype,
        interleave=draw(st.sampled_from(["pixel", "band"])),
        blocks=draw(st.sampled_from(BLOCKS)),
        compress=draw(st.sampled_from(COMPRESSIONS)),
        nodata=nodata,
        values=draw(st.sampled_from(["any bits", "few levels", "constant"])),
        seed=draw(st.integers(0, 99)),
    )


def pixels_of(case: Case) -> np.ndarray:
    """Pixels [count, height, width], some of them nodata."""
    shape, random = (case.count, case.height, case.width), np.random.default_rng(case.seed)
    if case.values == "any bits":
        bits = random.bytes(int(np.prod(shape)) * np.dtype(case.dtype).itemsize)
        pixels = np.frombuffer(bits, case.dtype).reshape(shape).copy()
        if pixels.dtype.kind == "f":
            pixels[np.abs(pixels) > LARGEST] = 1  # NaN and the smallest numbers stay
    else:
        levels = 9 if case.values == "few levels" else 1
        pixels = random.integers(0, levels, shape).astype(case.dtype)
    if case.nodata is not None:
        pixels[:, random.random(shape[1:]) < 0.2] = case.nodata
    return pixels


def check(case: Case) -> None:
    event(f"{case.dtype}, {case.compress}")
    pixels = pixels_of(case)
    profile = case._asdict() | case.blocks
    for name in ("blocks", "values", "seed"):
        del profile[name]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.tif", Path(folder) / "out.tif"
        with rasterio.open(source, "w", driver="GTiff", **profile) as made:
            made.write(pixels)
        with rasterio.open(source) as made:
            pixels = made.read()  # LERC has its own way with NaN
        reader = open_reader(source)
        bands = (1,) if case.count < 3 else None
        run(
            reader,
            lambda: open_writer(target, reader),
            Identity(patch=16),
            EngineOptions(bands=bands, overlap=4),
        )
        reader.close()
        with rasterio.open(target) as made:
            assert made.read().tobytes() == pixels.tobytes()
            assert made.dtypes[0] == case.dtype
            assert made.nodata == case.nodata or (np.isnan(made.nodata) and np.isnan(case.nodata))


SETTINGS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
    "database": None,
}


@settings(max_examples=20, **SETTINGS)
@given(cases())
def test_pixels_come_out_as_they_went_in(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=300, **SETTINGS)
@given(cases())
def test_pixels_come_out_as_they_went_in_many_times(case: Case) -> None:
    check(case)
