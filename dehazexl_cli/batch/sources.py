"""Which scenes a batch is made of, and where the result of each goes."""

from __future__ import annotations

import csv
import fnmatch
import glob
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.paths import is_gdal_name
from dehazexl_cli.text import decoded, name_of

# A folder's files with other endings are not looked at: most of them go with a raster, and are none.
SUFFIXES = frozenset(
    {".bmp", ".img", ".j2k", ".jp2", ".jpeg", ".jpg", ".ntf", ".png", ".tif", ".tiff", ".vrt", ".webp"}
)
PICTURES = frozenset({".bmp", ".gif"})  # that cannot be written; their results are PNG files
STDIN = "-"
SOURCE_COLUMNS = ("input", "source", "path", "file")
TARGET_COLUMNS = ("output", "target")


@dataclass(frozen=True)
class Scene:
    """One image of a batch."""

    source: str  # a path, or a name that GDAL understands
    target: Path
    size: int  # bytes of its file; 0 where that is not known


@dataclass(frozen=True)
class Naming:
    """Where results go: the tree of the sources again, below a folder."""

    folder: Path
    suffix: str = ""  # put behind the stem of every name
    format: str | None = None  # as --format takes it; None: that of the source, if it can be written
    base: Path | None = None  # where the tree of the sources begins; None: see `collect`

    def target(self, place: PurePath) -> Path:
        """Where the result of a source goes that lies at `place` in its tree."""
        endings = endings_of(self.format)
        ending = place.suffix
        if ending.lower() not in endings:
            by_kind = ".png" if ending.lower() in PICTURES else ".tif"
            ending = by_kind if self.format is None else endings[0]
        return self.folder / place.with_name(place.stem + self.suffix + ending)


@cache
def endings_of(format: str | None) -> tuple[str, ...]:
    """The endings that results may have; UsageError for a format that is none, or not one for many."""
    from dehazexl_cli.raster.formats import FORMATS, choose_format

    if format is not None:
        chosen = choose_format("", format)
        if chosen not in FORMATS:
            raise UsageError(
                f"--format {format} is for one image", "write GeoTIFFs, or: dehazexl run IN OUT.vrt"
            )
        return chosen.suffixes
    return tuple(ending for each in FORMATS for ending in each.suffixes)


class Found(NamedTuple):
    """A source and its place in the tree of sources; `target` if its list says where the result goes."""

    source: str
    place: PurePath
    target: PurePath | None = None


def collect(
    inputs: Sequence[str], listed: Sequence[Found], naming: Naming, exclude: Sequence[str] = ()
) -> list[Scene]:
    """The scenes of files, folders, patterns and lists, each once, in a fixed order, but those excluded.

    A folder's tree begins at the folder, a pattern's where its first wildcard is, a list's in the current
    folder, and a single file has none, unless `naming.base` says where all of them begin. Raises InputError
    where there is nothing, UsageError where two sources would become one file, OutputError where a result
    would replace its source.
    """
    found = [each for name in inputs for each in expand(name, naming.folder)] + list(listed)
    kept = [each for each in found if not is_excluded(each.place, exclude)]
    if found and not kept:
        raise InputError(f"--exclude leaves nothing of {len(found)} images", "exclude less")
    scenes = list(unique(placed(each, naming) for each in kept))
    targets = {os.path.realpath(scene.target) for scene in scenes}
    for scene in scenes:
        if os.path.realpath(scene.source) == os.path.realpath(scene.target):
            raise OutputError(
                f"{scene.source}: its result would take its place",
                "name another OUT_DIR, or add something to the names with --suffix",
            )
    # In a folder that holds both, what a batch has made before is no source.
    named = {each.source for each in listed} | {name for name in inputs if is_named(name)}
    for scene in scenes:
        if os.path.realpath(scene.source) in targets and not (
            scene.source not in named and is_result(scene.source, naming.folder)
        ):
            raise OutputError(
                f"{scene.source}: the result of another image would take its place",
                "name another OUT_DIR, or another --suffix",
            )
    scenes = [scene for scene in scenes if os.path.realpath(scene.source) not in targets]
    if not scenes:
        raise InputError(f"no image in {', '.join(inputs) or 'the list'}", nothing_found(inputs))
    return scenes


