"""Compare the ways to run a scene on large, unevenly hazed scenes made of held-out images, and on real haze.

    python benchmarks/modes.py ../shared/data runs/modes [--models dehazexl-s,mgbl-s] [--go-on]

Makes mosaics of 4096 x 4096 pixels of places that no training has seen, hazes them with `dehazexl synth`,
and runs `dehazexl compare` on each, and on real hazy photographs in DATA/try. Writes modes-DATE.md and
modes-DATE.csv into --results and prints the first. Scenes that are there already are kept; with --go-on
comparisons are, too, so that a run that was stopped goes on. Takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parents[1]
SIDE = 4096
FADE = 48  # pixels over which images of a mosaic fade into each other
SEED = 11
DIGITS = {"psnr": 2, "ssim": 4, "drift": 2, "seam_score": 3, "seam_broad": 3, "seam_error": 3}
TITLES = ("PSNR", "SSIM", "drift", "seam score", "broad", "seam error")
REAL_DIGITS = {"drift": 2, "seam_score": 3, "seam_broad": 3, "contrast": 4, "dark_channel": 4}
REAL_TITLES = ("drift of the change", "seam score", "broad", "contrast", "dark channel")

Images = list[np.ndarray[Any, Any]]
Way = dict[str, Any]  # of a scene by a model: what was measured


@dataclass(frozen=True)
class Scene:
    """A mosaic of a place, and how dense its haze is."""

    level: int  # of `dehazexl synth`
    prefixes: tuple[str, ...]  # of the names of its images
    first: int = 0  # image in the mosaic's corner


LAST_OF_BORUSZYN = tuple(f"odm_boruszyn_kap__img_{n}" for n in ("4937", "494", "495", "496", "497"))
SCENES = {
    "quarry": Scene(2, ("i-sfm_nadir",)),
    "village": Scene(3, LAST_OF_BORUSZYN),
    "savanna": Scene(2, ("neon__SJER",)),
    "suburb": Scene(3, ("urbantree__claremont",)),
    "satellite": Scene(2, ("landsat-wallpapers",)),
    "streets": Scene(2, ("aerial_cars_KIT_AIS",)),
    "farmland": Scene(1, LAST_OF_BORUSZYN, first=5),
    "ruin": Scene(4, ("i-sfm_nadir",), first=7),
}
REAL = {"coast": "real_haze_coast_1.jpg", "city": "real_haze_city_oblique.jpg"}  # in DATA/try


def images(data: Path, scene: Scene) -> Images:
    """The images [3, h, w] of a place, of one shape."""
    paths = [path for path in sorted(data.glob("train_*/*")) if path.name.startswith(scene.prefixes)]
    found = []
    for path in paths[scene.first :] + paths[: scene.first]:
        with rasterio.open(path) as file:
            found.append(file.read([1, 2, 3]))
    height = min(image.shape[1] for image in found)
    width = min(image.shape[2] for image in found)
    return [image[:, :height, :width] for image in found]


def mosaic(tiles: Images) -> np.ndarray[Any, Any]:
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
    folder = out / "hazy" / name
    hazy = folder / f"cloud_L{SCENES[name].level}" / f"{name}.tif"
    if not clear.exists():
        clear.parent.mkdir(parents=True, exist_ok=True)
        pixels = mosaic(images(data, SCENES[name]))
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "compress": "deflate"}
        with rasterio.open(clear, "w", height=SIDE, width=SIDE, **profile) as file:
            file.write(pixels)
    if not hazy.exists():
        dehazexl("synth", clear, folder, "--levels", SCENES[name].level, "--seed", SEED, "--overwrite")
    return hazy, clear


def modes_of(model: str) -> str:
    """What is compared; edge to edge is the same as the default where patches do not overlap anyway."""
    return "global,tile,downsample" if model.startswith("mgbl") else "global,paper,tile,downsample"


def compared(hazy: Path, clear: Path | None, model: str, folder: Path, go_on: bool) -> list[Way]:
    """What `dehazexl compare` found, a way after the other."""
    record = folder / "compare.json"
    if not (go_on and record.exists()):
        reference = () if clear is None else ("--reference", clear)
        arguments = ("--models", model, "--modes", modes_of(model), "--quiet")
        dehazexl("compare", hazy, *reference, *arguments, "--out", folder, "--overwrite")
        for output in folder.glob("*.tif"):
            output.unlink()  # a page shows them, and they are large
    facts = json.loads(record.read_text())["candidates"]
    return [
        {
            "model": model,
            "way": way["label"],
            **{key: way[key] for key in {**DIGITS, **REAL_DIGITS}},
            "seconds": way["seconds"],
            "peak_gigabytes": way["peak_gigabytes"],
            "overlap": way["report"]["overlap"],
            "weights": way["report"]["weights_sha256"],
        }
        for way in facts
        if way["report"]  # else it is the input, whose line `sky` makes
    ]


def sky(hazy: Path, clear: Path) -> str:
    """What `dehazexl synth` put over a scene, in words, and the PSNR of the scene as it is then."""
    record = json.loads(hazy.with_name(f"{hazy.name}.json").read_text())
    with rasterio.open(hazy) as before, rasterio.open(clear) as truth:
        error = np.subtract(before.read(), truth.read(), dtype=np.float32)
    psnr = 20 * np.log10(255) - 10 * np.log10(np.square(error).mean(dtype=np.float64))
    where = f"level {record['level']}, {record['weather']}, features of {record['period']:.0f} pixels"
    return f"{where}, {psnr:.2f} dB"


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def cells(way: Way, digits: dict[str, int]) -> list[str]:
    """The numbers of a line."""
    return [f"{way[key]:.{places}f}" for key, places in digits.items()]


def table(ways: list[Way], titles: tuple[str, ...], digits: dict[str, int]) -> Iterator[str]:
    """A line per scene and way, and the means, of one model."""
    yield line("scene", "way", *titles)
    yield line(*["---"] * 2, *["---:"] * len(titles))
    for number, way in enumerate(ways):
        again = number and ways[number - 1]["scene"] == way["scene"]
        yield line("" if again else way["scene"], way["way"], *cells(way, digits))
    for name in dict.fromkeys(way["way"] for way in ways):
        mine = [way for way in ways if way["way"] == name]
        means = {key: statistics.fmean(way[key] for way in mine) for key in digits}
        yield line("**mean**", name, *cells(means, digits))


def against(ways: list[Way], other: str) -> Iterator[str]:
    """By how much global mode is better than another in PSNR and drift, scene by scene; negative is worse."""
    yield line("scene", f"PSNR, dB above {other}", f"drift, levels below {other}")
    yield line("---", "---:", "---:")
    gains, falls = [], []
    for scene in dict.fromkeys(way["scene"] for way in ways):
        of = {way["way"]: way for way in ways if way["scene"] == scene}
        gains.append(of["global"]["psnr"] - of[other]["psnr"])
        falls.append(of[other]["drift"] - of["global"]["drift"])
        yield line(scene, f"{gains[-1]:+.2f}", f"{falls[-1]:+.2f}")
    yield line("**mean**", f"{statistics.fmean(gains):+.2f}", f"{statistics.fmean(falls):+.2f}")
    better = [sum(value > 0 for value in values) for values in (gains, falls)]
    yield line("better on", *(f"{count} of {len(gains)}" for count in better))


def document(ways: list[Way], skies: dict[str, str], real: list[Way]) -> Iterator[str]:
    """The tables in Markdown."""
    yield f"# `python benchmarks/modes.py`, {date.today()}\n"
    yield f"Mosaics of {SIDE} x {SIDE} pixels of held-out places, seed {SEED}; drift in levels of 255.\n"
    yield from (line(*row) for row in (("scene", "haze, and PSNR before"), ("---", "---"), *skies.items()))
    for model in dict.fromkeys(way["model"] for way in [*ways, *real]):
        mine, photographs = ([way for way in some if way["model"] == model] for some in (ways, real))
        sha = next(way["weights"] for way in [*mine, *photographs])
        yield f"\n## {model}, weights {(sha or 'unknown')[:8]}\n"
        if mine:
            yield from table(mine, TITLES, DIGITS)
            taken = {way["way"] for way in mine}
            for other in [way for way in ("tile", "downsample") if way in taken]:
                yield f"\n### {model}: global against {other}\n"
                yield from against(mine, other)
        if photographs:
            yield f"\n### {model}: real haze, without reference\n"
            yield from table(photographs, REAL_TITLES, REAL_DIGITS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="dehazexl-s,mgbl-s")
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    ways: list[Way] = []
    real: list[Way] = []
    skies = {}
    for model in chosen.models.split(","):
        folder = chosen.out / "compared" / Path(model).stem
        for name in chosen.scenes.split(","):
            hazy, clear = make_scene(name, chosen.data, chosen.out)
            skies[name] = sky(hazy, clear)
            found = compared(hazy, clear, model, folder / name, chosen.go_on)
            ways += [{"scene": name, **way} for way in found]
        for name, file in REAL.items():
            found = compared(chosen.data / "try" / file, None, model, folder / name, chosen.go_on)
            real += [{"scene": name, **way} for way in found]
    text = "\n".join(document(ways, skies, real)) + "\n"
    stem = chosen.results / f"modes-{date.today()}"
    stem.with_suffix(".md").write_text(text)
    with stem.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*ways[0]])
        writer.writeheader()
        writer.writerows([*ways, *real])
    print(text, end="")


if __name__ == "__main__":
    main()
