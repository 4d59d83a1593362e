"""Compare the ways to run a scene on large, unevenly hazed scenes made of held-out images.

    python benchmarks/modes.py ../shared/data runs/modes [--weights FILE] [--scenes 5] > table.md

Makes mosaics of at least 4096 x 4096 pixels of places that no training has seen, hazes them with
`dehazexl synth`, and runs `dehazexl compare` on each. Prints a table in Markdown. Scenes that are there
already are kept, so that only the comparison is done again for other weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

SIDE = 4096
FADE = 48  # pixels over which images of a mosaic fade into each other
SEED = 11
# Name of the scene -> beginnings of file names; mirrored copies fill up what few images leave.
PLACES = {
    "quarry": ("i-sfm_nadir",),
    "village": tuple(f"odm_boruszyn_kap__img_{n}" for n in ("4937", "494", "495", "496", "497")),
    "savanna": ("neon__SJER",),
    "suburb": ("urbantree__claremont",),
    "satellite": ("landsat-wallpapers",),
}
LEVELS = {"quarry": 2, "village": 3, "savanna": 2, "suburb": 3, "satellite": 2}
MODES = ("global", "paper", "tile", "downsample")


def images(data: Path, prefixes: tuple[str, ...]) -> list[np.ndarray[Any, Any]]:
    """The images [3, h, w] of a place, of one shape."""
    paths = [path for path in sorted(data.glob("train_*/*")) if path.name.startswith(prefixes)]
    found = []
    for path in paths:
        with rasterio.open(path) as file:
            found.append(file.read([1, 2, 3]))
    height = min(image.shape[1] for image in found)
    width = min(image.shape[2] for image in found)
    return [image[:, :height, :width] for image in found]


def mosaic(tiles: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """SIDE x SIDE pixels; copies of an image are mirrored, another way each time round.

    Images fade into each other, as an edge of the ground that lay on a patch line would be taken for a seam.
    """
    _, height, width = tiles[0].shape
    down, right = fading(height), fading(width)
    rows, cols = (-(-(SIDE - FADE) // (size - FADE)) for size in (height, width))
    scene = np.zeros((3, rows * (height - FADE) + FADE, cols * (width - FADE) + FADE), np.float32)
    weights = np.zeros(scene.shape[1:], np.float32)
    for number in range(rows * cols):
        round_, index = divmod(number, len(tiles))
        flip = [(1, 1), (1, -1), (-1, 1), (-1, -1)][round_ % 4]
        row, col = divmod(number, cols)
        top, left = row * (height - FADE), col * (width - FADE)
        part = slice(top, top + height), slice(left, left + width)
        scene[(slice(None), *part)] += tiles[index][:, :: flip[0], :: flip[1]] * np.outer(down, right)
        weights[part] += np.outer(down, right)
    return (scene / weights).round().astype(np.uint8)[:, :SIDE, :SIDE]


def fading(size: int) -> np.ndarray[Any, Any]:
    """How much each pixel along an axis of an image counts."""
    ramp = (np.arange(FADE, dtype=np.float32) + 0.5) / FADE
    return np.concatenate([ramp, np.ones(size - 2 * FADE, np.float32), ramp[::-1]])


def dehazexl(*arguments: object) -> str:
    """Run a command and hand back what it prints."""
    command = [sys.executable, "-m", "dehazexl_cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_scene(name: str, data: Path, out: Path) -> tuple[Path, Path]:
    """The hazy and the clear file of a scene, made if they are not there."""
    clear = out / "clear" / f"{name}.tif"
    hazy_folder = out / "hazy" / name
    if not clear.exists():
        clear.parent.mkdir(parents=True, exist_ok=True)
        scene = mosaic(images(data, PLACES[name]))
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "compress": "deflate"}
        with rasterio.open(clear, "w", height=scene.shape[1], width=scene.shape[2], **profile) as file:
            file.write(scene)
    if not hazy_folder.exists():
        dehazexl("synth", clear, hazy_folder, "--levels", LEVELS[name], "--seed", SEED)
    (hazy,) = hazy_folder.glob(f"cloud_*/{name}.tif")
    return hazy, clear


def compared(name: str, data: Path, out: Path, weights: Path | None) -> list[dict[str, Any]]:
    """What `dehazexl compare` found, by way."""
    hazy, clear = make_scene(name, data, out)
    model = [] if weights is None else ["--models", weights]
    folder = out / "compared" / name
    arguments = ("--reference", clear, "--modes", ",".join(MODES), "--out", folder, "--overwrite", "--json")
    found: list[dict[str, Any]] = json.loads(dehazexl("compare", hazy, *arguments, *model))["candidates"]
    return found


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scenes", type=int, default=len(PLACES))
    chosen = parser.parse_args()
    print(line("scene", "way", "PSNR", "SSIM", "drift", "seam score", "broad", "seam error", "time"))
    print(line(*["---"] * 2, *["---:"] * 7))
    every: dict[str, list[dict[str, Any]]] = {}
    for name in list(PLACES)[: chosen.scenes]:
        found = compared(name, chosen.data, chosen.out, chosen.weights)
        first = found[0]["seconds"]
        for way in found:
            every.setdefault(way["label"], []).append(way | {"time": way["seconds"] / first})
            print(line(name, way["label"], *cells(every[way["label"]][-1])), flush=True)
    for label, ways in every.items():
        keys = ("psnr", "ssim", "drift", "seam_score", "seam_broad", "seam_error", "time")
        means = {key: statistics.fmean(way[key] for way in ways) for key in keys}
        print(line("**mean**", label, *cells(means)))


def cells(way: dict[str, Any]) -> list[str]:
    """The numbers of a line."""
    digits = {"psnr": 2, "ssim": 4, "drift": 2, "seam_score": 3, "seam_broad": 3, "seam_error": 3, "time": 2}
    return [f"{way[key]:.{places}f}" for key, places in digits.items()]


if __name__ == "__main__":
    main()
