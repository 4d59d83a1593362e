"""Why a raster cannot be opened, and what to do: GDAL calls "not recognized" what has a better name."""

from __future__ import annotations

import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

from dehazexl_cli.errors import InputError

ARCHIVES = {".zip": "vsizip", ".kmz": "vsizip", ".tar": "vsitar", ".tgz": "vsitar", ".tar.gz": "vsitar"}
RASTERS = (".tif", ".tiff", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".vrt", ".ntf")
OUTLINES = (".shp", ".geojson", ".json", ".kml", ".gml", ".fgb", ".dxf", ".gpx")
CREDENTIALS = "give GDAL the credentials for it, or the option for what is public, as AWS_NO_SIGN_REQUEST=YES"


class Remedy(NamedTuple):
    """What a message of GDAL's means, and what to do about it."""

    said: str  # a regular expression
    what: str
    hint: str


REMEDIES = (
    Remedy(
        r"(?i)HTTP response code: *40[13]|AccessDenied|Forbidden|Unauthorized|InvalidAccessKey|SignatureDoes"
        r"|configuration options? (not defined|or)|ExpiredToken|credentials",
        "access was refused",
        CREDENTIALS,
    ),
    Remedy(
        r"(?i)HTTP response code: *(404|410)|NoSuchKey|NoSuchBucket|NotFound",
        "there is no such file on the server",
        "check the address",
    ),
    Remedy(
        r"(?i)HTTP response code: *(429|5\d\d)|HTTP error code *: *(429|5\d\d)",
        "the server could not answer",
        "try again later, or copy the file to this machine first",
    ),
    Remedy(
        r"(?i)CURL error|Could not resolve|timed? ?out|SSL|certificate",
        "the server cannot be reached",
        "check the address and the network, or copy the file to this machine first",
    ),
    Remedy(r"(?i)Cannot find (table|sub)", "it holds no such raster", "see what it holds: gdalinfo FILE"),
    Remedy(
        r"(?i)Permission denied",
        "it may not be read",
        "ask for the right to read it, or copy it to where you have that",
    ),
)


def require_openable(path: str) -> None:
    """Raises InputError for what GDAL must not be given.

    It would wait for a pipe, and read a device for ever; it takes no names but those in UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{path}: the name is not in UTF-8, and GDAL opens no other",
            "rename the file, or link to it",
        ) from None
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # no such file: a URL, /vsizip/…, or a name with a NUL
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
        raise InputError(f"{path}: is no file but a pipe or a device", "save it as a file first")


def why_not_opened(path: str, said: str) -> InputError:
    """The error to raise where GDAL does not open a name, and said why in its own words."""
    on_this_machine = ":" not in os.path.splitdrive(path)[1]  # else a URL or GPKG:file:table
    if on_this_machine and not path.startswith("/vsi"):
        found = why_not_a_file(path)
        if found is not None:
            return found
    for remedy in REMEDIES:
        if re.search(remedy.said, said):
            return InputError(f"{path}: {remedy.what} ({said})", remedy.hint)
    if path.startswith("/vsi"):
        return InputError(
            f"{path}: there is no such raster ({said})",
            "check the name; inside an archive, folders count too",
        )
    if not on_this_machine:
        return InputError(f"{path}: cannot be opened as a raster ({said})", "check the name with gdalinfo")
    return InputError(
        f"{path}: cannot be opened as a raster ({said})",
        "it is damaged, incomplete or of a format that GDAL does not read; try gdalinfo on it",
    )


def missing(path: str) -> InputError:
    """The error to raise for a name that no file has."""
    if len(os.fsencode(os.path.basename(path))) > 255:
        return InputError(f"{path}: no file has so long a name", "check the spelling")
    return InputError(f"{path}: no such file", "check the spelling and the folder")


def why_not_a_file(path: str) -> InputError | None:
    """What keeps a name on this machine from being a raster, as far as can be seen without GDAL."""
    if not os.path.exists(path):
        return missing(path)
    if os.path.isdir(path):
        return InputError(f"{path}: is a folder, not a raster", "name a file in it")
    if not os.access(path, os.R_OK):
        return InputError(f"{path}: may not be read", "ask for the right to, or: chmod u+r FILE")
    if os.path.getsize(path) == 0:
        return InputError(f"{path}: the file is empty", "copy or download it again")
    lower = path.lower()
    prefix = next((prefix for ending, prefix in ARCHIVES.items() if lower.endswith(ending)), None)
    if prefix is not None:
        inside = next(rasters_in(path), "FILE.tif")
        return InputError(
            f"{path}: is an archive, not a raster", f"name what is in it: /{prefix}/{path}/{inside}"
        )
    if lower.endswith(OUTLINES):
        return InputError(
            f"{path}: holds outlines or points, and no raster",
            "draw them into one: gdal_rasterize -burn 1 -te … -ts … FILE OUT.tif",
        )
    if lower.endswith(".gz"):
        return InputError(f"{path}: is packed", f"name it /vsigzip/{path}, or unpack it, which is faster")
    return None


def rasters_in(archive: str) -> Iterator[str]:
    """Names of rasters in an archive, as far as it can be read."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                yield from (name for name in packed.namelist() if name.lower().endswith(RASTERS))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                yield from (name for name in tar.getnames() if name.lower().endswith(RASTERS))
    except (OSError, zipfile.BadZipFile, tarfile.TarError):
        return