def is_excluded(place: PurePath, patterns: Sequence[str]) -> bool:
    """Whether a pattern as of a shell fits a file's place in its tree, or its name or that of a folder."""
    names = (str(place), *place.parts)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def nothing_found(inputs: Sequence[str]) -> str:
    """What to do where no image was found."""
    if any(os.path.isdir(name) for name in inputs):
        return (
            f"folders are searched for {', '.join(sorted(SUFFIXES))}; others by name or pattern: 'DIR/**/*.x'"
        )
    return "name files, folders, patterns in quotes, or a list with --from-file"


def is_named(name: str) -> bool:
    """Tell whether an argument is the name of one image: no folder, and no pattern."""
    return not os.path.isdir(name) and (os.path.exists(name) or not glob.has_magic(name))


def is_result(path: str, out: Path) -> bool:
    """Tell whether an image is what a batch has made before, by its tags or by its report."""
    from dehazexl_cli.batch.log import FOLDER, is_report, origin_in_tags

    inside = below(path, out)
    report = None if inside is None else out / FOLDER / "reports" / f"{inside}.json"
    return (report is not None and is_report(report)) or origin_in_tags(Path(path)) is not None


def expand(name: str, out: Path) -> Iterator[Found]:
    """The files that an argument means; InputError if there are none."""
    if os.path.isdir(name):
        yield from files_below(name, out)
    elif os.path.exists(name) or (is_gdal_name(name) and not glob.glob(name, recursive=True)):
        # What a server or a container holds is no pattern, though its name may have a ? in it.
        yield Found(name, PurePath(name_of(name)))
    elif glob.has_magic(name):
        root = fixed_part(name)
        # A pattern that names an ending means just that, whatever it is.
        ending = PurePath(name).suffix
        any_kind = bool(ending) and not glob.has_magic(ending)
        matches = sorted(
            path
            for path in glob.glob(name, recursive=True)
            if os.path.isfile(path) and (any_kind or PurePath(path).suffix.lower() in SUFFIXES)
        )
        if not matches:
            raise InputError(f"{name}: no file fits this pattern", "check it with: ls")
        for path in matches:
            yield Found(path, PurePath(os.path.relpath(path, root)))
    else:
        raise InputError(f"{name}: no such file or folder", "check the spelling")


def files_below(folder: str, out: Path) -> Iterator[Found]:
    """The images of a folder and those inside it, but nothing hidden, no parts of a VRT, and no results."""
    from dehazexl_cli.raster.formats import VRT
    from dehazexl_cli.raster.mosaic import PARTS

    (vrt,) = VRT.suffixes
    results = os.path.realpath(out)
    for here, folders, names in os.walk(folder):
        parted = {name.removesuffix(vrt) + PARTS for name in names if name.endswith(vrt)}
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in parted
            and os.path.realpath(os.path.join(here, name)) != results
        )
        for name in sorted(names):
            path = os.path.join(here, name)
            if (
                PurePath(name).suffix.lower() in SUFFIXES
                and not name.startswith(".")
                and os.path.isfile(path)
            ):
                yield Found(path, PurePath(os.path.relpath(path, folder)))


