"""Locks of scenes: one holder at a time, and none for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from dehazexl_cli.atomic import born, this_host
from dehazexl_cli.batch import locks
from dehazexl_cli.batch.locks import LockOwner, Locks
from dehazexl_cli.errors import OutputError

NAME = this_host().rpartition("-")[0]


def only_lock(folder: Path) -> Path:
    (path,) = folder.glob("*.lock")
    return path


def write_lock(folder: Path, holder: LockOwner) -> Path:
    with Locks(folder) as mine:
        mine.take("a.tif")
        path = only_lock(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(holder._asdict()))
    return path


def dead_process() -> tuple[int, int]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = born(child.pid)
    child.communicate()
    return child.pid, started


def test_a_lock_is_held_by_one_and_says_by_whom(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    with Locks(folder) as first, Locks(folder) as second:
        assert first.take("sub/a.tif") is None
        holder = second.take("sub/a.tif")
        assert holder is not None and str(holder) == f"process {os.getpid()} on {NAME}"
        assert second.take("a.tif") is None  # another scene of that name
        first.release("sub/a.tif")
        assert second.take("sub/a.tif") is None
        first.release("sub/a.tif")  # which it no longer holds
        assert first.take("sub/a.tif") is not None
    assert not folder.exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    pid, started = dead_process()
    write_lock(tmp_path, LockOwner(this_host(), pid, started, "x"))
    with Locks(tmp_path) as mine:
        assert mine.take("a.tif") is None
        assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.skipif(not born(os.getpid()), reason="the system does not tell when a process began")
def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    write_lock(tmp_path, LockOwner(this_host(), os.getpid(), 1, "x"))
    with Locks(tmp_path) as mine:
        assert mine.take("a.tif") is None


def test_the_lock_of_another_host_is_taken_over_only_when_it_was_forgotten(tmp_path: Path) -> None:
    path = write_lock(tmp_path, LockOwner("elsewhere-0", 1, 0, "x"))
    with Locks(tmp_path) as mine:
        holder = mine.take("a.tif")
        assert holder is not None and str(holder) == "process 1 on elsewhere"
        os.utime(path, (time.time() - locks.STALE_SECONDS - 10,) * 2)
        assert mine.take("a.tif") is None


def test_a_lock_that_nobody_can_read_is_held_until_it_was_forgotten(tmp_path: Path) -> None:
    path = write_lock(tmp_path, LockOwner())
    path.write_text("{")
    with Locks(tmp_path) as mine:
        assert str(mine.take("a.tif")) == "another process"
        os.utime(path, (time.time() - locks.STALE_SECONDS - 10,) * 2)
        assert mine.take("a.tif") is None


def test_who_holds_a_lock_keeps_it_from_being_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.05)
    with Locks(tmp_path) as mine:
        assert mine.take("a.tif") is None
        path = only_lock(tmp_path)
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline, "nobody touches it"
            time.sleep(0.01)


def test_without_hard_links_there_are_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links on this disk")

    monkeypatch.setattr(os, "link", refuse)
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        assert first.take("a.tif") is None
        assert second.take("a.tif") is not None


def test_a_folder_where_no_lock_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Locks(tmp_path / "file" / "locks") as mine, pytest.raises(OutputError, match="no lock can be made"):
        mine.take("a.tif")


def test_of_many_who_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    pid, started = dead_process()
    for round_ in range(60):
        write_lock(tmp_path, LockOwner(this_host(), pid, started, str(round_)))
        everybody = [Locks(tmp_path) for _ in range(8)]
        gate, got = threading.Barrier(len(everybody)), Counter[bool]()

        def rush(mine: Locks, gate: threading.Barrier = gate, got: Counter[bool] = got) -> None:
            gate.wait()
            got[mine.take("a.tif") is None] += 1

        threads = [threading.Thread(target=rush, args=[mine]) for mine in everybody]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got[True] == 1, got
        for mine in everybody:
            mine.release("a.tif")
