"""The published network on two cores: a plain forward of the whole image against `dehazexl run`.

    python benchmarks/paper.py [--side 2048] [--repeat 1] [--precision fp32]

Weights are random, as time and memory do not depend on them. The plain forward has the image and all of its
patches in memory at once, as the published code does, and counts neither reading nor writing. Both are
processes of their own and take turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
from memory import make_weights
from sizes import ROOT, make_mosaic, measure

PLAIN = """
import json, sys, time
import rasterio, torch
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    plain: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, ROOT / "examples/make_scene.py", folder]
        subprocess.run(command, check=True, capture_output=True)
        scene, weights = folder / "scene.tif", folder / "paper.safetensors"
        make_mosaic(folder / "hazy.tif", scene, arguments.side)
        make_weights("dehazexl-paper", weights)
        options = f"--weights {weights} --precision {arguments.precision} --overlap 0 --overwrite".split()
        for _ in range(arguments.repeat):
            said = subprocess.run(
                [sys.executable, "-c", PLAIN, weights, scene],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            plain.append(json.loads(said.stdout))
            report = measure(scene, folder / "out.tif", options)
            ours.append({"seconds": sum(report["seconds"].values()), "peak": report["peak_host_bytes"]})
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{date.today()}, {machine}, {arguments.side}²")
    print("| | seconds | peak MB |\n|---|---|---|")
    for title, runs in (("plain forward, fp32", plain), (f"dehazexl run, {arguments.precision}", ours)):
        seconds = statistics.median(each["seconds"] for each in runs)
        print(f"| {title} | {seconds:.1f} | {max(each['peak'] for each in runs) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
