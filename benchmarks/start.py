"""How long a small image takes from a cold start, beside what importing torch and rasterio takes.

    python benchmarks/start.py [--repeat 5]

Both are processes of their own and take turns; medians. What computing took is said by the report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import rasterio
from sizes import ROOT

SIDE = 512
# What is installed has been compiled to bytecode, so that is not to be done anew at each start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds of a command from start to end, and what it said on stdout."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    imports, runs, computing = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, str(ROOT / "examples/make_scene.py"), name]
        subprocess.run(command, check=True, capture_output=True)
        scene, target = folder / "scene.png", folder / "out.png"
        with rasterio.open(folder / "hazy.tif") as file:
            pixels = file.read([1, 2, 3])[:, :SIDE, :SIDE]
        with rasterio.open(scene, "w", driver="PNG", height=SIDE, width=SIDE, count=3, dtype="uint8") as file:
            file.write(pixels)
        run = [sys.executable, *f"-m dehazexl_cli run {scene} {target} --overwrite -q --json".split()]
        for _ in range(arguments.repeat + 1):
            imports.append(timed([sys.executable, "-c", "import torch, rasterio"])[0])
            seconds, said = timed(run)
            runs.append(seconds)
            computing.append(sum(json.loads(said)["seconds"].values()))
    # The first of each fills the system's caches.
    importing, whole, work = (statistics.median(times[1:]) for times in (imports, runs, computing))
    print(f"{date.today()}: imports {importing:.2f} s, run {whole:.2f} s, of which computing {work:.2f} s")
    print(f"run / (imports + computing) = {whole / (importing + work):.2f}")


if __name__ == "__main__":
    main()
