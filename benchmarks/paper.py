"""The published network on two cores: plain forwards of the whole image against `dehazexl run`.

    python benchmarks/paper.py [--side 2048] [--repeat 1] [--precision fp32] [--max-ram 1.5G]

Weights are random, as time and memory do not depend on them. A plain forward has the image and all of its
patches in memory at once, as the published code does, and counts neither reading nor writing; it attends
step by step, as that code does, or with the fused form that is used here. All are processes of their own
and take turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from memory import make_weights
from sizes import ROOT, make_mosaic, measure

PLAIN = """
import json, sys, time
import rasterio, torch

def in_steps(q, k, v, attn_mask=None, scale=None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v

if sys.argv[3] == "in steps":
    torch.nn.functional.scaled_dot_product_attention = in_steps
from dehazexl_cli import load_model
from dehazexl_cli.report import peak_host_bytes
model = load_model(weights=sys.argv[1]).model
with rasterio.open(sys.argv[2]) as file:
    image = torch.from_numpy(file.read()[:3])[None].float() / 255
began = time.perf_counter()
with torch.no_grad():
    model(image)
print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak_host_bytes()}))
"""


def plain(weights: Path, scene: Path, attention: str) -> tuple[float, int]:
    """Seconds and peak memory of a plain forward; attention is "in steps" or "fused"."""
    command = [sys.executable, "-c", PLAIN, weights, scene, attention]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    return said["seconds"], said["peak"]


def ours(scene: Path, output: Path, options: list[str]) -> tuple[float, int]:
    """Seconds and peak memory of `dehazexl run`."""
    report: dict[str, Any] = measure(scene, output, options)
    return sum(report["seconds"].values()), report["peak_host_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--max-ram", help="of a further run of ours, as `dehazexl run` takes it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, ROOT / "examples/make_scene.py", folder]
        subprocess.run(command, check=True, capture_output=True)
        scene, weights, output = folder / "scene.tif", folder / "paper.safetensors", folder / "out.tif"
        make_mosaic(folder / "hazy.tif", scene, arguments.side)
        make_weights("dehazexl-paper", weights)
        options = f"--weights {weights} --precision {arguments.precision} --overlap 0 --overwrite".split()
        runs: dict[str, Callable[[], tuple[float, int]]] = {
            "plain forward, fp32, attention in steps": partial(plain, weights, scene, "in steps"),
            "plain forward, fp32, attention fused": partial(plain, weights, scene, "fused"),
            f"dehazexl run, {arguments.precision}": partial(ours, scene, output, options),
        }
        if arguments.max_ram:
            within = [*options, "--max-ram", arguments.max_ram]
            title = f"dehazexl run, {arguments.precision}, --max-ram {arguments.max_ram}"
            runs[title] = partial(ours, scene, output, within)
        found: dict[str, list[tuple[float, int]]] = {title: [] for title in runs}
        for _ in range(arguments.repeat):
            for title, one in runs.items():
                found[title].append(one())
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{date.today()}, {machine}, {arguments.side}²")
    print("| | seconds | peak MB |\n|---|---|---|")
    for title, measured in found.items():
        seconds, peaks = zip(*measured, strict=True)
        print(f"| {title} | {statistics.median(seconds):.1f} | {max(peaks) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
