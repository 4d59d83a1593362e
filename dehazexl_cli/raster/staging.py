"""Half a file is no file: written beside its target under another name, renamed when it is complete."""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dehazexl_cli.errors import OutputError
from dehazexl_cli.owner import Owner, remove, tidy

log = logging.getLogger(__name__)

# GDAL reads these with the file whose full name they extend, whoever wrote them.
_SIDE_FILES = (".aux.xml", ".msk", ".ovr", ".msk.ovr")
_LONGEST_NAME = 255  # bytes, on every usual file system
_LONGEST_ENDING = max(map(len, _SIDE_FILES))


class Staging:
    """Temporary names for a file, its side files and folders and what is needed on the way; only names.

    They lie beside the target, or in `tmp_dir`, which may be on another file system. Raises OutputError,
    here and again in `publish`, if the target exists and is not to be overwritten, or a folder cannot be
    written. A symbolic link is followed, so the link stays and its file is replaced. What processes that
    were killed have left in these folders is removed.
    """

    def __init__(self, target: str, overwrite: bool, tmp_dir: str | None = None) -> None:
        require_usable_name(target)
        self.target = Path(os.path.realpath(target))
        self.folder = self.target.parent if tmp_dir is None else Path(os.path.realpath(tmp_dir))
        self._overwrite = overwrite
        self._require_free()
        # Side files are named after the stem or the whole name; with the result's stem unlike any other
        # file's, both kinds are found and renamed by it.
        self._prefix = f".{self.target.stem[:30]}{Owner.this().mark()}"
        self.result = self.folder / f"{self._prefix}part{self.target.suffix}"
        self.scratch = self.folder / f"{self._prefix}rows.tif"
        for folder in {self.folder, self.target.parent}:
            self._require_writable(folder)
            tidy(folder)

    def publish(self, stale: Iterable[Path]) -> None:
        """Give result and side files their names, the result last; then remove the stale ones of before.

        Raises OutputError; then no new file has stayed.
        """
        self._require_free()
        stale = {*stale, *self._side_files_of_target()}
        moved: list[Path] = []
        try:
            result, sides = self._brought_home()
            for side in sides:
                for old, new in self._renames(side):
                    os.replace(old, new)
                    moved.append(new)
            os.replace(result, self.target)
        except BaseException as error:
            _remove(moved)
            if isinstance(error, OSError):
                raise self.failure(error.strerror or str(error)) from error
            raise
        _remove(stale.difference(moved))

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

    def _side_files_of_target(self) -> list[Path]:
        return [self._beside(self.target.name + suffix) for suffix in _SIDE_FILES]

    def _require_free(self) -> None:
        if self.target.is_dir():
            raise OutputError(
                f"{self.target}: is a folder", f"name a file, such as {self.target / 'out.tif'}"
            )
        if self._overwrite:
            return
        for path in [self.target, *self._side_files_of_target()]:
            if path.exists():
                raise OutputError(
                    f"{path}: exists already", "give another name, or --overwrite to replace it"
                )

    def _require_writable(self, folder: Path) -> None:
        if not folder.is_dir():
            raise OutputError(f"{folder}: no such folder", f"make it first: mkdir -p {folder}")
        try:
            # Asked of the system, as GDAL does not say why; GDAL then makes the file itself.
            trial = folder / self.result.name
            handle = os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            try:
                os.close(handle)
            finally:
                trial.unlink()
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written ({error.strerror})",
                "choose another folder or ask for the right",
            ) from error


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
