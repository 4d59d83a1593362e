"""What GDAL tells of a dataset, as the engine wants to know it; and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Compression

from dehazexl_cli.errors import InputError
from dehazexl_cli.raster.base import USUAL, RasterInfo, Trust
from dehazexl_cli.raster.ink import Ink, is_ink
from dehazexl_cli.raster.labels import descriptions_of, notes_on_text, tags_of
from dehazexl_cli.raster.metadata import PROVENANCE
from dehazexl_cli.raster.palette import GREY, RGBA, Palette, has_palette
from dehazexl_cli.raster.photometry import require_picture, stored_share
from dehazexl_cli.raster.pixels import require_supported, widened
from dehazexl_cli.raster.refusals import require_openable, why_not_opened
from dehazexl_cli.raster.session import GDAL_ERRORS, GdalSession, cache_bytes, reason
from dehazexl_cli.text import is_remote, masked

log = logging.getLogger(__name__)

# An image of this size is not packed better than this unless nearly all of it is one colour or missing.
_MOST_UNPACKED_BYTES = 4 << 30
_MOST_RATIO = 500
# Each is looked up among all at every access, so their cost grows with the square: 10,000 take half a minute.
_MOST_BANDS = 4096
_PACKED = frozenset({"GTiff", "PNG", "JPEG", "JP2OpenJPEG", "WEBP", "GIF", "BMP"})
_CONVERT = "convert it where that codec is at hand: gdal_translate -co COMPRESS=DEFLATE IN OUT.tif"


class UnsupportedByGdal(InputError):
    """The file is a TIFF that GDAL cannot decode, or only in part; another library may."""


def files_of_dataset(dataset: Any) -> list[str]:
    """The names of the files of an open dataset; none where they are on a server.

    There GDAL would list its folders, which takes long, and for ever where a URL has options (GDAL 3.10).
    """
    return [] if is_remote(dataset.name) else list(dataset.files)


def damaged(path: str, what: str, error: BaseException) -> InputError:
    """The error to raise where a file that could be opened cannot be decoded."""
    return InputError(
        f"{path}: {what} cannot be read ({reason(error)})",
        "the file is damaged or incomplete; copy or download it again",
    )


def describe(path: str, dataset: Any, trust: Trust = USUAL) -> RasterInfo:
    """Shape, type and meaning of an open dataset; raises InputError if it cannot be used."""
    _require_bands(path, dataset)
    require_picture(path, dataset)
    _require_one_type(path, dataset.dtypes)
    if not trust.size:
        _require_plausible_size(path, dataset, dataset.dtypes[0])
    colours = dataset.colorinterp
    return RasterInfo(
        name=masked(path),
        driver=dataset.driver,
        height=dataset.height,
        width=dataset.width,
        count=dataset.count,
        dtype=widened(dataset.dtypes[0]),
        nodata=dataset.nodata,
        alpha=colours.index(ColorInterp.alpha) + 1 if trust.alpha and ColorInterp.alpha in colours else None,
        georeferenced=_is_georeferenced(dataset),
        bits=_bits(dataset),
        scales=tuple(dataset.scales),
        offsets=tuple(dataset.offsets),
        cache_bytes=max(cache_bytes(), _block_bytes(dataset)),
        notes=(*notes_on_text(dataset), *_already_dehazed(tags_of(dataset, 0, ""))),
        meanings=tuple(meaning(colour.name) for colour in colours),
        descriptions=tuple(_called(dataset, band) for band in dataset.indexes),
    )


def _already_dehazed(tags: Mapping[str, str]) -> Iterator[str]:
    """What to say of a raster whose tags tell that it was dehazed before."""
    made = {name.removeprefix(PROVENANCE): text for name, text in tags.items() if name.startswith(PROVENANCE)}
    if made:
        when = f" on {made['DATETIME'][:10]}" if made.get("DATETIME") else ""
        by = made.get("SOFTWARE") or "dehazexl"
        yield (
            f"its tags say that it was dehazed before, by {by}{when}; done twice, haze that is not there is "
            "taken off, so give the original"
        )


def meaning(colour: str) -> str:
    """What GDAL's colour interpretation says of a band; nothing where it is undefined."""
    return {"undefined": "", "gray": "grey"}.get(colour, colour)


def _called(dataset: Any, band: int) -> str:
    """The description of a band, with its wavelength where its tags say it."""
    description = descriptions_of(dataset)[band - 1] or ""
    said = tags_of(dataset, band, "IMAGERY").get("CENTRAL_WAVELENGTH_UM")
    said = said or tags_of(dataset, band, "").get("wavelength")
    try:
        number = float(said or "")
    except ValueError:
        return description
    nanometres = number * 1000 if number < 100 else number  # no light has a wavelength of 100 micrometres
    return f"{description} {nanometres:.0f} nm".strip()


