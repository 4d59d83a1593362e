"""The one rule for every path that is written, whether a raster, a report, a table or a log goes there.

A path is written if it is neither an input nor another output, no folder, socket or disk, and its folder
takes files; a file that is there is replaced only where that was said. Links are followed. A pipe or a
terminal takes documents as they are, and no rasters, which are not written from front to back.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path

from dehazexl_cli.errors import OutputError

STDOUT = 1
_MOST_LINKS = 40  # as many as Linux follows
_NAMED = {"-": STDOUT, "/dev/stdout": STDOUT, "/dev/stderr": 2}
_NUMBERED = re.compile(r"/(?:dev|proc/(?:self|\d+))/fd/(\d+)")
_VIRTUAL = re.compile(r"(?:/vsi[a-z0-9_]+(?:\?[^/]*)?/)+")
_ELSEWHERE = re.compile(r"/vsi|\w{2,}:/")  # GDAL's own systems and URLs, which are only read

AnyPath = str | PathLike[str]


def require_writable(
    path: AnyPath, overwrite: bool, apart: Iterable[AnyPath | None] = (), streams: bool = True
) -> None:
    """Raises OutputError unless a path may be written.

    `apart` are the inputs and the other outputs of the command, files or names that GDAL understands; None is
    none. Without `streams` a pipe or a device is refused as well.
    """
    if is_stream(path):
        if not streams:
            raise OutputError(f"{path}: is a pipe or a device, and what goes there is a file", "name a file")
        _require_open(path)
        return
    _require_here(path)
    _require_kind(path)
    require_apart(path, apart)
    if os.path.exists(path) and not overwrite:
        raise OutputError(f"{path}: exists already", "give another name, or --overwrite to replace it")
    require_folder(Path(os.path.realpath(path)).parent)


def require_all_writable(
    paths: Iterable[AnyPath], overwrite: bool, apart: Iterable[AnyPath | None] = ()
) -> None:
    """Raises OutputError unless every one of some paths may be written, and all of them are different."""
    taken = list(apart)
    for path in paths:
        require_writable(path, overwrite, taken)
        taken.append(path)


def require_apart(path: AnyPath, others: Iterable[AnyPath | None]) -> None:
    """Raises OutputError for a path to be written that is one of the others, or that one of them lies in."""
    for other in others:
        if other is not None and is_same(path, file_of(other)):
            raise OutputError(
                f"{path}: is another input or output of this command ({other})", "give it a name of its own"
            )


def require_folder(folder: Path) -> None:
    """Raises OutputError unless files can be made in a folder."""
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder", f"make it first: mkdir -p {folder}")
    import tempfile  # late, as every start of the command line loads this module

    try:
        # Asked of the system, as rights alone do not tell of a disk that is only for reading.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror})", "choose another folder or ask for the right"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; OutputError if that fails."""
    _require_here(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror})", "name another folder, or ask for the right"
        ) from error


def is_stream(path: AnyPath) -> bool:
    """Tell whether what is written to a path goes on as it comes: -, /dev/stdout, a pipe, a terminal."""
    mode = _mode(path)
    return descriptor_of(path) is not None or (
        mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))
    )


def descriptor_of(path: AnyPath) -> int | None:
    """Find the open file of this process that a name stands for: -, /dev/stdout, /dev/fd/63; else None."""
    name = os.fspath(path)
    for _ in range(_MOST_LINKS):
        if name in _NAMED:
            return _NAMED[name]
        name = os.path.abspath(name)
        numbered = _NUMBERED.fullmatch(name)
        if numbered or name in _NAMED:
            return int(numbered[1]) if numbered else _NAMED[name]
        try:
            name = os.path.join(os.path.dirname(name), os.readlink(name))
        except (OSError, ValueError):
            return None
    return None


def is_same(path: AnyPath, other: AnyPath) -> bool:
    """Tell whether two names are of one file, there or not."""
    with suppress(OSError, ValueError):
        if os.path.samefile(path, other):
            return True
    return os.path.realpath(path) == os.path.realpath(other)


def file_of(name: AnyPath) -> str:
    """Find the file that a name of GDAL's lies in: of /vsizip/a.zip/b.tif a.zip, of GPKG:a.gpkg:b a.gpkg."""
    text = os.fspath(name)
    if os.path.exists(text):
        return text
    virtual = _VIRTUAL.match(text)
    candidates = [text[virtual.end() :]] if virtual else text.split(":")
    for candidate in candidates:
        inner = candidate.strip('"{')
        for each in (inner, f"/{inner}"):
            while each.strip("/"):
                if os.path.isfile(each):
                    return each
                each = os.path.dirname(each).rstrip("}")
    return text


def keep_rights(old: Path, new: Path) -> None:
    """Give a file that is to replace another the other's owner, group, mode, ACL and attributes of users.

    What the system does not let is left out.
    """
    try:
        facts = old.stat()
    except OSError:
        return  # there is none
    if hasattr(os, "chown"):
        for owner in (facts.st_uid, -1):  # who may not give files away may still share them with a group
            with suppress(OSError):
                os.chown(new, owner, facts.st_gid)
                break
    with suppress(OSError, AttributeError):  # only Linux has them here
        for name in os.listxattr(old):
            if name.startswith(("system.", "user.")):  # others may be of what the file held
                with suppress(OSError):
                    os.setxattr(new, name, os.getxattr(old, name))
    with suppress(OSError):
        new.chmod(stat.S_IMODE(facts.st_mode))


def _require_open(path: AnyPath) -> None:
    known = descriptor_of(path)
    try:
        if known is not None:
            os.fstat(known)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", "name a file") from error


def _require_here(path: AnyPath) -> None:
    if _ELSEWHERE.match(os.fspath(path)) and not os.path.isdir(os.path.dirname(path)):
        raise OutputError(
            f"{path}: is no place on this machine's disks", "write to one that is, and copy it from there"
        )


def _require_kind(path: AnyPath) -> None:
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path}: is a folder", f"name a file, such as {Path(path) / 'out.tif'}")
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path}: is a socket or a disk, and no file", "name a file")


def _mode(path: AnyPath) -> int | None:
    """The kind of a file, links followed; None if there is none."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long or has a NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"{path}: cannot be written ({why})", "give it another name") from error


def is_gdal_name(name: str) -> bool:
    """Whether it is no file's name but one that GDAL understands: /vsizip/…, https://…, GPKG:file:table."""
    return name.startswith("/vsi") or ":" in os.path.splitdrive(name)[1]
