"""`dehazexl compare IN --out DIR`: one scene, several ways, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dehazexl_cli.atomic import remove_orphans, write_atomic
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.cli.settings import PREFIX
from dehazexl_cli.errors import Interrupted, UsageError
from dehazexl_cli.paths import make_folder, require_all_writable
from dehazexl_cli.signals import hint_when_stopped
from dehazexl_cli.text import to_json, view_command

if TYPE_CHECKING:
    from dehazexl_cli.evaluation import Seam
    from dehazexl_cli.evaluation.measures import Measures, View

MODES = {
    "global": ["--mode", "global"],
    "paper": ["--mode", "global", "--overlap", "0"],  # as published: edge to edge
    "tile": ["--mode", "tile"],
    "downsample": ["--mode", "downsample"],
    "whole": ["--mode", "whole"],
}
NO_ROOM = "free some space"
COLUMNS = {
    "seconds": "seconds",
    "peak_gigabytes": "peak\nGB",
    "psnr": "PSNR\ndB",
    "ssim": "SSIM",
    "seam_score": "seam\nscore",
    "seam_broad": "broad\nseam",
    "seam_error": "seam\nerror",
    "drift": "drift\nlevels",
    "contrast": "contrast\n(indicator)",
    "dark_channel": "dark channel\n(indicator)",
}


@shares(
    *("device", "precision", "bands", "not_alpha", "input_range", "max_ram", "max_vram", "multiple"),
    *options.MODE[1:],
)
def compare(
    source: options.Input,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for outputs and report.")],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="CLEAR", help="The same scene without haze.")
    ] = None,
    modes: Annotated[
        str,
        typer.Option(
            "--modes",
            metavar="MODE,…",
            help=f"Of: {', '.join(MODES)}; paper is global, patches edge to edge.",
        ),
    ] = "global,tile,downsample",
    models: Annotated[
        str, typer.Option("--models", metavar="NAME,…", help="Models, and weight files of any.")
    ] = "dehazexl-s",
    places: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="COL,ROW", help="A place to show at full size, in pixels; repeatable."),
    ] = None,
    *,
    shared: Shared,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Dehaze IN in several modes and measure how the outputs differ; write a report that opens in a browser.

    DIR gets the outputs, compare.json and report.html, which needs no network. The first row is IN itself,
    to see what was gained. Seam scores: 1.00 is perfect. Drift: how much neighbouring squares of 512 pixels
    differ in the colour of their error (without --reference: of their change, which holds the haze's own
    unevenness).

    Example: dehazexl compare hazy.tif --reference clear.tif --modes global,paper,tile --out compared
    """
    output.configure_logging(False, quiet)
    handed_on = ("device", "precision", "bands", "input_range", "max_ram", "max_vram")
    common = given(shared, *handed_on) + ["--not-alpha"] * shared.not_alpha
    of_modes = {
        "tile": given(shared, "tile", "tile_overlap", "blend"),
        "downsample": given(shared, "long_side", "upsampling"),
    }
    candidates = list_candidates(models, modes, common, of_modes, given(shared, "multiple"))
    spots = [parse_place(place) for place in places or ()]
    make_folder(out)
    networks = (Path(model.strip()) for model in models.split(","))
    written = [*(candidate.target(out) for candidate in candidates), *documents(out)]
    require_all_writable(written, overwrite, (source, reference, *networks))
    require_pair(source, reference)
    with hint_when_stopped(f"finished outputs stay in {out}, without a report; begin anew with --overwrite"):
        for number, candidate in enumerate(candidates, 1):
            if not quiet:
                output.say(f"{number} of {len(candidates)}: {candidate.label}")
            candidate.run(source, reference, out, quiet)
        publish(source, reference, out, candidates, spots, as_json)
    if not quiet:
        output.say(f"{out / 'report.html'}: open it in a browser")
        finished = [str(candidate.output) for candidate in candidates if candidate.output is not None]
        if finished:
            output.say(f"at full resolution: {view_command(source, *finished)}")
    if any(candidate.error for candidate in candidates):
        raise typer.Exit(output.FINISHED_WITH_FAILURES)


