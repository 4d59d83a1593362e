"""What the tests of batches share: small images, and what a batch has left in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds
NAMES = ("a.tif", "sub/b.tif", "sub/deep/c.png")  # of the images in the tree of the fixture `folder`


def make_image(path: Path, height: int = 70, width: int = 90, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (3, height, width), dtype=np.uint8)
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(path, "w", driver=driver, height=height, width=width, count=3, dtype="uint8") as file:
        file.write(values)
    return path


def files(folder: Path) -> set[str]:
    """Everything in a folder but the records."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.parts[0] != ".dehazexl"}


def alike(folder: Path, other: Path, names: Iterable[str]) -> bool:
    """Whether images differ by a level at most: by other threads, no more can be promised."""
    for name in names:
        with rasterio.open(folder / name) as one, rasterio.open(other / name) as another:
            if abs(one.read().astype(int) - another.read()).max() > 1:
                return False
    return True


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ".dehazexl" / "log.ndjson").read_text().splitlines()]


def states(folder: Path) -> list[str]:
    return [line["state"] for line in log_of(folder)]


def cut_short(path: Path) -> None:
    """Make an image unreadable in its second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def start(folder: Path, out: Path, weights: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dehazexl_cli", "batch", folder, out, "--weights", weights, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and words of a batch that comes to its end."""
    told = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, told


def wait_for(something: str, process: subprocess.Popen[str], holds: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{something} does not happen"
        time.sleep(0.005)
