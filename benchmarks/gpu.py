"""Seconds and peak device memory of both networks on a GPU, array to array, exact and sampled attention.

    python benchmarks/gpu.py --sides 4096 10240 20480 --out benchmarks/results/gpu.json

Needs torch, numpy and safetensors only, so it runs on machines without GDAL. `--device cpu` rehearses it.
Speed and memory do not depend on the weights, so the published network runs with random ones.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import numpy as np
import torch

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, run
from dehazexl_cli.models import REGISTRY, build
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter


def make_scene(side: int) -> np.ndarray:
    """Uneven grey ground [side, side, 3] uint8; what it shows does not matter to the clock."""
    tile = np.random.default_rng(0).integers(60, 200, (1024, 1024, 3), dtype=np.uint8)
    repeats = -(-side // 1024)
    return np.tile(tile, (repeats, repeats, 1))[:side, :side]


def verdict(peak: int, planned: int) -> str:
    """What a real card says of a plan, which simulated tensors keep to: what kernels and rounding add."""
    if not peak:
        return "no GPU"
    share = peak / planned
    kept = "kept" if share <= 1 else "exceeded: kernels or rounding take more than the plan leaves"
    return f"plan {kept} ({share:.2f} of it; simulated, 0.8 to 1 of it)"


def measure(name: str, side: int, device: str, precision: str, exact: bool) -> dict[str, object]:
    """One run of one network, after a small one that loads its kernels."""
    model = build(name).eval()
    options = EngineOptions(
        device=device, precision=precision, overrides=PlanOverrides(exact_attention=exact)
    )
    report = None
    for size in (min(side, 1024), side):
        reader = ArrayReader(make_scene(size))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        report = run(reader, lambda reader=reader: ArrayWriter(reader.info), model, options)
    seconds = {phase: round(value, 3) for phase, value in report.seconds.items()}
    return {
        "model": name,
        "side": side,
        "attention": report.plan["attention"],
        "precision": report.precision,
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 3),
        "peak_device_mb": round(report.peak_device_bytes / 1e6),
        "planned_device_mb": round(report.plan["device_bytes"] / 1e6),
        "verdict": verdict(report.peak_device_bytes, report.plan["device_bytes"]),
        "skips": report.plan["skips"],
        "batch": report.plan["batch"],
        "redone_batches": report.redone_batches,
        "fallbacks": report.fallbacks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", type=int, default=[4096, 10240])
    parser.add_argument("--models", nargs="+", default=list(REGISTRY))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    about = {
        "date": str(date.today()),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    rows = []
    for name in arguments.models:
        for side in arguments.sides:
            for exact in (True, False):
                row = measure(name, side, arguments.device, arguments.precision, exact)
                rows.append(row)
                print(json.dumps(row), flush=True)
                if arguments.out:  # after each run, as time on a lent machine may end at any moment
                    arguments.out.parent.mkdir(parents=True, exist_ok=True)
                    arguments.out.write_text(json.dumps({"about": about, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
