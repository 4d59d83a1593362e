"""What sampled attention changes: outputs with it against outputs with exact attention, and what each takes.

    python benchmarks/attention.py [IMAGE …] [--sides 2048 4096] [--weights FILE] [--device cuda]

Patches meet edge to edge, so that 2048 x 2048 pixels are 4,096 tokens and 4096 x 4096 are 16,384. Without
images, the example scene is taken, and mosaics of it. Networks compute in float32, so that what differs is
attention alone; decibels are those of the outputs' mean squared difference, in [0, 1].
"""

from __future__ import annotations

import argparse
import math
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
from sizes import ROOT, make_mosaic

from dehazexl_cli import load_model
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, run
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.raster.thumbnail import thumbnail
from dehazexl_cli.report import Report

SEEDS = (0, 1, 2)


def dehazed(
    pixels: np.ndarray, model: DehazeModel, device: str, overrides: PlanOverrides
) -> tuple[np.ndarray, Report]:
    """Output [h, w, 3] in [0, 1], and the report; in 16 bits, so that less than a level of 8 bits shows."""
    reader = ArrayReader(pixels.astype(np.uint16) * 257)
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info))
        return writers[-1]

    options = EngineOptions(
        device=device, precision="fp32", overlap=0, input_range=(0, 65535), overrides=overrides
    )
    report = run(reader, make_writer, model, options)
    return writers[-1].array / np.float32(65535), report


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of two outputs."""
    error = float(np.square(one - other, dtype=np.float64).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def compare(name: str, pixels: np.ndarray, model: DehazeModel, device: str) -> str:
    """A row of the table for one scene."""
    exact, how = dehazed(pixels, model, device, PlanOverrides(exact_attention=True))
    found, seconds = [], 0.0
    for seed in SEEDS:
        sampled, report = dehazed(pixels, model, device, PlanOverrides(exact_attention=False, seed=seed))
        seconds = report.seconds["bottleneck"]
        found.append((decibels(exact, sampled), float(abs(exact - sampled).max()) * 255))
    hazy = pixels / np.float32(255)
    tokens = math.prod(-(-size // 256) * 8 for size in pixels.shape[:2])
    return (
        f"| {name} | {tokens} | {min(db for db, _ in found):.1f} to {max(db for db, _ in found):.1f} "
        f"| {max(most for _, most in found):.1f} | {decibels(exact, hazy):.1f} "
        f"| {how.seconds['mix']:.1f} | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--sides", nargs="+", type=int, default=[2048, 4096])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    loaded = load_model(weights=arguments.weights)
    print(
        f"{date.today()}, {loaded.name} {loaded.sha256[:12]}, {platform.machine()}, torch {torch.__version__}"
    )
    print(
        "| scene | tokens | sampled to exact, dB | most, of 255 | hazy to exact, dB | exact s | sampled s |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = arguments.images
        if not images:
            command = [sys.executable, ROOT / "examples/make_scene.py", folder]
            subprocess.run(command, check=True, capture_output=True)
            images = [folder / "hazy.tif"]
        for image in images:
            for side in arguments.sides:
                scene = folder / "scene.tif"
                make_mosaic(image, scene, side)
                reader = open_reader(scene)
                pixels = thumbnail(reader, (1, 2, 3), side).transpose(1, 2, 0)
                reader.close()
                print(compare(f"{image.stem}, {side}", pixels, loaded.model, arguments.device), flush=True)


if __name__ == "__main__":
    main()
