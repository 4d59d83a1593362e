"""Time and peak memory of `dehazexl run`, GeoTIFF to GeoTIFF, at several scene sizes.

    python benchmarks/sizes.py 2048 4096 10240 [--options --precision fp32]

Scenes are mosaics of the example scene, mirrored from tile to tile, so that compression and content are
those of an aerial photograph. Each run is a process of its own; memory is its largest resident size.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

ROOT = Path(__file__).resolve().parents[1]


def make_mosaic(example: Path, target: Path, side: int) -> None:
    """A side x side tiled DEFLATE GeoTIFF, row of tiles by row of tiles."""
    with rasterio.open(example) as file:
        pixels, profile = file.read(), file.profile
    _, height, width = pixels.shape
    profile.update(height=side, width=side, tiled=True, compress="deflate", predictor=2, bigtiff="if_safer")
    columns = np.arange(side)
    across = np.where(columns // width % 2, width - 1 - columns % width, columns % width)
    with rasterio.open(target, "w", **profile, num_threads="all_cpus") as file:
        for top in range(0, side, 256):
            rows = np.arange(top, min(side, top + 256))
            down = np.where(rows // height % 2, height - 1 - rows % height, rows % height)
            file.write(pixels[:, down][:, :, across], window=Window(0, top, side, len(rows)))


def measure(scene: Path, output: Path, options: list[str]) -> dict[str, object]:
    """The report of one run."""
    command = [sys.executable, "-m", "dehazexl_cli", "run", str(scene), str(output), "--json", "-q", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sides", nargs="+", type=int)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    arguments = parser.parse_args()
    print(f"{date.today()}, {platform.processor() or platform.machine()}, options {arguments.options}")
    print("| side | seconds | s/megapixel | encode | mix | decode | peak MB | planned MB | plan |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, ROOT / "examples/make_scene.py", folder], check=True, capture_output=True
        )
        for side in arguments.sides:
            scene, output = folder / f"{side}.tif", folder / f"{side}-out.tif"
            make_mosaic(folder / "hazy.tif", scene, side)
            report = measure(scene, output, arguments.options)
            seconds, plan = report["seconds"], report["plan"]
            total = sum(seconds.values())
            print(
                f"| {side} | {total:.1f} | {total / side**2 * 1e6:.3f} | {seconds['encode']:.1f} "
                f"| {seconds['mix']:.1f} | {seconds['decode']:.1f} | {report['peak_host_bytes'] / 1e6:.0f} "
                f"| {plan['host_bytes'] / 1e6:.0f} | {plan['attention']}, skips {plan['skips']}, "
                f"batch {plan['batch']} |",
                flush=True,
            )
            for file in (scene, output):
                file.unlink()


if __name__ == "__main__":
    main()
