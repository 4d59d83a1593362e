"""What an evaluation found: its means, and how it is written as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dehazexl_cli.cli import output

if TYPE_CHECKING:
    from dehazexl_cli.evaluation import Scores, Seams

MEASURES = (
    *("hazy_psnr", "hazy_ssim", "output_psnr", "output_ssim", "gain_psnr", "gain_ssim", "clear_psnr"),
    *("seam_score", "seam_broad", "seam_error"),
)


class Result(NamedTuple):
    """What was measured of one pair; numbers may be infinite or nan."""

    name: str
    group: str
    clear: Path
    measures: dict[str, float]  # by MEASURES


class Failure(NamedTuple):
    """A pair that could not be measured, and why."""

    name: str
    group: str
    error: str


@dataclass
class Outcome:
    """What has been measured so far."""

    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def measures(before: Scores, after: Scores, untouched: float, seams: Seams) -> dict[str, float]:
    """Everything that is said of a pair, by MEASURES."""
    gains = gain(before.psnr, after.psnr), gain(before.ssim, after.ssim)
    close = (before.psnr, before.ssim, after.psnr, after.ssim, *gains, untouched)
    values = (*close, seams.score, seams.broad, seams.error)
    return dict(zip(MEASURES, values, strict=True))


def gain(before: float, after: float) -> float:
    """The difference, none between two infinite scores."""
    return 0.0 if before == after else after - before


def means(results: Sequence[Result]) -> dict[str, float]:
    """Means over pairs; of the clear images each counts once, however many hazy ones belong to it."""
    found = {key: mean(result.measures[key] for result in results) for key in MEASURES}
    untouched = {result.clear: result.measures["clear_psnr"] for result in results}
    return found | {"clear_psnr": mean(untouched.values())}


def mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers; nan of none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def by_group(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by group, in the order of their pairs."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return groups


def as_csv(outcome: Outcome) -> str:
    """A line per pair, failures last; "inf" for identical images, empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "group", *MEASURES, "error"))
    for result in outcome.results:
        writer.writerow((result.name, result.group, *map(written, result.measures.values()), ""))
    for failure in outcome.failures:
        writer.writerow((failure.name, failure.group, *("" for _ in MEASURES), failure.error))
    return text.getvalue()


def written(value: float) -> str:
    """A number with four decimals; nothing for nan."""
    return "" if math.isnan(value) else f"{value:.4f}"


def as_plain(outcome: Outcome, about: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain values for JSON, which has no infinity and no nan: null stands for both."""
    from dehazexl_cli.evaluation.measures import rounded

    groups = by_group(outcome.results)
    return about | {
        "pairs": [{"name": r.name, "group": r.group} | rounded(r.measures) for r in outcome.results],
        "groups": [{"group": g, "pairs": len(rs)} | rounded(means(rs)) for g, rs in groups.items()],
        "overall": {"pairs": len(outcome.results)} | rounded(means(outcome.results)),
        "failed": [failure._asdict() for failure in outcome.failures],
    }


def print_table(results: Sequence[Result]) -> None:
    """The results for a person: pairs, then means."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE)
    for title in ("name", "group"):
        table.add_column(title, overflow="fold")
    for title in ("hazy\nPSNR / SSIM", "output\nPSNR / SSIM", "gain\nPSNR", "clear\nPSNR", "seam\nscore"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        table.add_row(result.name, result.group, *cells(result.measures))
    table.add_section()
    groups = by_group(results)
    for group, members in groups.items() if len(groups) > 1 else ():
        table.add_row(f"mean of {len(members)}", group, *cells(means(members)))
    table.add_row(f"mean of {len(results)}", "all", *cells(means(results)))
    output.put_table(table)


def cells(values: dict[str, float]) -> list[str]:
    """What the table shows of the measures, in decibels and SSIM's own units."""
    hazy, output = (f"{values[f'{it}_psnr']:.2f} / {values[f'{it}_ssim']:.4f}" for it in ("hazy", "output"))
    gained, untouched = values["gain_psnr"], values["clear_psnr"]
    last = ("" if math.isnan(value) else f"{value:.2f}" for value in (untouched, values["seam_score"]))
    return [hazy, output, f"{gained:+.2f}", *last]