def fixed_part(pattern: str) -> str:
    """The folder of a pattern that has no wildcard yet."""
    parts = PurePath(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return os.path.join(*parts[:fixed]) if fixed else "."


def placed(found: Found, naming: Naming) -> Scene:
    """The scene of a source; UsageError if it lies outside the folder where the tree begins."""
    source = found.source
    size = os.path.getsize(source) if os.path.isfile(source) else 0
    if found.target is not None:
        return Scene(source, naming.folder / found.target, size)
    place = found.place
    if naming.base is not None and not is_gdal_name(source):
        inside = below(source, naming.base)
        if inside is None:
            raise UsageError(
                f"{source} is not inside --base {naming.base}", "name a folder above all sources"
            )
        place = inside
    return Scene(source, naming.target(place), size)


def below(path: str, folder: str | Path) -> PurePath | None:
    """The way from a folder to a path inside it, None for one outside."""
    place = PurePath(os.path.relpath(path, folder))
    return None if place.parts[:1] == ("..",) or place.is_absolute() else place


def unique(scenes: Iterable[Scene]) -> Iterator[Scene]:
    """Each scene once; UsageError where two become one file, also where a disk does not tell A from a."""
    seen: dict[str, str] = {}
    for scene in scenes:
        other = seen.setdefault(str(scene.target).casefold(), scene.source)
        if other is scene.source:
            yield scene
        elif os.path.realpath(other) != os.path.realpath(scene.source):
            raise UsageError(
                f"{other} and {scene.source} would both become {scene.target}",
                "say with --base where their folders part, or list them in a CSV with a column output",
            )


def read_list(name: str, nul: bool) -> list[Found]:
    """The sources in a list: a name a line, or a NUL behind each; or a CSV with a column input.

    Relative names count from the current folder. Raises InputError if it cannot be read, UsageError for a
    CSV that does not say what is what.
    """
    try:
        content = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"the list {name} cannot be read ({error.strerror})", "check its name") from error
    text = decoded(content)
    if name.lower().endswith((".csv", ".tsv")):
        return list(rows_of(name, text))
    names = text.split("\0") if nul else map(unquoted, re.split(r"\r\n|\n|\r", text))
    return [Found(each, place_of(each)) for each in names if each]


def unquoted(line: str) -> str:
    """A name without the quotes that Windows puts around one that was copied as a path."""
    quoted = len(line) > 2 and line[0] == line[-1] == '"' and not os.path.exists(line)
    return line[1:-1] if quoted else line


def place_of(name: str) -> PurePath:
    """Where a listed source lies below the current folder; its bare name if it lies elsewhere."""
    inside = None if is_gdal_name(name) else below(name, ".")
    return PurePath(name_of(name)) if inside is None else inside.with_name(name_of(name))


def rows_of(name: str, text: str) -> Iterator[Found]:
    """The sources of a CSV, with the names of their results if it has a column for them.

    Columns are parted by commas, semicolons or tabs, whichever the first line has most of.
    """
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), **dialect_of(text))]
    except csv.Error as error:
        raise UsageError(f"{name} is no CSV ({error})", "save it again as CSV, in UTF-8") from error
    rows = [row for row in rows if any(row)]
    if rows and rows[0][0].lower().startswith("sep="):  # for Excel
        rows = rows[1:]
    columns = {column.lower(): index for index, column in reversed([*enumerate(rows[0] if rows else ())])}
    source = next((columns[key] for key in SOURCE_COLUMNS if key in columns), None)
    target = next((columns[key] for key in TARGET_COLUMNS if key in columns), None)
    if source is None:
        raise UsageError(
            f"{name} has no column of sources", f"its first line must name one: {', '.join(SOURCE_COLUMNS)}"
        )
    for row in rows[1:]:
        if row[source : source + 1] not in ([], [""]):
            named = row[target] if target is not None and target < len(row) else ""
            wanted = PurePath(named) if named else None
            if wanted is not None and (wanted.is_absolute() or ".." in wanted.parts):
                raise UsageError(f"{name}: {wanted} is outside OUT_DIR", "name results inside of it")
            yield Found(row[source], place_of(row[source]), wanted)


def dialect_of(text: str) -> dict[str, Any]:
    """How the columns of a CSV are parted, as the first line tells that is not empty."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.lower().startswith("sep="):
        return {"delimiter": first[4:5] or ","}
    return {"delimiter": max(",;\t", key=first.count)}
