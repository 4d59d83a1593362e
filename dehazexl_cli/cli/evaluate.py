"""`dehazexl evaluate --data DIR`: how close the dehazed images come to the clear ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dehazexl_cli.atomic import write_atomic
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.evaluation_table import (
    Failure,
    Outcome,
    Result,
    as_csv,
    as_plain,
    measures,
    print_table,
)
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import InputError, UsageError, reason
from dehazexl_cli.paths import STDOUT, descriptor_of, require_writable
from dehazexl_cli.signals import hint_when_stopped
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.config import EngineOptions
    from dehazexl_cli.dataset_pairs import Pair
    from dehazexl_cli.evaluation import Scores, Seams
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.raster.base import RasterReader

log = logging.getLogger(__name__)


class Bottleneck(StrEnum):
    """Which patches the model mixes."""

    scene = "scene"
    patch = "patch"


@shares(*options.MODEL, *options.COMPUTING, *options.MODE, "bands", "not_alpha", "input_range", "strength")
def evaluate(
    data: Annotated[
        list[Path],
        typer.Option("--data", metavar="DIR", help="Hazy and clear images in two folders; repeatable."),
    ],
    shared: Shared,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N pairs of each group.")
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear/--no-clear", help="Also measure the change made to the clear images.")
    ] = True,
    bottleneck: Annotated[
        Bottleneck,
        typer.Option(
            "--bottleneck",
            help="Let all patches see each other, or each itself alone: what is that worth?",
        ),
    ] = Bottleneck.scene,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a line per pair; - for stdout.")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Dehaze the hazy images of a dataset and compare the results with its clear ones, in PSNR and SSIM.

    The seam score tells whether patches or tiles show: 1.00 is perfect.

    Understands 8KDehaze, RESIDE, O-HAZE, and any hazy/ beside clear/ with equal names. No image is written.
    Scores of identical images are infinite: "inf" in the table and in CSV, null in JSON.

    Example: dehazexl evaluate --data 8KDehaze/test --limit 10 --csv scores.csv
    """
    output.configure_logging(verbose, quiet)
    chosen = shared.engine_options()
    pairs = collect_pairs(data, limit)
    if csv_file is not None:
        images = (path for pair in pairs for path in (pair.hazy, pair.clear))
        require_writable(csv_file, overwrite, (shared.weights, *images))
        if as_json and descriptor_of(csv_file) == STDOUT:
            raise UsageError(
                f"--csv {csv_file} and --json both write to stdout", "give --csv the name of a file"
            )
    with hint_when_stopped("no results were written; run the same command again, perhaps with --limit"):
        evaluation = prepare(shared.load_model(), bottleneck, chosen, clear, shared.not_alpha)
        outcome = evaluate_all(pairs, evaluation, output.Progress(progress, quiet))
    publish(outcome, evaluation, csv_file, as_json)
    if outcome.failures:
        output.say(f"{len(outcome.failures)} of {len(pairs)} pairs failed")
        raise typer.Exit(output.FINISHED_WITH_FAILURES)


@dataclass(frozen=True)
class Evaluation:
    """A model and how it is run."""

    model: DehazeModel
    about: dict[str, Any]  # of the model and the run, for the JSON
    options: EngineOptions
    with_clear: bool
    not_alpha: bool
    clear_psnr: dict[Path, float] = field(default_factory=dict)  # of clear images measured already

    def measure(self, pair: Pair) -> Result:
        """Run one pair; memory is bounded, as outputs are compared row by row and not kept."""
        from dehazexl_cli.evaluation import compare
        from dehazexl_cli.raster import open_reader
        from dehazexl_cli.raster.base import Trust

        trust = Trust(alpha=not self.not_alpha)
        # The engine reads one handle while its writer's thread compares with the others.
        with (
            closing(open_reader(pair.hazy, trust)) as hazy,
            closing(open_reader(pair.hazy, trust)) as source,
            closing(open_reader(pair.clear, trust)) as clear,
        ):
            bands = shared_bands(hazy, clear, self.options.bands)
            before = compare(hazy, clear, bands, self.options.input_range)
            after, seams = self.dehazed(hazy, source, clear, bands)
            if self.with_clear and pair.clear not in self.clear_psnr:
                with closing(open_reader(pair.clear, trust)) as again:
                    self.clear_psnr[pair.clear] = self.dehazed(again, clear, clear, bands)[0].psnr
        untouched = self.clear_psnr.get(pair.clear, math.nan)
        return Result(pair.hazy.name, pair.group, pair.clear, measures(before, after, untouched, seams))

    def dehazed(
        self, scene: RasterReader, source: RasterReader, reference: RasterReader, bands: Sequence[int]
    ) -> tuple[Scores, Seams]:
        """Dehaze a scene and compare with the reference; `source` is the scene again."""
        from dehazexl_cli.engine import run, seam_lines_of
        from dehazexl_cli.evaluation import ScoringWriter

        writers: list[ScoringWriter] = []
        seam_lines = seam_lines_of(scene.info, self.model, self.options)

        def make_writer() -> ScoringWriter:
            writers.append(ScoringWriter(source, reference, bands, self.options.input_range, seam_lines))
            return writers[-1]

        report = run(scene, make_writer, self.model, self.options)
        for note in (*report.fallbacks, *report.warnings):
            log.warning("%s: %s", scene.info.name, note)
        return writers[-1].scores, writers[-1].seams


