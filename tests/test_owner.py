"""Temporary files say who makes them, and only those of processes known to be dead are removed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from conftest import Result, names

from dehazexl_cli.atomic import ProcessId, born, remove_orphans, this_host, write_atomic


def test_a_document_is_tidied_up_after_too(tmp_path: Path) -> None:
    pid, began = dead_process()
    left = tmp_path / f".report.json{ProcessId(this_host(), pid, began).mark()}part"
    left.touch()
    write_atomic(tmp_path / "report.json", "{}", "")
    assert names(tmp_path) == {"report.json"}


def dead_process() -> tuple[int, int]:
    """Number and birth of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = born(process.pid)
    process.communicate(b"\n")
    return process.pid, began


def test_only_files_of_processes_known_to_be_dead_are_removed(tmp_path: Path) -> None:
    pid, began = dead_process()
    me = ProcessId.this()
    dead = ProcessId(this_host(), pid, began)
    kept = [
        f".a{me.mark()}part.tif",
        f".a{dead._replace(host='elsewhere-01234567').mark()}part.tif",
        f".a{me._replace(pid=1, born=0).mark()}part.tif",  # alive, and perhaps somebody else's
        f"a{dead.mark()}part.tif",  # not hidden, so somebody wants it
        ".a.1234-0123abcd.part.tif",
        "a.tif",
    ]
    gone = [
        f".a{dead.mark()}part.tif",
        f".a{dead.mark()}part.tif.aux.xml",
        f".a{me._replace(born=me.born + 1).mark()}rows.tif",  # the number is another process's now
        f".ü{'x' * 29}{dead.mark()}part.msk.ovr.tmp",
    ]
    for name in kept + gone:
        (tmp_path / name).touch()
    assert {path.name for path in remove_orphans(tmp_path)} == set(gone)
    assert names(tmp_path) == set(kept)
    assert remove_orphans(tmp_path / "gone") == []


def test_a_long_name_still_has_room_for_the_mark(
    dehazexl: Callable[..., Result], tiny_weights: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "in.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 4e6)}
    with rasterio.open(
        scene, "w", driver="GTiff", count=3, height=70, width=90, dtype="uint8", **place
    ) as file:
        file.write(np.full((3, 70, 90), 99, np.uint8))
    target = tmp_path / ("界" * 80 + ".tif")  # 244 bytes, and a name may have 255
    assert dehazexl("run", scene, target, "--weights", tiny_weights, "-q") == Result(0, "", "")
    assert target.exists()
