"""Side files: what lies beside a raster and is read with it, and whose it is.

All that a run writes beside OUT has OUT's whole name and more (OUT.tif.aux.xml), so that no other raster
reads it; creation options may ask for more. Files that have only its stem (world files, .IMD, _RPC.TXT) or
the name of a product (…_MTL.txt, DIM_….XML) may be another's: they stay, unless they are OUT's alone, would
say of it what is not so, and may be replaced. Which of them GDAL reads with a raster of that format and name,
and what they then say, is tried out on a small one.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
from rasterio import Affine

from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster.session import GdalSession
from dehazexl_cli.raster.snapshot import in_words, metadata_snapshot, missing_fields

# GDAL reads these with the raster whose whole name they extend, whoever wrote them.
_OF_WHOLE_NAMES = (".aux.xml", ".msk", ".ovr", ".msk.ovr")
# Behind the stem of a raster, or in names of products; GDAL reads many of them, whatever their case.
_BEHIND_STEMS = re.compile(r"\.[^.]+|_(?:rpc|metadata)\.[^.]+|\.[^.]+\.aux")
_OF_PRODUCTS = re.compile(
    r"(?:dim|rpc)_.+\.xml|.+_mtl\.(?:txt|xml)|(?:hdr|rpc)-.+|summary\.txt|.+_metadata\.(?:xml|txt)"
)
_WORLD_FILE = re.compile(r"\.(?P<first>[a-z])[a-z0-9]*?(?P<last>[a-z0-9])w")
# These go with a raster of their stem and are none, so they need no side files.
_COMPANIONS = (
    *(
        ".aux",
        ".cpg",
        ".csv",
        ".eph",
        ".html",
        ".imd",
        ".json",
        ".lgo",
        ".log",
        ".md",
        ".prj",
        ".pvl",
        ".qgz",
    ),
    *(".qml", ".qpj", ".rpb", ".rpc", ".sld", ".tab", ".til", ".txt", ".wld", ".xml", ".yaml", ".zip"),
)
_RASTERS = (
    *(".bmp", ".gif", ".img", ".j2k", ".jp2", ".jpeg", ".jpg", ".nc", ".ntf", ".png", ".tif", ".tiff"),
    *(".vrt", ".webp"),
)
# Whatever somebody has set here for speed, others will read what lies there.
_AS_OTHERS_READ = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
    "GDAL_GEOREF_SOURCES": "PAM,INTERNAL,TABFILE,WORLDFILE",
    "GDAL_PAM_ENABLED": "YES",
}


class _Said(NamedTuple):
    """What GDAL says of a raster, and the names of the files it says it by."""

    fields: dict[str, Any]
    names: frozenset[str]


def own_side_files(raster: Path) -> list[Path]:
    """List the names of side files that are this raster's alone, there or not."""
    return [raster.with_name(raster.name + suffix) for suffix in _OF_WHOLE_NAMES]


def settle(
    target: Path, overwrite: bool, write_sample: Callable[[Path], None], trial: Path, gdal: GdalSession
) -> set[Path]:
    """Decide about all that lies beside a raster to be; returns what goes when the raster gets its name.

    `write_sample` makes a small raster of a given name, with the side files that the raster will have, which
    says all that it will say; `trial` is a folder for it that is not there yet. Raises OutputError, with the
    name, for a file that is in the way, that other rasters would read as well, or that would say something
    else of the raster.
    """
    stale = {path for path in own_side_files(target) if os.path.lexists(path)}
    near = _neighbours(target)
    if not (near or _others_of_the_stem(target)):
        return stale
    with _folder(trial):
        sample = trial / target.name
        write_sample(sample)
        stale |= _in_the_way(target, os.listdir(trial), near, overwrite)
        meant = _said(sample, gdal)
        staying = [path for path in near if path not in stale]
        for path in staying:
            _show(path, trial / path.name)
        while changed := _changed(meant, said := _said(sample, gdal)):
            guilty = {path for path in staying if path.name in said.names}
            for path in guilty or staying:
                if not (overwrite and is_alone(path, target)):
                    raise OutputError(
                        f"{path}: would be read with {target.name} and say something else of it "
                        f"({in_words(changed)})",
                        "give OUT another name or folder, or move that file away",
                    )
                (trial / path.name).unlink()
            stale |= guilty
            staying = [path for path in staying if path not in guilty]
    return stale