def prepare(
    loaded: Loaded, bottleneck: Bottleneck, chosen: EngineOptions, with_clear: bool, not_alpha: bool
) -> Evaluation:
    """The model and how it is run; what no pair could be run with fails here, before the first."""
    from dehazexl_cli.engine import precision_for
    from dehazexl_cli.engine.device import choose_devices, precision_name
    from dehazexl_cli.evaluation import require_limits
    from dehazexl_cli.models.ablation import BottleneckPerPatch
    from dehazexl_cli.provenance import about

    require_limits(chosen.input_range)
    devices = choose_devices(chosen.device)
    precision = precision_for(loaded.model, chosen.precision, devices[0])
    facts = about(loaded.name, loaded.sha256) | {
        "mode": chosen.mode.settled(loaded.model),
        "bottleneck": bottleneck.value,
        "strength": chosen.strength,
        "device": ",".join(map(str, devices)),
        "precision": precision_name(precision),
    }
    model = BottleneckPerPatch(loaded.model) if bottleneck is Bottleneck.patch else loaded.model
    return Evaluation(model, facts, chosen, with_clear, not_alpha)


def collect_pairs(folders: Sequence[Path], limit: int | None) -> list[Pair]:
    """The pairs of all folders, at most `limit` of each group; groups of one name are told apart."""
    from dehazexl_cli.dataset_pairs import find_pairs

    found = {folder: find_pairs(folder) for folder in folders}
    groups = [group for pairs in found.values() for group in {pair.group for pair in pairs}]
    chosen: list[Pair] = []
    for folder, pairs in found.items():
        for group in dict.fromkeys(pair.group for pair in pairs):
            label = group if groups.count(group) == 1 else f"{folder}: {group}"
            chosen += [replace(pair, group=label) for pair in pairs if pair.group == group][:limit]
    return chosen


def shared_bands(hazy: RasterReader, clear: RasterReader, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """The bands the model is shown, if both images have the same ones."""
    from dehazexl_cli.raster.bands import choose_bands

    one, other = choose_bands(hazy.info, wanted).colours, choose_bands(clear.info, wanted).colours
    if one != other:
        raise InputError(
            f"{hazy.info.name} has its colours in bands {','.join(map(str, one))}, "
            f"{clear.info.name} in {','.join(map(str, other))}",
            "name the bands that are colours in both with --bands",
        )
    return one


def evaluate_all(pairs: Sequence[Pair], evaluation: Evaluation, told: output.Progress) -> Outcome:
    """Measure pair by pair; one that fails is reported and does not stop the others."""
    outcome = Outcome()
    for number, pair in enumerate(pairs, 1):
        name, where = pair.hazy.name, f"{number} of {len(pairs)}, {pair.group}/{pair.hazy.name}"
        facts = {"done": number, "total": len(pairs), "name": name, "group": pair.group}
        try:
            result = evaluation.measure(pair)
        except Exception as error:  # whatever a damaged file sets off
            if output.debug:
                raise
            why = reason(error)
            outcome.failures.append(Failure(name, pair.group, why))
            told.failed("pair", f"{where}: {why}", getattr(error, "hint", ""), **facts, error=why)
        else:
            outcome.results.append(result)
            hazy, dehazed = result.measures["hazy_psnr"], result.measures["output_psnr"]
            told.item("pair", f"{where}: {hazy:.2f} dB hazy, {dehazed:.2f} dB dehazed", **facts)
    return outcome


def publish(outcome: Outcome, evaluation: Evaluation, csv_file: Path | None, as_json: bool) -> None:
    """Hand over the results as asked for; a table if nothing was asked for."""
    if csv_file is not None:
        write_atomic(csv_file, as_csv(outcome), "name another --csv")
    if as_json:
        output.put(to_json(as_plain(outcome, evaluation.about), 2))
    elif csv_file is None:
        print_table(outcome.results)
