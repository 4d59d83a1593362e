"""Half a file is no file: written beside its target under another name, renamed when it is complete."""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dehazexl_cli.atomic import ProcessId, remove, remove_orphans_once
from dehazexl_cli.errors import OutputError
from dehazexl_cli.paths import keep_rights, require_folder, require_writable
from dehazexl_cli.raster.side_files import own_side_files

log = logging.getLogger(__name__)

_LONGEST_NAME = 255  # bytes, on every usual file system
_LONGEST_ENDING = max(len(path.name) - 1 for path in own_side_files(Path("x")))


class Staging:
    """Temporary names for a file, its side files and folders and what is needed on the way; only names.

    They lie beside the target, or in `tmp_dir`, which may be on another file system. Raises OutputError,
    here and again in `publish`, if the target exists and is not to be overwritten, or a folder cannot be
    written. A symbolic link is followed, so the link stays and its file is replaced. What processes that
    were killed have left in these folders is removed.
    """

    def __init__(self, target: str, overwrite: bool, tmp_dir: str | None = None) -> None:
        require_usable_name(target)
        require_writable(target, overwrite, streams=False)
        self.target = Path(os.path.realpath(target))
        self.folder = self.target.parent if tmp_dir is None else Path(os.path.realpath(tmp_dir))
        self.overwrite = overwrite
        self._require_free()
        # Side files are named after the stem or the whole name; with the result's stem unlike any other
        # file's, both kinds are found and renamed by it.
        self._prefix = f".{self.target.stem[:30]}{ProcessId.this().mark()}"
        self.result = self.folder / f"{self._prefix}part{self.target.suffix}"
        self.scratch = self.folder / f"{self._prefix}rows.tif"
        self.trial = self.folder / f"{self._prefix}near"
        require_folder(self.folder)
        for folder in {self.folder, self.target.parent}:
            remove_orphans_once(folder)

    def publish(self, stale: Iterable[Path]) -> None:
        """Give result and side files their names, the result last; then remove the stale ones of before.

        Raises OutputError; then no new file has stayed, and every old one is there. Only what is stale is
        replaced. A result that replaces another has its mode, owner and ACL.
        """
        self._require_free()
        stale = {*stale, *own_side_files(self.target)}
        moved: list[Path] = []
        aside: dict[Path, Path] = {}  # old side files, and where they are until the result has its name
        try:
            result, sides = self._brought_home()
            for old, new in [pair for side in sides for pair in self._renames(side)]:
                if os.path.lexists(new):
                    if new not in stale:
                        raise FileExistsError(17, f"{new} is in the way")
                    keep_rights(new, old)
                    aside[new] = self._beside(f"{self._prefix}old{len(aside)}")
                    os.replace(new, aside[new])
                os.replace(old, new)
                moved.append(new)
            keep_rights(self.target, result)
            os.replace(result, self.target)
        except BaseException as error:
            _remove(moved)
            for path, kept in aside.items():
                with suppress(OSError):  # as where it had not left its place yet
                    os.replace(kept, path)
            if isinstance(error, OSError):
                raise self.failure(error.strerror or str(error)) from error
            raise
        _remove(stale.difference(moved).union(aside.values()))

    def discard(self) -> None:
        """Remove every temporary."""
        for folder in {self.folder, self.target.parent}:
            _remove(_found(folder, self._prefix))

    def failure(self, why: str) -> OutputError:
        """The error to raise when writing did not work."""
        return OutputError(
            f"{self.target}: cannot be written ({why})", "free some space or choose another folder"
        )

    def written(self) -> list[Path]:
        """The result and its side files, as far as there are any yet."""
        return _found(self.folder, self.result.stem)

    def _beside(self, name: str) -> Path:
        return self.target.parent / name

    def _renames(self, side: Path) -> list[tuple[Path, Path]]:
        """From which to which name; what is in a folder joins what an older result still needs."""
        name = self._beside(self.target.stem + side.name[len(self.result.stem) :])
        if side.is_dir() and name.is_dir():
            return [(inner, name / inner.name) for inner in side.iterdir()]
        return [(side, name)]

    def _brought_home(self) -> tuple[Path, list[Path]]:
        """The result and its side files, whole on the target's disk, still under their temporary names."""
        home = []
        for path in self.written():
            home.append(self._beside(path.name))
            if self.folder != self.target.parent:
                shutil.move(path, home[-1], copy_function=shutil.copyfile)
        for path in home:
            for file in [path, *path.rglob("*")]:
                if file.is_file():
                    _settle(file)
        result = self._beside(self.result.name)
        return result, [path for path in home if path != result]

    def _require_free(self) -> None:
        """Raises OutputError if the target or a side file that is its alone is there and is to stay."""
        for path in [self.target, *own_side_files(self.target)]:
            require_writable(path, self.overwrite, streams=False)


def require_usable_name(target: str) -> None:
    """Raises OutputError, before any work, for a name that GDAL cannot give to a file and its side files."""
    name = os.path.basename(target)
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise OutputError(
            f"{target}: the name is not in UTF-8, and GDAL writes no other", "name another OUT"
        ) from None
    if length + _LONGEST_ENDING > _LONGEST_NAME:
        raise OutputError(
            f"{name[:40]}…: the name is too long: {length} bytes, and its side files' names are longer",
            f"give OUT a name of at most {_LONGEST_NAME - _LONGEST_ENDING} bytes",
        )


def _found(folder: Path, prefix: str) -> list[Path]:
    return sorted(folder.glob(glob.escape(prefix) + "*"))


def _settle(path: Path) -> None:
    """Wait until the file is on the disk: network file systems report a full one only then."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            remove(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", path, error.strerror)
