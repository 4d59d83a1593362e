"""Time, memory and reach of `dehazexl explain`, at several scene sizes and for several models.

    python benchmarks/explain.py 2048 4096 [--models dehazexl-s,mgbl-s] [--steps 4] [--scene FILE]

Without --scene, scenes are mosaics of the example scene, as in sizes.py; with it, the middle of FILE. One
window of 64 x 64 pixels in the middle is explained from black. Each run is a process of its own; memory is
its largest resident size. A model may be a weight file, so that new weights can be judged.
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
from typing import Any

import rasterio
from rasterio.windows import Window
from sizes import make_mosaic

ROOT = Path(__file__).resolve().parents[1]
SIDE = 64  # of the window
COLUMNS = (
    "model | side | steps | s | s/step | peak MB | planned MB | gap | inside | in patches | beyond | "
    "half within | 90 % within"
)


def make_part(source: Path, target: Path, side: int) -> None:
    """The middle of a scene."""
    with rasterio.open(source) as file:
        window = Window((file.width - side) // 2, (file.height - side) // 2, side, side)
        pixels = file.read([1, 2, 3], window=window)
    profile = {"driver": "GTiff", "count": 3, "dtype": pixels.dtype, "tiled": True, "compress": "deflate"}
    with rasterio.open(target, "w", height=side, width=side, **profile) as file:
        file.write(pixels)


def explained(scene: Path, output: Path, model: str, side: int, steps: str) -> dict[str, Any]:
    """What the command says of the window in the middle."""
    chosen = ["--weights" if model.endswith((".safetensors", ".pth")) else "--model", model]
    corner = (side - SIDE) // 2
    command = [
        *(sys.executable, "-m", "dehazexl_cli", "explain", str(scene), str(output), "--json", "-q", *chosen),
        *("--window", f"{corner},{corner},{SIDE},{SIDE}", "--baseline", "black", "--steps", steps),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def line(facts: dict[str, Any], side: int) -> str:
    """A row of the table."""
    (one,) = facts["maps"]
    seconds = facts["seconds"]["global"]
    # Both ends of the path are seen once each, without the way back: about half a step each.
    cells = [
        facts["model"], side, one["steps"], f"{seconds:.0f}", f"{seconds / (one['steps'] + 1):.1f}",
        f"{facts['peak_host_bytes'] / 1e6:.0f}", f"{facts['plan']['global']['host_bytes'] / 1e6:.0f}",
        f"{one['gap']:.2%}", *(f"{one[key]:.3%}" for key in ("inside", "patch", "beyond")),
        *(f"{one[key]:.0f}" for key in ("radius_50", "radius_90")),
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sides", nargs="+", type=int)
    parser.add_argument("--models", default="dehazexl-s,mgbl-s")
    parser.add_argument("--steps", default="auto")
    parser.add_argument("--scene", type=Path)
    chosen = parser.parse_args()
    print(f"{date.today()}, {platform.processor() or platform.machine()}, scene {chosen.scene or 'mosaic'}\n")
    print(f"| {COLUMNS} |\n|---|{'---:|' * COLUMNS.count('|')}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.scene is None:
            example = [sys.executable, ROOT / "examples/make_scene.py", folder]
            subprocess.run(example, check=True, capture_output=True)
        for side in chosen.sides:
            scene, output = folder / f"{side}.tif", folder / f"{side}-map.tif"
            if chosen.scene is None:
                make_mosaic(folder / "hazy.tif", scene, side)
            else:
                make_part(chosen.scene, scene, side)
            for model in chosen.models.split(","):
                print(line(explained(scene, output, model, side, chosen.steps), side), flush=True)
                for file in (output, output.with_suffix(".png"), output.with_suffix(".json")):
                    file.unlink()


if __name__ == "__main__":
    main()
