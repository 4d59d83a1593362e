"""Scenes read and written through GDAL: the pixels, what is ground, and files that appear whole or not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.env import get_gdal_config

from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.base import RasterInfo, RasterReader
from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.raster.pixels import PIXEL_TYPES
from dehazexl_cli.raster.rows import BlockRows
from dehazexl_cli.raster.session import CACHE_BYTES, GdalSession
from dehazexl_cli.raster.views import colour_bands

SHARED = Path(os.environ.get("DEHAZEXL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SIZES = [(1, 1), (7, 300), (257, 255), (300, 513)]


def make(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """A georeferenced raster of pixels [c, h, w], made without the code under test."""
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **place, **profile}) as target:
        target.write(pixels)
    return path


def noise(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Pixels over the whole range of the type; with NaN and infinities where it has them."""
    bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(bits, dtype).reshape(shape)


def scene(reader: RasterReader) -> Box:
    return Box(0, 0, reader.info.height, reader.info.width)


def every_band(info: RasterInfo) -> range:
    return range(1, info.count + 1)


def copy(reader: RasterReader, target: Path, seed: int = 0, **options: Any) -> None:
    """What a reader gives, through a writer, in strips of random heights."""
    random, top = np.random.default_rng(seed), 0
    with open_writer(target, reader, **options) as writer:
        while top < reader.info.height:
            height = min(int(random.integers(1, 400)), reader.info.height - top)
            writer.write(reader.read(Box(top, 0, height, reader.info.width), every_band(reader.info)))
            top += height
        writer.commit()


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("count", [1, 3, 4, 5])
@pytest.mark.parametrize("dtype", PIXEL_TYPES)
def test_what_was_read_is_identical_after_writing(tmp_path: Path, dtype: str, count: int) -> None:
    seed = PIXEL_TYPES.index(dtype) + count
    pixels = noise(dtype, count, *SIZES[seed % len(SIZES)], seed=seed)
    reader = open_reader(make(tmp_path / "in.tif", pixels))
    copy(reader, tmp_path / "out.tif", seed)
    again = open_reader(tmp_path / "out.tif")
    assert same_bytes(again.read(scene(again), every_band(again.info)), pixels)
    assert (again.info.dtype, again.info.alpha) == (reader.info.dtype, reader.info.alpha)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_png_holds_the_same_pixels(tmp_path: Path, dtype: str, count: int) -> None:
    pixels = noise(dtype, count, 67, 301, seed=count)
    reader = ArrayReader(pixels, channels_first=True, alpha=count if count % 2 == 0 else None)
    copy(reader, tmp_path / "out.PNG")
    again = open_reader(tmp_path / "out.PNG")
    assert again.info.driver == "PNG" and again.info.alpha == reader.info.alpha
    assert same_bytes(again.read(scene(again), every_band(again.info)), pixels)


@pytest.mark.parametrize("name", ["gcps", "mosaic_uint16_3band", "naip_wetland_4band", "orthophoto_alpha"])
def test_a_real_scene_survives_with_its_ground(tmp_path: Path, name: str) -> None:
    path = SHARED / "data" / "try" / f"{name}.tif"
    if not path.exists():
        pytest.skip("the shared data is not here")
    reader = open_reader(path)
    copy(reader, tmp_path / "out.tif")
    again, bands = open_reader(tmp_path / "out.tif"), every_band(reader.info)
    assert same_bytes(again.read(scene(again), bands), reader.read(scene(reader), bands))
    before, after = (
        reader.valid(scene(reader), colour_bands(reader.info)),
        again.valid(scene(again), colour_bands(again.info)),
    )
    assert after is before is None or np.array_equal(before, after)
    assert again.info.georeferenced and reader.info.georeferenced


def test_a_scene_inside_an_archive_or_a_vrt_is_read(tmp_path: Path) -> None:
    pixels = noise("uint16", 3, 20, 30)
    path = make(tmp_path / "in.tif", pixels)
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(path, "inner/in.tif")
    rasterio.shutil.copy(path, tmp_path / "in.vrt", driver="VRT")
    for name in (f"/vsizip/{tmp_path}/scenes.zip/inner/in.tif", str(tmp_path / "in.vrt")):
        reader = open_reader(name)
        copy(reader, tmp_path / "out.tif", overwrite=True)
        with rasterio.open(tmp_path / "out.tif") as made:
            assert made.crs.to_epsg() == 32633 and same_bytes(made.read(), pixels)


