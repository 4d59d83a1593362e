"""How good results are, on held-out places under many kinds of haze, beside methods that learned nothing.

    python benchmarks/quality.py --data FOLDER … [--real FOLDER] [--model NAME] [--weights FILE] [--quick]
        [--sets NAME …] [--out FILE.md] [--write FOLDER]
    python benchmarks/quality.py --print-hold-out    options for `dehazexl train`

Prints a table; with --out, writes it and, beside it, a CSV with the figures of every image. The model is run
as users run it, by `dehazexl_cli.dehaze` with its defaults. With --write, the inputs are written for
`dehazexl evaluate --data` instead. From Python, `evaluate` measures any named functions:

    rows = evaluate({"mine": from_module(network)}, make_cases(pictures, set_names()))
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from dark_channel import dark_channel_prior
from quality_sets import (
    HELD_OUT,
    Bytes,
    Case,
    Floats,
    as_bytes,
    fingerprint,
    held_out_pictures,
    make_cases,
    set_names,
    write_pairs,
)
from quality_table import BEST, INPUT, Row, document, write_csv

import dehazexl_cli
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import precision_for
from dehazexl_cli.engine.device import choose_devices, precision_name
from dehazexl_cli.errors import DehazeError
from dehazexl_cli.evaluation import compare
from dehazexl_cli.models.checkpoint import Loaded
from dehazexl_cli.raster.memory import ArrayReader

Dehaze = Callable[[Bytes], Bytes]  # [height, width, 3] to the same shape

BOX = 15  # pixels of the mean that is no detail
DARK_OBJECT, BRIGHTEST_VEIL = 0.1, 0.85  # percentile; and the airlight that dark-object subtraction supposes


def evaluate(
    methods: Mapping[str, Dehaze],
    cases: Iterable[Case],
    watch: Callable[[Case], None] = lambda case: None,
) -> list[Row]:
    """Measure the input and every method on every case; ValueError for a method that gives no 8-bit picture.

    `watch` is told of each case before it is measured.
    """
    rows = []
    for case in cases:
        watch(case)
        rows.append(measure(INPUT, case, case.hazy))
        for name, dehaze in methods.items():
            rows.append(measure(name, case, dehaze(case.hazy), rows[-1].input_psnr))
    return rows


def measure(method: str, case: Case, output: Bytes, input_psnr: float | None = None) -> Row:
    """Compare an output with the truth; without `input_psnr`, it is the input itself."""
    if output.dtype != np.uint8 or output.shape != case.clear.shape:
        raise ValueError(f"{method} gave {output.dtype} {output.shape} of uint8 {case.clear.shape}")
    scores = compare(ArrayReader(output), ArrayReader(case.clear))
    psnr = min(BEST, scores.psnr)
    before = psnr if input_psnr is None else input_psnr
    error = output.astype(np.float64) - case.clear
    return Row(
        *(case.set_name, case.image, case.variant, method),
        input_psnr=before,
        psnr=psnr,
        gain=psnr - before,
        ssim=scores.ssim,
        contrast=float(details(output).std() / details(case.clear).std()),
        brightness=float(error.mean()),
        shift=float(np.abs(error).mean()),
    )


def details(picture: Bytes) -> Floats:
    """Subtract from each pixel the mean of the box around it; without the border, which has no whole box."""
    mean = picture.astype(np.float64)
    for axis in (0, 1):
        sums = np.insert(np.cumsum(mean, axis), 0, 0, axis)
        mean = (np.delete(sums, np.s_[:BOX], axis) - np.delete(sums, np.s_[-BOX:], axis)) / BOX
    inner = slice(BOX // 2, -(BOX // 2))
    return picture[inner, inner] - mean


def from_loaded(loaded: Loaded) -> Dehaze:
    """Dehaze as the Python interface does."""
    return partial(dehazexl_cli.dehaze, model=loaded)


def from_module(module: Callable[[torch.Tensor], torch.Tensor], device: str = "cpu") -> Dehaze:
    """Dehaze by one pass of a network over [1, 3, height, width] in [0, 1], as a trainer has it."""

    def dehaze(hazy: Bytes) -> Bytes:
        with torch.inference_mode():
            shown = torch.from_numpy(hazy).permute(2, 0, 1)[None].to(device) / 255
            return as_bytes(module(shown)[0].float().permute(1, 2, 0).cpu().numpy())

    return dehaze


def subtract_dark_object(hazy: Bytes) -> Bytes:
    """Take off each band's darkest level, which is haze if anything is black, and stretch the rest."""
    picture = hazy / 255
    veil = np.percentile(picture, DARK_OBJECT, axis=(0, 1))
    return as_bytes((picture - veil) / np.maximum(0.1, 1 - veil / BRIGHTEST_VEIL))


