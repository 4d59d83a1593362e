"""What can be written, what it can hold, and the creation options GDAL is given for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.raster.base import RasterInfo
from dehazexl_cli.raster.pixels import PIXEL_TYPES
from dehazexl_cli.raster.session import GdalSession, unwarned

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
# A tile of more bytes per pixel than this would be read for one band and hold all of them.
_MOST_INTERLEAVED_BYTES = 64


@dataclass(frozen=True)
class Format:
    """A file format, and what GDAL can put into it."""

    driver: str
    suffixes: tuple[str, ...]
    options: dict[str, str]  # creation options, unless the user gives others
    dtypes: tuple[str, ...] = PIXEL_TYPES
    counts: tuple[int, ...] | None = None  # numbers of bands; None is any
    with_alpha: tuple[int, ...] | None = None  # of these, those whose last band is alpha; None: no rule
    largest_side: int | None = None  # pixels
    most_pixels: int | None = None  # where GDAL makes the whole in memory
    scratch: str = "lines"  # blocks of the raster it is made from: "lines", "tiles"; "" if written at once
    names: tuple[str, ...] = field(default=())  # what else it is called
    world_file: str = ""  # the creation option that asks for one

    def __str__(self) -> str:
        return self.names[0] if self.names else self.driver


_DEFLATED = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER"}
GTIFF = Format(
    "GTiff",
    (".tif", ".tiff"),
    _DEFLATED | {"TILED": "YES", "BLOCKXSIZE": "256", "BLOCKYSIZE": "256"},
    scratch="",
    names=("GeoTIFF", "TIFF"),
    world_file="TFW",
)
# Averages never overshoot, so no overview has a value that the scene has not.
COG = Format(
    "COG", (".tif", ".tiff"), _DEFLATED | {"PREDICTOR": "YES", "OVERVIEW_RESAMPLING": "AVERAGE"},
    scratch="tiles",
)  # fmt: skip
# Level 4 takes half the time of GDAL's 6 for the same size, measured on drone photographs.
PNG = Format(
    "PNG", (".png",), {"ZLEVEL": "4"}, ("uint8", "uint16"), (1, 2, 3, 4), (2, 4), world_file="WORLDFILE"
)  # fmt: skip
JPEG = Format(
    "JPEG", (".jpg", ".jpeg"), {"QUALITY": "95"}, ("uint8",), (1, 3), (), 65_500, world_file="WORLDFILE"
)  # fmt: skip
JPEG2000 = Format(
    "JP2OpenJPEG", (".jp2", ".j2k"), {"QUALITY": "100", "REVERSIBLE": "YES"}, ("uint8", "uint16", "int16"),
    scratch="tiles", names=("JPEG 2000", "JP2", "JPEG2000"),
)  # fmt: skip
# libwebp takes 27 bytes of memory per pixel (measured), so a larger one would need more than 2 GB.
WEBP = Format(
    "WEBP", (".webp",), {"LOSSLESS": "YES", "EXACT": "1"}, ("uint8",), (3, 4), (4,), 16_383, 1 << 26,
    names=("WebP",),
)  # fmt: skip
# No file that holds pixels: GeoTIFFs in a folder do.
VRT = Format("VRT", (".vrt",), {})
FORMATS = (GTIFF, COG, PNG, JPEG, JPEG2000, WEBP)
DRIVERS = frozenset(format.driver for format in FORMATS)

# Given one of these, the user has decided on quality, and our defaults for the others no longer fit.
_QUALITY = frozenset({"QUALITY", "REVERSIBLE", "LOSSLESS", "LOSSLESS_COPY", "YCBCR420", "NEAR_LOSSLESS"})
# These decide what a file and its side files say, and nothing of how pixels are stored.
_SAYING = frozenset({"PROFILE", "RPB", "RPCTXT", "GEOTIFF_KEYS_FLAVOR", "GEOTIFF_VERSION"})
# GeoJP2 mirrors a place whose rows go north, and GMLJP2 has no system without a number; one of these is true.
WAYS_TO_PLACE: dict[str, tuple[dict[str, str], ...]] = {
    "JP2OpenJPEG": ({}, {"GeoJP2": "NO"}, {"GeoJP2": "NO", "GMLJP2": "NO"})
}
_OF_EVERY_COG = frozenset({"", "xml:XMP", "COLOR_PROFILE", "RPC", "IMD"})
_WITH_PREDICTOR = frozenset({"DEFLATE", "LZW", "ZSTD"})


def choose_format(path: str, wanted: str | None) -> Format:
    """The format wanted, else the one that the suffix means.

    Raises UsageError for a name that is none, OutputError for a suffix that is none or another format's.
    """
    known_formats = (*FORMATS, VRT)
    suffix = Path(path).suffix.lower()
    by_suffix = [format for format in known_formats if suffix in format.suffixes]
    if wanted is None:
        if not by_suffix:
            known = ", ".join(sorted({suffix for format in known_formats for suffix in format.suffixes}))
            raise OutputError(
                f"{path}: cannot be written as {suffix or 'a file without a suffix'}",
                f"give it one of {known}, or name a --format",
            )
        return _available(by_suffix[0])
    named = [
        each
        for each in known_formats
        if wanted.lower() in {name.lower() for name in (each.driver, *each.names)}
    ]
    if not named:
        raise UsageError(
            f"--format {wanted!r} is none that can be written",
            f"choose from {', '.join(format.driver for format in known_formats)}",
        )
    if by_suffix and named[0] not in by_suffix:
        raise OutputError(
            f"{path}: {suffix} is no suffix of a {named[0]}", f"use {named[0].suffixes[0]}, or no --format"
        )
    return _available(named[0])


def require_can_hold(path: str, format: Format, info: RasterInfo, colours: Sequence[ColorInterp]) -> None:
    """Raises OutputError unless a file of the format can say what these bands of this type are."""
    trouble = _what_cannot_be_held(format, info, colours)
    if trouble:
        raise OutputError(f"{path}: {trouble}", f"write a GeoTIFF: {Path(path).with_suffix('.tif')}")


def require_overviews_fit(path: str, format: Format, storage: Storage) -> None:
    """Raises OutputError for overviews in a format that has none; COG and JPEG 2000 have them anyway."""
    if storage.overviews and format not in (GTIFF, COG, JPEG2000):
        raise OutputError(f"{path}: a {format} has no overviews", "leave out --overviews, or write a GeoTIFF")


def creation_options(format: Format, info: RasterInfo, storage: Storage) -> dict[str, str]:
    """GDAL's creation options: ours where they fit beside the user's, and the user's as they are."""
    given = {name.upper(): value for name, value in storage.creation if name.upper() != format.world_file}
    options = dict(format.options)
    if format is GTIFF:
        wide = info.count * np.dtype(info.dtype).itemsize > _MOST_INTERLEAVED_BYTES
        options["INTERLEAVE"] = "BAND" if wide else "PIXEL"
        options["PREDICTOR"] = "3" if info.dtype.startswith("float") else "2"
    if info.bits is not None and format in (GTIFF, COG):
        options["NBITS"] = str(info.bits)
    if format is GTIFF and (info.nodata is not None or info.alpha is not None):
        options["SPARSE_OK"] = "TRUE"  # tiles without ground take no space and no time
    if given.get("COMPRESS", "DEFLATE").upper() not in _WITH_PREDICTOR or "NBITS" in (options | given):
        options.pop("PREDICTOR", None)
    if given.get("TILED", "YES").upper() in {"NO", "FALSE", "OFF", "0"}:
        options = {name: value for name, value in options.items() if not name.startswith(("TILED", "BLOCK"))}
    if _QUALITY & given.keys():
        options = {name: value for name, value in options.items() if name not in _QUALITY}
    return options | given