# Serves one file by ranges, as object stores do; a process of its own, as GDAL holds Python's lock.
SERVER = """
import http.server, sys
data = open(sys.argv[1], "rb").read()
class Ranges(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Ranges)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_scene_on_the_net_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise("uint8", 3, 70, 30)
    path = make(tmp_path / "in.tif", pixels)
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "10")
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            for prefix in ("/vsicurl/", ""):
                reader = open_reader(f"{prefix}http://127.0.0.1:{port}/in.tif")
                assert same_bytes(reader.read(scene(reader), [1, 2, 3]), pixels)
                reader.close()
        finally:
            server.kill()


def test_bands_come_in_the_order_asked_for(tmp_path: Path) -> None:
    pixels = noise("uint16", 4, 20, 30)
    reader = open_reader(make(tmp_path / "in.tif", pixels))
    assert np.array_equal(reader.read(Box(3, 5, 7, 11), [4, 1]), pixels[[3, 0], 3:10, 5:16])


def test_a_box_outside_the_scene_is_refused(tmp_path: Path) -> None:
    reader = open_reader(make(tmp_path / "in.tif", noise("uint8", 1, 20, 30)))
    for box in [Box(-1, 0, 5, 5), Box(0, 0, 21, 5), Box(0, 26, 5, 5), Box(0, 0, 0, 5)]:
        with pytest.raises(ValueError, match="not inside"):
            reader.read(box, [1])


def test_without_nodata_alpha_and_mask_integers_are_all_ground(tmp_path: Path) -> None:
    reader = open_reader(make(tmp_path / "in.tif", noise("uint8", 3, 20, 30)))
    assert reader.valid(scene(reader), colour_bands(reader.info)) is None


def test_a_pixel_is_nodata_only_where_every_band_is(tmp_path: Path) -> None:
    pixels = np.full((3, 4, 5), 9, np.uint8)
    pixels[:, 1, 2] = 0
    pixels[0, 3, 3] = 0
    reader = open_reader(make(tmp_path / "in.tif", pixels, nodata=0))
    expected = np.ones((4, 5), bool)
    expected[1, 2] = False
    assert np.array_equal(reader.valid(scene(reader), colour_bands(reader.info)), expected)
    assert reader.valid(Box(2, 0, 2, 5), [1, 2, 3]) is None
    assert reader.sample([1, 2], 99).shape == (2, 19)
    assert reader.sample([1], 99).shape == (1, 18)  # by that band alone


@pytest.mark.parametrize("nodata", [None, float("nan"), -9999.0])
def test_nan_and_infinity_in_any_band_are_no_ground(tmp_path: Path, nodata: float | None) -> None:
    pixels = np.ones((3, 4, 5), np.float32)
    pixels[0, 0, 0], pixels[1, 1, 1], pixels[2, 2, 2] = np.nan, np.inf, -np.inf
    pixels[:, 3, 3] = np.nan if nodata is None else nodata
    reader = open_reader(make(tmp_path / "in.tif", pixels, nodata=nodata))
    expected = np.ones((4, 5), bool)
    expected[[0, 1, 2, 3], [0, 1, 2, 3]] = False
    assert np.array_equal(reader.valid(scene(reader), colour_bands(reader.info)), expected)


@pytest.mark.parametrize("nodata", [None, 7.0])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_fully_transparent_pixels_are_no_ground(tmp_path: Path, dtype: str, nodata: float | None) -> None:
    pixels = np.ones((4, 4, 5), dtype)  # an alpha of 1 in 65535 is still not 0
    pixels[3, 2, 1] = 0
    path = tmp_path / "in.tif"
    with rasterio.open(make(path, pixels, nodata=nodata), "r+") as made:
        made.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    reader = open_reader(path)
    expected = np.ones((4, 5), bool)
    expected[2, 1] = False
    assert reader.info.alpha == 4
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        reader = open_reader(path)
        assert np.array_equal(reader.valid(scene(reader), colour_bands(reader.info)), expected)


@pytest.mark.parametrize("internal", [True, False])
def test_pixels_outside_a_mask_band_are_no_ground(tmp_path: Path, internal: bool) -> None:
    mask = np.full((4, 5), 255, np.uint8)
    mask[2, 3], mask[1, 1] = 0, 255 if internal else 128  # one bit inside a GeoTIFF, eight beside it
    make(tmp_path / "in.tif", noise("uint8", 3, 4, 5))
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(tmp_path / "in.tif", "r+") as made,
    ):
        made.write_mask(mask)
    reader = open_reader(tmp_path / "in.tif")
    assert np.array_equal(reader.valid(scene(reader), colour_bands(reader.info)), mask != 0)
    copy(reader, tmp_path / "out.tif")
    again = open_reader(tmp_path / "out.tif")
    assert np.array_equal(again.valid(scene(again), colour_bands(again.info)), mask != 0)


def test_a_sample_is_thin_even_and_the_same_every_time(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(1000, dtype=np.uint16), (1, 700, 1))
    path = make(tmp_path / "in.tif", ramp, tiled=True)
    first = open_reader(path).sample([1], 100)
    assert first.shape == (1, 100 * 100) and first.dtype == np.uint16
    assert np.abs(np.percentile(first, [0, 25, 50, 75, 100]) - [0, 250, 500, 750, 999]).max() < 10
    assert np.array_equal(first, open_reader(path).sample([1], 100))
    array_sample = ArrayReader(ramp, channels_first=True).sample([1], 100)
    assert np.array_equal(first, array_sample)


def test_a_sample_comes_from_overviews_where_there_are_some(tmp_path: Path) -> None:
    path = make(tmp_path / "in.tif", np.zeros((1, 512, 512), np.uint8))
    with rasterio.open(path, "r+") as made:
        made.build_overviews([8], Resampling.nearest)
        made.write(np.full((1, 512, 512), 9, np.uint8))  # the overview keeps the zeros
    assert not open_reader(path).sample([1], 32).any()


def test_block_rows_are_whole_whatever_the_strips() -> None:
    pixels, random = noise("uint8", 2, 1000, 3), np.random.default_rng(1)
    info = RasterInfo("in", "MEM", 1000, 3, 2, "uint8")
    blocks, top, given = BlockRows(info, 64), 0, []
    while top < 1000:
        height = int(random.integers(1, 200))
        given += [(at, rows.copy()) for at, rows in blocks.push(pixels[:, top : top + height])]
        top += height
    assert [at for at, _ in given] == list(range(0, 1000, 64))
    assert np.array_equal(np.concatenate([rows for _, rows in given], axis=1), pixels)


def test_geotiffs_are_written_in_compressed_tiles(tmp_path: Path) -> None:
    copy(ArrayReader(noise("uint8", 300, 600, 3)), tmp_path / "out.tif")
    with GdalSession().open(str(tmp_path / "out.tif")) as made:
        assert made.block_shapes[0] == (256, 256) and made.profile["compress"] == "deflate"


def test_reading_and_writing_in_two_threads_share_nothing(tmp_path: Path) -> None:
    pixels = noise("uint8", 3, 1500, 400)
    reader = open_reader(make(tmp_path / "in.tif", pixels, tiled=True, compress="deflate"))
    strips: list[np.ndarray] = []
    ready = threading.Semaphore(0)

    def read() -> None:
        for top in range(0, 1500, 100):
            strips.append(reader.read(Box(top, 0, 100, 400), [1, 2, 3]))
            ready.release()

    with open_writer(tmp_path / "out.tif", reader) as writer:
        ahead = threading.Thread(target=read)
        ahead.start()
        for index in range(15):
            ready.acquire()
            writer.write(strips[index])
        ahead.join()
        writer.commit()
    again = open_reader(tmp_path / "out.tif")
    assert same_bytes(again.read(scene(again), [1, 2, 3]), pixels)


def test_the_block_cache_is_small_inside_and_as_before_outside() -> None:
    before, inside = get_gdal_config("GDAL_CACHEMAX"), []
    session = GdalSession()

    def enter() -> None:
        with session():
            inside.append(get_gdal_config("GDAL_CACHEMAX"))

    with session():
        other = threading.Thread(target=enter)
        other.start()
        other.join()
        inside.append(get_gdal_config("GDAL_CACHEMAX"))
    assert max(inside) <= CACHE_BYTES
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_what_the_user_set_for_gdal_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with rasterio.Env(GDAL_CACHEMAX=300_000_000, GDAL_NUM_THREADS="3"), GdalSession()():
        assert get_gdal_config("GDAL_CACHEMAX") == 300_000_000
        assert str(get_gdal_config("GDAL_NUM_THREADS")) == "3"
    monkeypatch.setenv("GDAL_NUM_THREADS", "5")
    assert GdalSession().threads_are_set


def test_nothing_is_printed_or_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy(ArrayReader(noise("uint8", 30, 40, 3)), tmp_path / "plain.tif")
        reader = open_reader(tmp_path / "plain.tif")
        assert not reader.info.georeferenced
        copy(reader, tmp_path / "out.png")
    assert capfd.readouterr() == ("", "")


def test_an_unsupported_output_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    floats, five = ArrayReader(np.zeros((4, 4), np.float32)), ArrayReader(np.zeros((4, 4, 5), np.uint8))
    four = ArrayReader(np.zeros((4, 4, 4), np.uint8))  # and none of them alpha
    for reader, name in [
        (floats, "a.jpg"),
        (floats, "a"),
        (floats, "a.png"),
        (five, "a.png"),
        (four, "a.png"),
    ]:
        with pytest.raises(OutputError) as caught:
            open_writer(tmp_path / name, reader)
        assert ".tif" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_threads_that_open_files_at_once_print_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((1, 8, 8), np.uint8)
    with warnings.catch_warnings(action="ignore"):
        plain = make(tmp_path / "plain.tif", pixels, crs=None, transform=None)
    said: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: said.append(str(message)))

    def open_often(_: int) -> None:
        for _ in range(30):
            open_reader(plain).close()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(open_often, range(8)))
    assert said == []
