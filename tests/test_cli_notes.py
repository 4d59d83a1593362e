"""What `dehazexl run` notes of its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from conftest import Result
from rasterio.transform import from_origin

Command = Callable[..., Result]


def test_a_result_much_larger_than_its_jpeg_is_told_with_what_avoids_it(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    scene, out = tmp_path / "in.tif", tmp_path / "out.tif"
    values = np.random.default_rng(0).integers(0, 255, (3, 80, 80)).repeat(10, 1).repeat(10, 2)
    jpeg = {"compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 30}
    with rasterio.open(
        scene, "w", driver="GTiff", height=800, width=800, count=3, dtype="uint8", crs="EPSG:32633", **jpeg,
        transform=from_origin(4e5, 5e6, 1, 1),
    ) as file:  # fmt: skip
        file.write(values.astype("uint8"))
    again = ("--weights", tiny_weights, "--overwrite")
    said = dehazexl("run", scene, out, *again).err
    (line,) = [line for line in said.splitlines() if "times as large as IN" in line]
    creation = line[line.index("--co") : line.index(" keeps")].split()
    assert "times as large" not in dehazexl("run", scene, out, *again, *creation).err
    assert out.stat().st_size < 3 * scene.stat().st_size