def saying_only(storage: Storage) -> Storage:
    """Storage of a small raster that is to say what one stored in that way says."""
    return replace(storage, creation=tuple(pair for pair in storage.creation if pair[0].upper() in _SAYING))


def wants_world_file(format: Format, storage: Storage) -> bool:
    """Whether the user asks for a world file; GDAL is not told, as its own would be read with other files."""
    wanted = [value.upper() for name, value in storage.creation if name.upper() == format.world_file]
    return bool(wanted) and wanted[-1] in {"YES", "TRUE", "ON", "1"}


def with_namespaces(options: dict[str, str], tags: Iterable[tuple[int, str, Any]]) -> dict[str, str]:
    """Options for a COG that keep most of the tags, given as (band, namespace, …).

    GDAL (3.10) gives a COG either the namespaces of anyone's own, or the plain tags of bands.
    """
    kinds = {(band > 0, namespace) for band, namespace, _ in tags}
    own = any(namespace not in _OF_EVERY_COG for _, namespace in kinds)
    return {"COPY_SRC_MDD": "YES"} | options if own and (True, "") not in kinds else options


def bits_of(options: Mapping[str, str]) -> int | None:
    """How many bits of each number are stored, where creation options say so."""
    said = options.get("NBITS", "")
    return int(said) if said.isdecimal() and int(said) else None


