"""What `quality.py` shows of its figures: means that hide nothing, each beside its worst image."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean

from quality_sets import GROUND

BEST = 50.0  # decibels; beyond them nobody sees a difference, and infinities would drown every mean
INPUT = "hazy input"
CLEARLY = 0.5  # decibels worse than it went in
LISTED = 20  # images that became clearly worse
LEGEND = f"""\
- gain: PSNR above that of the input
- contrast: standard deviation of details (a pixel less the mean of 15 x 15) as a share of the truth's
- brightness: mean output less mean truth, of 255 levels, and in brackets the mean of its size
- worst: the image that gained least
- worse: outputs farther from the truth than their input, in PSNR, and those by more than {CLEARLY} dB; not
  counted where the input is the truth, as every change is then one for the worse"""


@dataclass(frozen=True)
class Row:
    """The figures of one output."""

    set_name: str
    image: str
    variant: str
    method: str
    input_psnr: float  # dB, BEST at most
    psnr: float
    gain: float  # psnr above input_psnr
    ssim: float
    contrast: float  # standard deviation of details, as a share of the truth's
    brightness: float  # mean output minus mean truth, of 255 levels
    shift: float  # mean distance from the truth, of 255 levels

    @property
    def place(self) -> str:
        """Name the image and how it was hazed."""
        return f"{self.image}, {self.variant}" if self.variant else self.image


def document(rows: Sequence[Row], fingerprints: Mapping[str, str], shown: str, about: Sequence[str]) -> str:
    """Lay out everything as Markdown; `shown` is the method whose failures are listed one by one."""
    parts = [
        "# Quality",
        "\n".join(f"- {line}" for line in about),
        "## Mean PSNR, dB",
        means_table(rows, fingerprints),
        f"No figure is above {BEST:.0f} dB. Figures compare where the fingerprints of inputs are equal.",
        "## All figures",
        sets_table(rows),
        f"Means over a set, then what the mean hides.\n\n{LEGEND}",
    ]
    if any(row.set_name == GROUND for row in rows):
        parts += ["## Even ground without haze", ground_table(rows)]
        parts += ["Mean distance from the truth, and mean output less mean truth, of 255 levels."]
    parts += [f"## Clearly worse than it went in: {shown}", failures(rows, shown)]
    return "\n\n".join(parts) + "\n"


def means_table(rows: Sequence[Row], fingerprints: Mapping[str, str]) -> str:
    """Tabulate mean PSNR, a line per set and a column per method."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = [["set", "inputs", "fingerprint", *methods]]
    for name, by_method in by_set(rows).items():
        means = [decimals(fmean(row.psnr for row in by_method[method])) for method in methods]
        lines.append([name, str(len(by_method[methods[0]])), fingerprints[name], *means])
    return markdown(lines)


def sets_table(rows: Sequence[Row]) -> str:
    """Tabulate all figures, a line per set and method."""
    heads = ["set", "method", "PSNR", "gain", "SSIM", "contrast", "brightness", "worst (gain)", "worse"]
    lines = [[*heads, f"by > {CLEARLY} dB"]]
    for name, by_method in by_set(rows).items():
        for method, same in by_method.items():
            # A set is named once, so that the eye finds where the next one begins.
            lines.append(["" if len(lines) > 1 and method != INPUT else name, method, *summary(same)])
    return markdown(lines)


def summary(rows: Sequence[Row]) -> list[str]:
    """Sum up one method on one set."""
    sizes = fmean(abs(row.brightness) for row in rows)
    cells = [
        decimals(fmean(row.psnr for row in rows)),
        decimals(fmean(row.gain for row in rows), signed=True),
        decimals(fmean(row.ssim for row in rows), 3),
        decimals(fmean(row.contrast for row in rows)),
        f"{decimals(fmean(row.brightness for row in rows), 1, signed=True)} ({decimals(sizes, 1)})",
    ]
    if rows[0].method == INPUT:
        return [*cells, "", "", ""]
    worst = min(rows, key=lambda row: row.gain)
    counts = [count(rows, 0), count(rows, CLEARLY)]
    if all(row.input_psnr == BEST for row in rows):
        counts = ["–", "–"]
    return [*cells, f"{worst.place} ({decimals(worst.gain, signed=True)})", *counts]


def count(rows: Sequence[Row], by: float) -> str:
    """Count the rows that lost more than that many decibels, in bold if there are some."""
    found = sum(row.gain < -by for row in rows)
    return f"**{found}**/{len(rows)}" if found else f"0/{len(rows)}"


def ground_table(rows: Sequence[Row]) -> str:
    """Tabulate what becomes of each even ground."""
    methods = by_set(rows)[GROUND]
    grounds = [row.image for row in methods[INPUT]]
    lines = [["method", *grounds, "mean", "worst"]]
    for method, same in methods.items():
        if method != INPUT:
            shifts = [row.shift for row in same]
            cells = [f"{decimals(row.shift, 1)} ({decimals(row.brightness, 1, signed=True)})" for row in same]
            lines.append([method, *cells, decimals(fmean(shifts), 1), decimals(max(shifts), 1)])
    return markdown(lines)


def failures(rows: Sequence[Row], method: str) -> str:
    """List the outputs that are clearly worse than their hazy inputs, the worst first."""
    worse = [row for row in rows if row.method == method and row.gain < -CLEARLY and row.input_psnr < BEST]
    if not worse:
        return "None."
    lines = [["set", "image", "input", "output", "gain", "contrast", "brightness"]]
    for row in sorted(worse, key=lambda row: row.gain)[:LISTED]:
        cells = [decimals(row.input_psnr), decimals(row.psnr), decimals(row.gain, signed=True)]
        cells += [decimals(row.contrast), decimals(row.brightness, 1, signed=True)]
        lines.append([row.set_name, row.place, *cells])
    more = f"\n\nAnd {len(worse) - LISTED} more." if len(worse) > LISTED else ""
    return markdown(lines) + more


def by_set(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Sort rows by set and method, both in the order they came in."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row.set_name, {}).setdefault(row.method, []).append(row)
    return found


def decimals(value: float, places: int = 2, signed: bool = False) -> str:
    """Format a number; a nan as a dash, and what rounds to zero without a sign."""
    if math.isnan(value):
        return "–"
    value = round(value, places) + 0.0
    return f"{value:+.{places}f}" if signed and value else f"{value:.{places}f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lay out lines of cells, the first being the heads, as a table."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the figures of every output."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["set" if field.name == "set_name" else field.name for field in fields(Row)])
        for row in rows:
            lines.writerow([round(v, 4) if isinstance(v, float) else v for v in astuple(row)])