BASELINES: Mapping[str, Dehaze] = {
    "dark channel prior": from_module(dark_channel_prior),
    "dark-object subtraction": subtract_dark_object,
}


def teller(total: int) -> Callable[[Case], None]:
    """Tell on stderr where it is: at each set's first case, and every 20 cases."""
    began = time.monotonic()
    seen: list[str] = []

    def tell(case: Case) -> None:
        if case.set_name not in seen or len(seen) % 20 == 0:
            seconds = time.monotonic() - began
            print(
                f"{len(seen)} of {total} after {seconds:.0f} s: {case.set_name}", file=sys.stderr, flush=True
            )
        seen.append(case.set_name)

    return tell


def describe(chosen: argparse.Namespace, loaded: Loaded, pictures: int) -> list[str]:
    """Say what was measured, without the places where things lie on this machine."""
    words = ["python benchmarks/quality.py --data", *(folder.resolve().name for folder in chosen.data)]
    for option in ("real", "weights"):
        if path := getattr(chosen, option):
            words += [f"--{option}", path.name]
    words += ["--model", chosen.model] if chosen.model else []
    words += ["--quick"] if chosen.quick else []
    words += ["--sets", *(shlex.quote(name) for name in chosen.sets)] if chosen.sets else []
    device = choose_devices(EngineOptions().device)[0]
    precision = precision_name(precision_for(loaded.model, EngineOptions().precision, device))
    versions = f"torch {torch.__version__}, dehazexl {dehazexl_cli.__version__}, {device}, {precision}"
    lines = [f"`{' '.join(words)}`", f"{date.today()}, {versions}"]
    lines += [f"{pictures} held-out images", f"weights of {loaded.name}: SHA-256 {loaded.sha256}"]
    return lines


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", type=Path, help="folders of clear images")
    parser.add_argument("--real", type=Path, help="a folder whose folders hold hazy/ beside clear/")
    parser.add_argument("--model", help="default: the one that `dehazexl run` takes")
    parser.add_argument("--weights", type=Path, help="a weight file; instead of the bundled ones")
    parser.add_argument("--sets", nargs="+", default=[], help="beginnings of names; default: all")
    parser.add_argument("--quick", action="store_true", help="8 images and two airlights")
    parser.add_argument("--out", type=Path, help="FILE.md, or a folder, for quality-DATE-HASH.md")
    parser.add_argument("--write", type=Path, help="write the images to this folder instead of measuring")
    parser.add_argument("--print-hold-out", action="store_true", help="as options of `dehazexl train`")
    chosen = parser.parse_args()
    if not chosen.print_hold_out and not chosen.data:
        parser.error("--data is missing")
    return chosen


def main() -> None:
    chosen = read_arguments()
    try:
        if chosen.print_hold_out:
            print(" ".join(f"--hold-out {prefix}" for prefix in HELD_OUT))
        else:
            run(chosen)
    except DehazeError as error:
        sys.exit(f"{error}\n  try: {error.hint}")


def run(chosen: argparse.Namespace) -> None:
    names = set_names(chosen.real, chosen.sets)
    pictures = held_out_pictures(chosen.data, chosen.quick)
    cases = list(make_cases(pictures, names, chosen.real, chosen.quick))
    if chosen.write:
        write_pairs(cases, chosen.write)
        return
    loaded = dehazexl_cli.load_model(chosen.model, chosen.weights)
    rows = evaluate({**BASELINES, loaded.name: from_loaded(loaded)}, cases, teller(len(cases)))
    prints = {name: fingerprint([case for case in cases if case.set_name == name]) for name in names}
    text = document(rows, prints, loaded.name, describe(chosen, loaded, len(pictures)))
    print(text, end="")
    if chosen.out:
        name = f"quality-{date.today()}-{loaded.sha256[:8]}.md"
        target = chosen.out / name if chosen.out.is_dir() else chosen.out
        target.write_text(text, encoding="utf-8")
        write_csv(target.with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
