"""What a batch saves over a shell loop of single runs, and whether its memory grows over many scenes.

    python benchmarks/batch.py loop [--scenes 50] [--side 1024] [--model mgbl-s]
    python benchmarks/batch.py soak [--scenes 500] [--side 256] [--model dehazexl-s]

`loop` runs `dehazexl run` for each scene, one after the other, then `dehazexl batch` once over all of them,
and compares the bytes of the results. `soak` reads the resident memory of a batch after each scene.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

SETTLED = 50  # scenes after which memory is not to grow any more
COMMAND = (sys.executable, "-m", "dehazexl_cli")


def make_scenes(folder: Path, count: int, side: int) -> list[Path]:
    """GeoTIFFs of blurred noise, each another."""
    folder.mkdir()
    paths = [folder / f"{number:04}.tif" for number in range(count)]
    place = from_origin(4e5, 5e6, 1, 1)
    profile = {
        "driver": "GTiff",
        "transform": place,
        "height": side,
        "width": side,
        "count": 3,
        "dtype": "uint8",
    }
    for seed, path in enumerate(paths):
        coarse = np.random.default_rng(seed).integers(60, 200, (3, -(-side // 8), -(-side // 8)))
        pixels = coarse.astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
        with rasterio.open(path, "w", crs="EPSG:32633", **profile) as file:
            file.write(pixels)
    return paths


def loop(folder: Path, count: int, side: int, options: list[str]) -> None:
    """Time both ways and print a table."""
    scenes = make_scenes(folder / "in", count, side)
    single, together = folder / "single", folder / "together"
    single.mkdir()
    ways = {
        "loop of `run`": [[*COMMAND, "run", scene, single / scene.name, *options] for scene in scenes],
        "`batch`": [[*COMMAND, "batch", folder / "in", together, *options]],
    }
    taken = {name: timed(commands) for name, commands in ways.items()}
    for scene in scenes:
        assert (single / scene.name).read_bytes() == (together / scene.name).read_bytes(), scene.name
    print("| | seconds | seconds a scene | of processors, a scene |\n|---|---|---|---|")
    for name, (seconds, busy) in taken.items():
        print(f"| {name} | {seconds:.1f} | {seconds / count:.2f} | {busy / count:.2f} |")
    (slow, slow_busy), (fast, fast_busy) = taken.values()
    print(f"\n`batch` is {slow / fast:.1f} times as fast, with equal bytes; ", end="")
    print(f"it takes {slow_busy / fast_busy:.1f} times less of the processors.")


def timed(commands: list[list[object]]) -> tuple[float, float]:
    """Seconds that commands take, one after the other, and seconds that processors are busy with them."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        subprocess.run(list(map(str, command)), check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def soak(folder: Path, count: int, side: int, options: list[str]) -> None:
    """Print how much memory a batch has after some of its scenes, and by how much it grew."""
    make_scenes(folder / "in", count, side)
    sizes = resident_sizes([*COMMAND, "batch", str(folder / "in"), str(folder / "out"), *options])
    assert len(sizes) == count, f"{count - len(sizes)} scenes are missing"
    print("| scenes | resident, MB |\n|---|---|")
    for number in sorted({1, 10, SETTLED, *range(100, count + 1, 100), count}):
        print(f"| {number} | {sizes[number - 1] / 1e6:.1f} |")
    growth = max(sizes[SETTLED - 1 :]) - sizes[SETTLED - 1]
    print(f"\nAfter {SETTLED} scenes it grew by {growth / 1e6:.1f} MB at most.")


def resident_sizes(command: list[str]) -> list[int]:
    """Bytes of memory that a batch has after each of its scenes."""
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = []
    with subprocess.Popen([*command, "--progress", "json"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["event"] == "scene":
                sizes.append(page * int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]))
    assert process.returncode == 0
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["loop", "soak"])
    parser.add_argument("--scenes", type=int)
    parser.add_argument("--side", type=int)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    measure, scenes, side, model = {
        "loop": (loop, 50, 1024, "mgbl-s"),
        "soak": (soak, 500, 256, "dehazexl-s"),
    }[arguments.what]
    scenes, side, model = arguments.scenes or scenes, arguments.side or side, arguments.model or model
    processors = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {processors} processors"
    print(f"{date.today()}, {machine}; {scenes} scenes of {side} x {side}, {model}\n")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), scenes, side, ["--model", model, "--quiet", "--no-provenance"])


if __name__ == "__main__":
    main()