def is_held(value: float, dtype: str) -> bool:
    """Whether a type has a number."""
    if np.dtype(dtype).kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(value == np.floor(value) and limits.min <= value <= limits.max)


def meanings_of(info: RasterInfo, source: Any, picture: bool) -> list[ColorInterp]:
    """What the bands mean: as an open dataset of them says, unless a user said that there is no alpha."""
    if source is None:
        return band_colours(info, picture)
    no_alpha = info.alpha is None
    return [ColorInterp.undefined if no_alpha and c is ColorInterp.alpha else c for c in source.colorinterp]


def band_colours(info: RasterInfo, picture: bool = True) -> list[ColorInterp]:
    """What the bands mean where no file says it: three of a picture are red, green and blue, others bands."""
    meanings = [ColorInterp.undefined] * info.count
    colour = [index for index in range(info.count) if index + 1 != info.alpha]
    names = _RGB if picture and len(colour) == len(_RGB) else (ColorInterp.gray,)
    for index, name in zip(colour, names, strict=False):
        meanings[index] = name
    if info.alpha is not None:
        meanings[info.alpha - 1] = ColorInterp.alpha
    return meanings


def scratch_options(format: Format, info: RasterInfo) -> dict[str, str]:
    """Of the GeoTIFF that another format is made from: blocks as that format reads them, quickly packed."""
    options = creation_options(GTIFF, info, Storage()) | {"ZLEVEL": "1"}
    if format.scratch == "lines":
        del options["TILED"], options["BLOCKXSIZE"]
        options["BLOCKYSIZE"] = "16"
    return options


def create_tiff(path: Path, info: RasterInfo, options: dict[str, str], gdal: GdalSession) -> Any:
    """An open, empty GeoTIFF."""
    threads = {} if gdal.threads_are_set or "NUM_THREADS" in options else {"NUM_THREADS": "ALL_CPUS"}
    shape = {"height": info.height, "width": info.width, "count": info.count, "dtype": info.dtype}
    with gdal(), unwarned():
        return rasterio.open(path, "w", driver="GTiff", **shape, **options, **threads)


def _available(format: Format) -> Format:
    with rasterio.Env() as env:
        if format.driver in env.drivers():
            return format
    raise OutputError(
        f"this GDAL cannot write {format}",
        "install a rasterio whose GDAL has that driver, or write a GeoTIFF",
    )


def _what_cannot_be_held(format: Format, info: RasterInfo, colours: Sequence[ColorInterp]) -> str:
    if info.dtype not in format.dtypes:
        return f"pixels of a {format} are {' or '.join(format.dtypes)}, not {info.dtype}"
    if format.counts is not None and info.count not in format.counts:
        return f"a {format} has {' or '.join(map(str, format.counts))} bands, not {info.count}"
    if format.largest_side is not None and max(info.height, info.width) > format.largest_side:
        return f"a {format} has at most {format.largest_side} pixels a side"
    if format.most_pixels is not None and info.height * info.width > format.most_pixels:
        return f"a {format} is made in memory, and {info.width} x {info.height} pixels are too many for that"
    if format.with_alpha is None:
        return ""
    # Whoever opens the file would take another band there for transparency.
    if info.count in format.with_alpha and info.alpha != info.count:
        return f"band {info.count} of a {format} is its alpha, and here it is not"
    if info.alpha is not None and info.count not in format.with_alpha:
        return f"a {format} of {info.count} bands has no alpha"
    for index, colour in enumerate(_RGB):
        if colour in colours and colours.index(colour) != index:
            return f"band {index + 1} of a {format} is {colour.name}, and here it is not"
    return ""
