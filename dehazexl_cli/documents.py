"""Documents that commands write beside rasters: tables, pages, pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dehazexl_cli.errors import OutputError
from dehazexl_cli.owner import Owner, tidy


def write_whole(path: Path, content: str | bytes, hint: str) -> None:
    """The file as a whole or not at all; OutputError, with the hint, if that fails.

    What processes that were killed have left in its folder is removed.
    """
    with staged({path: content.encode() if isinstance(content, str) else content}, hint):
        pass


def require_new(paths: Iterable[Path], overwrite: bool) -> None:
    """Raises OutputError for a file that is there, unless it may be replaced."""
    for path in paths:
        if os.path.exists(path) and not overwrite:
            raise OutputError(f"{path}: exists already", "give another name, or --overwrite to replace it")


@contextmanager
def staged(contents: Mapping[Path, bytes], hint: str) -> Iterator[None]:
    """Files that get their names if what is done inside succeeds; OutputError if they cannot be written.

    What processes that were killed have left in their folders is removed.
    """
    parts = {path: path.with_name(f".{shortened(path.name)}{Owner.this().mark()}part") for path in contents}
    try:
        for path, content in contents.items():
            tidy(path.parent)
            with writing(path, hint):
                parts[path].write_bytes(content)
        yield
        for path, part in parts.items():
            with writing(path, hint):
                part.replace(path)
    finally:
        for part in parts.values():
            with suppress(OSError):  # nothing is there any more, or nothing ever was
                part.unlink()


def shortened(name: str) -> str:
    """So much of a name that another may begin with it and be longer."""
    return name.encode("utf-8", "surrogateescape")[:60].decode("utf-8", "ignore")


@contextmanager
def writing(path: Path, hint: str) -> Iterator[None]:
    """Turn what the system says into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint) from error
