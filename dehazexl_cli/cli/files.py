"""Documents that commands write beside rasters: tables, pages, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dehazexl_cli.errors import OutputError


def write_whole(path: Path, content: str | bytes, hint: str) -> None:
    """The file as a whole or not at all; OutputError, with the hint, if that fails."""
    with staged({path: content.encode() if isinstance(content, str) else content}, hint):
        pass


def require_new(paths: Iterable[Path], overwrite: bool) -> None:
    """Raises OutputError for a file that is there, unless it may be replaced."""
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already", "give another name, or --overwrite to replace it")


@contextmanager
def staged(contents: Mapping[Path, bytes], hint: str) -> Iterator[None]:
    """Files that get their names if what is done inside succeeds; OutputError if they cannot be written."""
    parts = {path: path.with_name(f".{path.name}.part") for path in contents}
    try:
        for path, content in contents.items():
            with writing(path, hint):
                parts[path].write_bytes(content)
        yield
        for path, part in parts.items():
            with writing(path, hint):
                part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, hint: str) -> Iterator[None]:
    """Turn what the system says into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint) from error
