"""Half a file is no file: written under another name beside its place, and renamed when it is complete.

The other name says which process made it, so that what a dead process left can be told apart and removed.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from dehazexl_cli.errors import OutputError
from dehazexl_cli.paths import descriptor_of, is_stream, keep_rights

log = logging.getLogger(__name__)

_MARK = re.compile(r"\.dehazexl-(?P<host>[0-9A-Za-z]*-[0-9a-f]{8})-(?P<pid>\d+)-(?P<born>\d+)-[0-9a-f]{8}\.")


class ProcessId(NamedTuple):
    """A process, so that no other is taken for it, on whatever machine."""

    host: str
    pid: int
    born: int  # when it began, in ticks since the machine did; 0 where the system does not tell

    @classmethod
    def this(cls) -> Self:
        """The process that asks."""
        return cls(this_host(), os.getpid(), born(os.getpid()))

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Who made a file of this name; None if it is no temporary file."""
        found = _MARK.search(name)
        return None if found is None else cls(found["host"], int(found["pid"]), int(found["born"]))

    def mark(self) -> str:
        """Part of a name that no other file has, and that says who made it."""
        import secrets

        return f".dehazexl-{self.host}-{self.pid}-{self.born}-{secrets.token_hex(4)}."

    def is_dead(self) -> bool:
        """Whether it is known to have ended: only a process of this machine can be looked at."""
        if self.host != this_host() or os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)  # asks whether there is such a process, and does nothing
        except ProcessLookupError:
            return True
        except OSError:  # there is, and it is somebody else's
            return False
        return bool(self.born) and born(self.pid) not in (0, self.born)


def remove_orphans(folder: Path) -> list[Path]:
    """Remove temporary files and folders of processes that have ended; what could not be removed is left out.

    Never one of a live process, nor of another machine or container, where nobody can look from here.
    """
    removed = []
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return []
    for name in names:
        owner = ProcessId.of(name)
        if owner is not None and owner.is_dead():
            try:
                remove(folder / name)
            except OSError:  # another process was first, or it may not be
                continue
            removed.append(folder / name)
    return removed


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it; OSError if that fails."""
    if path.is_symlink() or not path.is_dir():
        return path.unlink()
    import shutil  # late, as every start of the command line loads this module

    shutil.rmtree(path)


@cache
def remove_orphans_once(folder: Path) -> None:
    """The same, once in a process, as folders may hold very many files."""
    for path in remove_orphans(folder):
        log.info("%s: removed; the process that made it was killed", path)


@cache
def this_host() -> str:
    """The machine, or the container in it, by a name that others on a shared disk do not have.

    Cloned machines share names, containers that share a name do not see each other's processes.
    """
    # Late, as every start of the command line loads this module.
    import hashlib
    import socket
    import uuid

    name = socket.gethostname()
    known = [name, _text(Path("/etc/machine-id")) or str(uuid.getnode())]
    try:
        known.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:
        known.append("no namespaces")
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:8]
    return f"{re.sub('[^0-9A-Za-z]', '', name)[:16]}-{digest}"


def born(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0 where the system does not tell."""
    # The name, which may hold anything, stands in brackets.
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def write_atomic(path: Path, content: str | bytes, hint: str) -> None:
    """Write the file as a whole or not at all; OutputError, with the hint, if that fails.

    A pipe or a terminal, and - for stdout, take the content as it is.
    """
    with staged({path: content.encode() if isinstance(content, str) else content}, hint):
        pass


@contextmanager
def staged(contents: Mapping[Path, bytes], hint: str) -> Iterator[None]:
    """Give files their names if what is done inside succeeds; OutputError if they cannot be written."""
    streams = [path for path in contents if is_stream(path)]
    with ExitStack() as stack:
        for path, content in contents.items():
            if path not in streams:
                stack.enter_context(writing(path, hint))
                stack.enter_context(replacing(path)).write_bytes(content)
        yield
    for path in streams:
        with writing(path, hint):
            pour(path, contents[path])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name for a file that takes the place of another when it is complete; else nothing is left of it.

    A link stays, and so do mode, owner and ACL of a file that is replaced. What processes that were killed
    have left in its folder is removed.
    """
    place = Path(os.path.realpath(path))
    remove_orphans_once(place.parent)
    part = place.with_name(f".{shortened(place.name)}{ProcessId.this().mark()}part")
    try:
        yield part
        keep_rights(place, part)
        part.replace(place)
    finally:
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