@dataclass
class Candidate:
    """One way to dehaze the scene, and what came of it."""

    label: str
    arguments: list[str]
    report: dict[str, Any] = field(default_factory=dict)
    measures: Measures | None = None
    seams: tuple[Seam, ...] = ()
    output: Path | None = None
    error: str = ""

    def run(self, source: str, reference: str | None, out: Path, quiet: bool) -> None:
        """Dehaze and measure; a failure is noted and said.

        In a process of its own, whose peak memory is then this way's and no other's. What variables set was
        heeded here already, where it is meant for this command.
        """
        from dehazexl_cli.evaluation.measures import measure

        target = self.target(out)
        command = [sys.executable, "-m", "dehazexl_cli", "run", source, str(target), "--json", "--overwrite"]
        try:
            done = subprocess.run(
                [*command, *self.arguments, *(["--quiet"] if quiet else [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if quiet else None,
                text=True,
                env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
                # Ctrl-C is to end this process alone, which then ends that one.
                start_new_session=True,
            )
        except Interrupted:
            remove_orphans(out)
            raise
        if done.returncode:
            self.error = f"`dehazexl run` ended with exit code {done.returncode}"
            output.say(f"failed: {self.label}: {self.error}")
            if done.stderr:
                output.say(done.stderr.strip())
            return
        self.report = json.loads(done.stdout)
        self.output = target
        self.measures, self.seams = measure(
            source, str(target), reference, self.view, self.report["seam_lines"]
        )

    def target(self, out: Path) -> Path:
        """Where the output goes."""
        return out / f"{self.label.replace(' ', '-')}.tif"

    @property
    def view(self) -> View:
        """The numbers that the run looked at."""
        from dehazexl_cli.evaluation.measures import View

        return View(tuple(self.report["bands"]), self.report["low"], self.report["high"])

    def to_dict(self) -> dict[str, Any]:
        """What is said of it, as plain values."""
        if self.measures is None:
            return {"label": self.label, "error": self.error}
        return {
            "label": self.label,
            "seconds": round(sum(self.report["seconds"].values()), 2),
            "peak_gigabytes": round(self.report["peak_host_bytes"] / 2**30, 2),
            **self.measures.to_dict(),
            "worst_seams": [
                {**seam.box._asdict(), "levels": round(seam.height, 2)} for seam in self.seams[:8]
            ],
            "report": self.report,
        }


def given(shared: Shared, *names: str) -> list[str]:
    """Options that have a value, as another command takes them."""
    values = {name: getattr(shared, name) for name in names}
    return [
        part
        for name, value in values.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def list_candidates(
    models: str, modes: str, common: list[str], of_modes: dict[str, list[str]], multiple: list[str]
) -> list[Candidate]:
    """Every model in every mode; UsageError for a mode that is none, or nothing to do."""
    wanted = [mode.strip() for mode in modes.split(",")]
    for mode in wanted:
        if mode not in MODES:
            raise UsageError(f"--modes: {mode!r} is not known", f"use some of: {', '.join(MODES)}")
    for mode, arguments in of_modes.items():
        if arguments and mode not in wanted:
            raise UsageError(f"{arguments[0]} has no meaning without mode {mode}", f"add {mode} to --modes")
    named = [model.strip() for model in models.split(",")]
    found = []
    for model in dict.fromkeys(named):
        for mode in dict.fromkeys(wanted):
            arguments = [*model_arguments(model, multiple), *MODES[mode], *of_modes.get(mode, []), *common]
            label = mode if len(named) == 1 else f"{Path(model).stem} {mode}"
            found.append(Candidate(label, arguments))
    return found


def model_arguments(model: str, multiple: list[str]) -> list[str]:
    """A bundled model by name; any other by its file, whose suffix tells foreign networks."""
    path = Path(model)
    if path.suffix in (".pt", ".pt2"):
        return ["--model", "generic", "--weights", model, *multiple]
    if path.suffix in (".pth", ".safetensors"):
        return ["--weights", model]
    return ["--model", model]


def parse_place(text: str) -> tuple[int, int]:
    """Column and row of "1200,800"."""
    column, _, row = text.partition(",")
    if not (column.isdecimal() and row.isdecimal()):
        raise UsageError(f"--at {text!r} is no place", "write it like 1200,800: column and row")
    return int(column), int(row)


def documents(out: Path) -> tuple[Path, Path]:
    """The JSON file and the page."""
    return out / "compare.json", out / "report.html"


def require_pair(source: str, reference: str | None) -> None:
    """Raises InputError, before any work, if the scene or its reference cannot be used."""
    from contextlib import closing

    from dehazexl_cli.evaluation import require_one_size
    from dehazexl_cli.raster import open_reader

    with closing(open_reader(source)) as scene:
        if reference is not None:
            with closing(open_reader(reference)) as truth:
                require_one_size(scene.info, truth.info)


def publish(
    source: str,
    reference: str | None,
    out: Path,
    candidates: list[Candidate],
    spots: list[tuple[int, int]],
    as_json: bool,
) -> None:
    """Write the JSON and the page, and print the table, or the JSON."""
    done = [candidate for candidate in candidates if candidate.output is not None]
    before = [input_row(source, reference, done[0].view)] if done else []
    rows = [*before, *(candidate.to_dict() for candidate in candidates)]
    facts = {"input": source, "reference": reference, "candidates": rows}
    text = to_json(facts, 2)
    measured = [row for row in rows if "error" not in row]
    as_data, as_page = documents(out)
    write_atomic(as_data, text + "\n", NO_ROOM)
    if done:
        from dehazexl_cli.cli.html_report import comparison_page

        write_atomic(as_page, comparison_page(source, reference, done, measured, spots), NO_ROOM)
    if as_json:
        output.put(text)
    elif done:
        print_table(measured)


def input_row(source: str, reference: str | None, view: View) -> dict[str, Any]:
    """The scene as it is, among its candidates: what a run alone has is None, or none."""
    from dehazexl_cli.evaluation.measures import measure_input

    return {
        "label": "input",
        "seconds": None,
        "peak_gigabytes": None,
        **measure_input(source, reference, view).to_dict(),
        "worst_seams": [],
        "report": None,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for the input and each way; a column only where something was measured."""
    from rich.box import SIMPLE
    from rich.table import Table

    columns = {key: title for key, title in COLUMNS.items() if any(row[key] is not None for row in rows)}
    table = Table("", box=SIMPLE)
    for title in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["label"], *("" if row[key] is None else f"{row[key]:g}" for key in columns))
    output.put_table(table)
