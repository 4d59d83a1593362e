"""What the tests of batches share: small images, and what a batch has left in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

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


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ".dehazexl" / "log.ndjson").read_text().splitlines()]


def states(folder: Path) -> list[str]:
    return [line["state"] for line in log_of(folder)]


def cut_short(path: Path) -> None:
    """Make an image unreadable in its second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
