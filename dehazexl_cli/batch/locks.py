"""Two batches over the same folder do not do a scene twice: who works on one holds its lock.

A lock is a file that says host and process. It appears by a hard link, which one of several succeeds in
making, also on network file systems, and which is never half written. The process that holds it touches it
now and then. It is stale if its process is dead, or, on another host, where one cannot look, if nobody has
touched it for long.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dehazexl_cli.atomic import ProcessId
from dehazexl_cli.errors import OutputError

TOUCH_SECONDS = 20.0
STALE_SECONDS = 300.0
TRIES = 3  # at a lock that others take and leave at the same time


class LockOwner(NamedTuple):
    """Who holds a lock; empty if nobody knows."""

    host: str = ""
    pid: int = 0
    born: int = 0  # when its process began
    token: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.rpartition('-')[0]}" if self.host else "another process"

    @classmethod
    def this(cls) -> LockOwner:
        """This process."""
        return cls(*ProcessId.this(), secrets.token_hex(8))

    def is_dead(self) -> bool:
        """Whether it is known to have ended."""
        return ProcessId(self.host, self.pid, self.born).is_dead()


class Locks:
    """The locks that this process holds; a context manager that lets go of all of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = LockOwner.this()
        self._held: set[Path] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="touch-locks", daemon=True)

    def take(self, name: str) -> LockOwner | None:
        """Take the lock of a result; None if it is held now, else who holds it.

        Raises OutputError where no lock can be made.
        """
        path = self._path(name)
        holder: LockOwner | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for _ in range(TRIES):
                if self._make(path):
                    self._held.add(path)
                    return None
                holder = self._who(path)
                if holder is not None and not self._bury(path, holder):
                    return holder
        except OSError as error:
            raise OutputError(
                f"{self._folder}: no lock can be made ({error.strerror})",
                "choose another OUT_DIR or ask for the right to write there",
            ) from error
        return holder or LockOwner()

    def release(self, name: str) -> None:
        """Let go of the lock of a result; nothing happens if it is not held."""
        self._remove(self._path(name))

    def __enter__(self) -> Locks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for path in tuple(self._held):
            self._remove(path)
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.lock"):  # of batches that were killed after their work
                holder = self._who(path)
                if holder is not None:
                    self._bury(path, holder)
            self._folder.rmdir()  # unless another batch has locks there

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        return self._folder / f"{Path(name).name[:40]}.{digest}.lock"

    def _make(self, path: Path) -> bool:
        """Whether the lock could be made: it was free."""
        own = self._folder / f"{self._me.token}.new"
        own.write_text(json.dumps(self._me._asdict()))
        try:
            os.link(own, path)
        except FileExistsError:
            return False
        except OSError:  # a disk without hard links
            return self._make_by_name(path)
        finally:
            own.unlink(missing_ok=True)
        return True

    def _make_by_name(self, path: Path) -> bool:
        try:
            with open(path, "x") as file:
                file.write(json.dumps(self._me._asdict()))
        except FileExistsError:
            return False
        return True

    def _who(self, path: Path) -> LockOwner | None:
        """Who holds a lock; None if it is gone."""
        try:
            return LockOwner(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return LockOwner()

    def _bury(self, path: Path, holder: LockOwner) -> bool:
        """Take away a stale lock; False if it is not stale."""
        if not holder.is_dead() and not self._is_forgotten(path):
            return False
        with self._alone():
            if self._who(path) == holder:  # else another process buried it and may have made its own
                path.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from burying meanwhile; the system lets go for a process that is killed."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            hold(folder)
            yield
        finally:
            os.close(folder)

    def _is_forgotten(self, path: Path) -> bool:
        """Whether nobody has touched the lock for long, by the clock of the disk it is on."""
        clock = self._folder / f"{self._me.token}.clock"
        try:
            clock.touch()
            return clock.stat().st_mtime - path.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            return False
        finally:
            clock.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        if path in self._held:
            self._held.discard(path)
            with contextlib.suppress(OSError):
                if self._who(path) == self._me:
                    path.unlink()

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_SECONDS):
            for path in tuple(self._held):
                with contextlib.suppress(OSError):
                    os.utime(path)


def hold(descriptor: int) -> None:
    """Wait until no other process holds an open file, and hold it until it is closed.

    Nothing happens where the system or the disk knows no such locks.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
