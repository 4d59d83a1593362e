"""What plans expect and what runs take: peak memory of `dehazexl run` over sizes, models and options.

    python benchmarks/memory.py [--largest 10240] [--only WORD] [--weights paper.safetensors]

Each run is a process of its own. With `--tight`, each is run again with no more than its smallest plan
needs, as `--max-ram`, and under a limit of the system 5 % above that.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from sizes import ROOT, make_mosaic

from dehazexl_cli.models import build
from dehazexl_cli.models.checkpoint import save

OVER = 1.05  # of an explicit budget, at most
# Name -> side of the scene, options.
CASES = {
    "small": (512, []),
    "2048": (2048, []),
    "2048 fp32": (2048, ["--precision", "fp32"]),
    "2048 by tiles": (2048, ["--mode", "tile"]),
    "2048 by a smaller picture": (2048, ["--mode", "downsample", "--long-side", "1024"]),
    "2048 uint16, 4 bands": (2048, ["uint16"]),
    "2048 uint16, all bands": (2048, ["uint16", "--all-bands"]),
    "2048 to PNG": (2048, ["png"]),
    "2048 mgbl-s": (2048, ["--model", "mgbl-s"]),
    "2048 two replicas": (2048, ["--device", "cpu,cpu"]),
    "1024 paper": (1024, ["paper"]),
    "1024 paper fp32": (1024, ["paper", "--precision", "fp32"]),
    "2048 paper": (2048, ["paper"]),
    "2048 paper fp32": (2048, ["paper", "--precision", "fp32"]),
    "1024 mgbl-paper": (1024, ["mgbl"]),
    "2048 mgbl-paper": (2048, ["mgbl"]),
    "4096": (4096, []),
    "4096 overlap 0": (4096, ["--overlap", "0"]),
    "4096 within 700M": (4096, ["--max-ram", "700M"]),
    "4096 mgbl-s": (4096, ["--model", "mgbl-s"]),
    "10240": (10240, []),
    "10240 overlap 0": (10240, ["--overlap", "0"]),
    "10240 within 1.5G": (10240, ["--max-ram", "1.5G"]),
    "10240 mgbl-s": (10240, ["--model", "mgbl-s"]),
}


def make_weights(name: str, path: Path) -> None:
    """A weight file of a published network, with random numbers: memory does not depend on them."""
    torch.manual_seed(0)
    save(path, build(name), name, {}, torch.float32)


def widen(source: Path, target: Path) -> None:
    """The same scene in 16 bits, with an infrared band."""
    with rasterio.open(source) as file:
        profile = file.profile | {"count": 4, "dtype": "uint16", "photometric": "minisblack"}
        with rasterio.open(target, "w", **profile) as wide:
            for top in range(0, file.height, 256):
                window = Window(0, top, file.width, min(256, file.height - top))
                rows = file.read(window=window).astype(np.uint16) * 16
                wide.write(np.concatenate([rows, rows[:1]]), window=window)


class Runs:
    """Runs cases in a folder that holds their scenes and weights, made when first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, ROOT / "examples/make_scene.py", folder]
        subprocess.run(command, check=True, capture_output=True)

    def arguments(self, side: int, options: list[str]) -> list[str]:
        """The command line of a case."""
        words = list(options)
        scene = self._made(f"{side}.tif", lambda path: make_mosaic(self.folder / "hazy.tif", path, side))
        target, more = "out.tif", []
        for word, name in (("paper", "dehazexl-paper"), ("mgbl", "mgbl-paper")):
            if word in words:
                words.remove(word)
                made = self._made(f"{name}.safetensors", lambda path, name=name: make_weights(name, path))
                more = ["--weights", str(made)]
        if "uint16" in words:
            words.remove("uint16")
            plain = scene
            scene = self._made(f"{side}-16.tif", lambda path: widen(plain, path))
        if "png" in words:
            words.remove("png")
            target = "out.png"
        return ["run", str(scene), str(self.folder / target), "--overwrite", *more, *words]

    def _made(self, name: str, make: Any) -> Path:
        path = self.folder / name
        if not path.exists():
            make(path)
        return path


def run(arguments: list[str], limit: int | None = None) -> dict[str, Any] | str:
    """The report of a run, if need be under a limit on its data; what it said where it failed."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "-m", "dehazexl_cli", *arguments, "--json", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limited)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()


def smallest(arguments: list[str]) -> int:
    """The bytes that the smallest plan of a case needs."""
    plan = run([*arguments, "--dry-run"])
    assert isinstance(plan, dict), plan
    return int(plan["smallest"]["host_bytes"])


def line(name: str, report: dict[str, Any] | str) -> str:
    """A row of the table."""
    if isinstance(report, str):
        return f"| {name} | failed: {' '.join(report.split())[:90]} |"
    plan, peak = report["plan"], report["peak_host_bytes"]
    kept = "" if plan["cached_patches"] is None else f" of {plan['cached_patches']}"
    ratio = plan["host_bytes"] / peak
    queries = " by parts" if plan["query_chunk"] else ""
    fallbacks = f", {len(report['fallbacks'])} fallbacks" if report["fallbacks"] else ""
    how = f"{plan['attention']}{queries}, features {plan['skips']}{kept}, batch {plan['batch']}{fallbacks}"
    sizes = f"{plan['host_bytes'] / 1e6:.0f} | {peak / 1e6:.0f} | {ratio:.2f}"
    return f"| {name} | {sizes} | {how} | {sum(report['seconds'].values()):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=4096)
    parser.add_argument("--only", default="")
    parser.add_argument("--tight", action="store_true")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{date.today()}, {platform.machine()}, torch {torch.__version__}, {threads} threads")
    print("| scene | expected MB | peak MB | expected / peak | plan | seconds |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        runs = Runs(Path(name))
        for case, (side, options) in CASES.items():
            if side > arguments.largest or arguments.only not in case:
                continue
            words = runs.arguments(side, options)
            print(line(case, run(words)), flush=True)
            if arguments.tight and "--max-ram" not in words and "--mode" not in words:
                budget = smallest(words)
                given = f"{-(-budget // 2**20)}M"
                report = run([*words, "--max-ram", given], int(OVER * budget))
                print(line(f"{case} within {given}", report), flush=True)


if __name__ == "__main__":
    main()