def _block_bytes(dataset: Any) -> int:
    """What decoding a single block takes, of all bands: as much as the image where it is one strip."""
    height, width = dataset.block_shapes[0]
    return int(height * width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize)


def _bits(dataset: Any) -> int | None:
    """The bits in use, where the file says that they are fewer than those of its integer type."""
    said = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "")
    dtype = np.dtype(dataset.dtypes[0])
    return int(said) if dtype.kind == "u" and said.isdecimal() and int(said) < 8 * dtype.itemsize else None


def require_decodable(path: str, dataset: Any) -> None:
    """Raises UnsupportedByGdal where GDAL opens a TIFF, then gives noise, nothing or one channel."""
    if dataset.driver != "GTiff":
        return
    if dataset.compression is Compression.jpeg and dataset.dtypes[0] != "uint8":
        raise UnsupportedByGdal(f"{path}: GDAL cannot decode JPEG of more than 8 bits", _CONVERT)
    said = dataset.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
    if len(dataset.subdatasets) > 1 and ("<OME " in said or said.startswith("ImageJ=")):
        raise UnsupportedByGdal(f"{path}: GDAL reads only the first of its channels", _CONVERT)


def _require_plausible_size(path: str, dataset: Any, dtype: str) -> None:
    """Raises InputError for a decompression bomb: gigabytes of pixels out of next to nothing."""
    unpacked = dataset.height * dataset.width * dataset.count * np.dtype(dtype).itemsize
    if dataset.driver not in _PACKED or unpacked < _MOST_UNPACKED_BYTES:
        return
    stored = sum(Path(name).stat().st_size for name in files_of_dataset(dataset) if Path(name).is_file())
    if 0 < stored < unpacked * stored_share(path, dataset) / _MOST_RATIO:
        raise InputError(
            f"{path}: {dataset.width} x {dataset.height} pixels in {stored} bytes are empty or an attack",
            "name the part that has content with --window, or take all of it with --any-size",
        )


def _require_bands(path: str, dataset: Any) -> None:
    inside = list(dataset.subdatasets)
    if dataset.count == 0 and inside:
        raise InputError(f"{path}: holds several rasters", f"name one of them: {', '.join(inside)}")
    if dataset.count == 0:
        raise InputError(f"{path}: has no bands", "name a raster that has pixels")
    if dataset.count > _MOST_BANDS:
        raise InputError(
            f"{path}: has {dataset.count} bands; more than {_MOST_BANDS} are not supported",
            "take out those you need: gdal_translate -b 1 -b 2 -b 3 IN OUT.tif",
        )
    if len(inside) > 1:
        log.warning("%s: holds %d rasters; the first is read (%s)", path, len(inside), inside[0])


def _require_one_type(path: str, dtypes: Sequence[str]) -> None:
    for dtype in dtypes:
        require_supported(path, widened(dtype))
    if len(set(dtypes)) > 1:
        raise InputError(
            f"{path}: its bands have different types ({', '.join(dtypes)})",
            "give all bands one type first: gdal_translate -ot TYPE IN OUT.tif",
        )


def _is_georeferenced(dataset: Any) -> bool:
    placed = not dataset.transform.is_identity or dataset.gcps[0] or dataset.rpcs
    return bool(placed or (dataset.crs and dataset.crs != CRS()))


def open_dataset(path: str, gdal: GdalSession, overview: int | None = None) -> Any:
    """Open a file, or one of its overviews, for reading, or raise InputError saying why it cannot be."""
    require_openable(path)
    options: dict[str, Any] = {} if overview is None else {"overview_level": overview}
    try:
        return gdal.open(path, **options)
    except GDAL_ERRORS as error:
        said = reason(error)
        if "missing codec" in said:
            raise UnsupportedByGdal(
                f"{path}: GDAL cannot decode its compression ({said})", _CONVERT
            ) from error
        raise why_not_opened(path, said) from error


def expansion_of(path: str, dataset: Any) -> Palette | Ink | None:
    """How the numbers of an open dataset become colours, if they are none."""
    if has_palette(dataset):
        return Palette(path, dataset)
    return Ink() if is_ink(dataset) else None


def expanded(info: RasterInfo, expansion: Palette | Ink) -> RasterInfo:
    """A raster of colours instead of the numbers of a colour table, or of inks."""
    alpha = RGBA if expansion.count == RGBA else None
    return replace(
        info,
        count=expansion.count,
        dtype=expansion.dtype,
        nodata=None,
        alpha=alpha,
        bits=None,
        scales=(),
        offsets=(),
        meanings=(),
        descriptions=(),
        notes=(*info.notes, expansion.note),
        indexed=isinstance(expansion, Palette) and expansion.count != GREY,
    )