def is_alone(side_file: Path, raster: Path) -> bool:
    """Tell whether a side file is named after this raster and after no other file that might need it."""
    if side_file.name.startswith(raster.name):
        return True
    if not side_file.name.casefold().startswith(raster.stem.casefold()):
        return False
    others = {Path(name).suffix.casefold() for name in _others_of_the_stem(raster) if name != side_file.name}
    return not any(_may_read(suffix, side_file.suffix.casefold()) for suffix in others)


def write_world_file(raster: Path, transform: Affine) -> None:
    """Write a world file beside a raster, of a name that no other format reads, and with all digits.

    GDAL's NAME.wld is read with any raster NAME, and it rounds; a PNG's place would then be the rounded one.
    """
    col, row = transform @ (0.5, 0.5)
    col = _that_gives(transform.c, col, (transform.a, transform.b))
    row = _that_gives(transform.f, row, (transform.d, transform.e))
    numbers = (transform.a, transform.d, transform.b, transform.e, col, row)
    ending = raster.suffix[1] + raster.suffix[-1] + "w"
    text = "".join(f"{float(number)!r}\n" for number in numbers)
    raster.with_suffix(f".{ending}").write_text(text, encoding="ascii")


def _that_gives(corner: float, middle: float, steps: tuple[float, float]) -> float:
    """The middle of a pixel from which GDAL computes just this corner; rounding may miss it by a bit."""
    for near in (middle, math.nextafter(middle, math.inf), math.nextafter(middle, -math.inf)):
        if near - 0.5 * steps[0] - 0.5 * steps[1] == corner:
            return near
    return middle


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    path.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _show(path: Path, name: Path) -> None:
    """Have a file under another name as well."""
    try:
        name.symlink_to(path.absolute())
    except OSError:  # a disk without links
        shutil.copyfile(path, name)


def _others_of_the_stem(raster: Path) -> list[str]:
    """The names of files beside a raster that differ from its own in their suffix alone."""
    stem = raster.stem.casefold()
    return [
        name
        for name in os.listdir(raster.parent)
        if Path(name).stem.casefold() == stem and name != raster.name
    ]


def _neighbours(raster: Path) -> list[Path]:
    """Files that may be side files of a raster of that name, but not by its whole name."""
    own = {path.name for path in own_side_files(raster)} | {raster.name}
    stem, found = raster.stem.casefold(), []
    for name in sorted(os.listdir(raster.parent)):
        small = name.casefold()
        of_stem = small.startswith(stem) and _BEHIND_STEMS.fullmatch(small[len(stem) :])
        if (
            (of_stem or _OF_PRODUCTS.fullmatch(small))
            and Path(small).suffix not in _RASTERS
            and name not in own
        ):
            path = raster.parent / name
            if path.is_file():
                found.append(path)
    return found


def _in_the_way(target: Path, written: Iterable[str], near: Sequence[Path], overwrite: bool) -> set[Path]:
    """Files that a run replaces; OutputError if it may not, or if other rasters would read what it writes."""
    by_name = {path.name.casefold(): path for path in near}
    replaced = set()
    for name in written:
        path = by_name.get(name.casefold(), target.parent / name)
        if not is_alone(path, target):
            raise OutputError(
                f"{path}: other rasters there would read it as well as {target.name}",
                "leave out the --co that asks for it, or give OUT another name or folder",
            )
        if path in near:
            if not overwrite:
                raise OutputError(
                    f"{path}: exists already", "give another name, or --overwrite to replace it"
                )
            replaced.add(path)
    return replaced


def _may_read(suffix: str, side_file: str) -> bool:
    """Whether a file of a suffix may be a raster that reads such a side file."""
    if suffix in _COMPANIONS or _WORLD_FILE.fullmatch(suffix):
        return False
    world = _WORLD_FILE.fullmatch(side_file)
    return world is None or (suffix[1:2], suffix[-1:]) == (world["first"], world["last"])


def _said(raster: Path, gdal: GdalSession) -> _Said:
    with gdal(), rasterio.Env(**_AS_OTHERS_READ), gdal.open(str(raster)) as dataset:
        return _Said(metadata_snapshot(dataset), frozenset(Path(name).name for name in dataset.files))


def _changed(meant: _Said, said: _Said) -> list[str]:
    return sorted({*missing_fields(meant.fields, said.fields), *missing_fields(said.fields, meant.fields)})
