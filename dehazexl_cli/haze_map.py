"""Haze maps: how much light gets through the haze, as a raster that lies where the scene does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dehazexl_cli.config import EngineOptions, InferenceMode, Storage
from dehazexl_cli.engine import run
from dehazexl_cli.engine.haze import NO_GROUND
from dehazexl_cli.errors import NotHazy, OutputError
from dehazexl_cli.grid import strips
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.paths import AnyPath
from dehazexl_cli.raster import open_writer
from dehazexl_cli.raster.bands import choose_bands
from dehazexl_cli.raster.base import FileWriter, Pixels, RasterInfo, RasterReader
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.raster.thumbnail import thumbnail, thumbnail_ground
from dehazexl_cli.raster.views import MaskedReader
from dehazexl_cli.report import Report

DESCRIPTION = "light that gets through the haze, per cent"
CLEAR, CLOUD = (8, 48, 107), (247, 251, 255)  # colours of 100 and 0 per cent
STRIP_ROWS = 256
LOOK_SIDE = 1024  # pixels of the small picture that haze is told by


def require_map_name(path: AnyPath) -> None:
    """Raises OutputError for a map that is not to be a GeoTIFF."""
    if not str(path).lower().endswith((".tif", ".tiff")):
        raise OutputError(f"{path}: a haze map is a GeoTIFF", "give it a name that ends in .tif")


def open_map(path: AnyPath, like: RasterReader, overwrite: bool = False) -> FileWriter:
    """Create a haze map of the size and place of `like`: uint8 per cent, NO_GROUND where there is none.

    With overviews and colours. Raises what `open_writer` does, and OutputError unless it is a GeoTIFF.
    """
    require_map_name(path)
    ramp = (np.linspace(CLOUD, CLEAR, 101)).round().astype(int).tolist()
    storage = Storage(overviews=True, descriptions=(DESCRIPTION,), colormap=tuple(map(tuple, ramp)))
    return open_writer(path, like, overwrite, storage, map_info(like.info))


def map_info(info: RasterInfo) -> RasterInfo:
    """What a haze map of a raster holds."""
    name, driver = "haze map", "GTiff"
    return RasterInfo(name, driver, info.height, info.width, 1, "uint8", nodata=NO_GROUND)


def small_reader(reader: RasterReader, bands: tuple[int, ...], side: int) -> RasterReader:
    """A small picture of a scene as a raster: these bands, at most `side` pixels long."""
    pixels, ground = thumbnail(reader, bands, side), thumbnail_ground(reader, bands, side)
    small = ArrayReader(pixels, channels_first=True, nodata=reader.info.nodata, name=reader.info.name)
    # Alpha and masks, too, say what the model is not to see.
    return small if ground is None else MaskedReader(small, mask=ArrayReader(ground.astype(np.uint8)))


def look(
    reader: RasterReader, model: DehazeModel, options: EngineOptions, side: int
) -> tuple[Pixels, Report]:
    """Tell the haze of a scene by a small picture of it, at most `side` pixels long.

    Returns the map of that, uint8 [h, w], and the report, whose `haze` has the shares. Raises UsageError
    for a model that tells no haze.
    """
    small = small_reader(reader, choose_bands(reader.info, options.bands).colours, side)
    maps: list[ArrayWriter] = []

    def make_map() -> ArrayWriter:
        maps.append(ArrayWriter(map_info(small.info), "hw"))
        return maps[-1]

    def make_writer() -> ArrayWriter:
        return ArrayWriter(small.info, "chw")

    # Other bands, parts and modes are for the result.
    plain = replace(options, bands=None, all_bands=False, window=None, unseen="keep", mode=InferenceMode())
    if isinstance(plain.band_ranges, tuple):
        plain = replace(plain, band_ranges=plain.band_ranges[: 2 * small.info.count])
    report = run(small, make_writer, model, plain, make_map=make_map)
    return maps[-1].array, report


def require_hazy(reader: RasterReader, model: DehazeModel, options: EngineOptions, share: float) -> None:
    """Raises NotHazy for a scene of which less than a share lies under haze of any kind.

    Told by a small picture; no ground is not hazy.
    """
    found = 1 - look(reader, model, options, LOOK_SIDE)[1].haze.get("clear", 1.0)
    if found < share:
        raise NotHazy(f"{found:.1%} of it lies under haze")


def write_map(
    path: AnyPath,
    small: Pixels,
    like: RasterReader,
    overwrite: bool,
    watch: Callable[[int], None],
) -> list[str]:
    """Write a small map as one of the size of `like`; `watch` is told of rows. Returns warnings."""
    height, width = like.info.height, like.info.width
    cols = np.arange(width) * small.shape[1] // width
    with open_map(path, like, overwrite) as writer:
        for strip in strips(height, width, STRIP_ROWS):
            rows = np.arange(strip.top, strip.bottom) * small.shape[0] // height
            writer.write(small[rows][:, cols][None])
            watch(strip.height)
        writer.commit()
    return writer.warnings
