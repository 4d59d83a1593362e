"""Who made a temporary file: its name says so, and what a dead process left can be told apart."""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

log = logging.getLogger(__name__)

_MARK = re.compile(r"\.dehazexl-(?P<host>[0-9A-Za-z]*-[0-9a-f]{8})-(?P<pid>\d+)-(?P<born>\d+)-[0-9a-f]{8}\.")


class Owner(NamedTuple):
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


def remove_what_the_dead_left(folder: Path) -> list[Path]:
    """Remove temporary files and folders of processes that have ended; what could not be removed is left out.

    Never one of a live process, nor of another machine or container, where nobody can look from here.
    """
    removed = []
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return []
    for name in names:
        owner = Owner.of(name)
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
def tidy(folder: Path) -> None:
    """The same, once in a process, as folders may hold very many files."""
    for path in remove_what_the_dead_left(folder):
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
