"""Documents that commands write beside rasters: tables, pages, pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dehazexl_cli.errors import OutputError
from dehazexl_cli.owner import Owner, tidy
from dehazexl_cli.paths import descriptor_of, is_stream, keep_rights


def write_whole(path: Path, content: str | bytes, hint: str) -> None:
    """Write the file as a whole or not at all; OutputError, with the hint, if that fails.

    What processes that were killed have left in its folder is removed. A pipe or a terminal, and - for
    stdout, take the content as it is.
    """
    with staged({path: content.encode() if isinstance(content, str) else content}, hint):
        pass


@contextmanager
def staged(contents: Mapping[Path, bytes], hint: str) -> Iterator[None]:
    """Give files their names if what is done inside succeeds; OutputError if they cannot be written.

    A link stays, and so do mode, owner and ACL of a file that is replaced. What processes that were killed
    have left in their folders is removed.
    """
    streams = {path: content for path, content in contents.items() if is_stream(path)}
    files = {Path(os.path.realpath(path)): contents[path] for path in contents if path not in streams}
    parts = {path: path.with_name(f".{shortened(path.name)}{Owner.this().mark()}part") for path in files}
    try:
        for path, content in files.items():
            tidy(path.parent)
            with writing(path, hint):
                parts[path].write_bytes(content)
                keep_rights(path, parts[path])
        yield
        for path, part in parts.items():
            with writing(path, hint):
                part.replace(path)
        for path, content in streams.items():
            with writing(path, hint):
                pour(path, content)
    finally:
        for part in parts.values():
            with suppress(OSError):  # nothing is there any more, or nothing ever was
                part.unlink()


def pour(path: Path, content: bytes) -> None:
    """Write to a pipe, a device or an open file of this process; OSError if nobody takes it."""
    known = descriptor_of(path)
    if known is None:
        # Else opening a pipe that nobody reads would wait for ever.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(descriptor, True)
    else:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        descriptor = os.dup(known)
    with open(descriptor, "wb") as file:
        file.write(content)


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
