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

from dehazexl_cli.cli import console, options
from dehazexl_cli.cli.scores import Failure, Outcome, Result, as_csv, as_plain, measures, print_table
from dehazexl_cli.documents import write_whole
from dehazexl_cli.errors import InputError, UsageError, reason
from dehazexl_cli.paths import STDOUT, descriptor_of, require_writable
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.dataset_pairs import Pair
    from dehazexl_cli.engine import Options
    from dehazexl_cli.evaluation import Scores, Seams
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.raster.base import RasterReader

log = logging.getLogger(__name__)

FINISHED_WITH_FAILURES = 7


class Mixing(StrEnum):
    """Which patches the model mixes."""

    scene = "scene"
    patch = "patch"


def evaluate(
    data: Annotated[
        list[Path],
        typer.Option("--data", metavar="DIR", help="Hazy and clear images in two folders; repeatable."),
    ],
    model: options.ModelName = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.PrecisionName = options.Precision.auto,
    bands: options.Bands = None,
    not_alpha: options.NotAlpha = False,
    input_range: options.InputRange = None,
    strength: options.Strength = 1.0,
    overlap: options.Overlap = "auto",
    mode: options.ModeName = None,
    tile: options.Tile = None,
    tile_overlap: options.TileOverlap = None,
    blend: options.Blend = None,
    long_side: options.LongSide = None,
    upsampling: options.Upsampling = None,
    multiple: options.Multiple = None,
    max_ram: options.MaxRam = None,
    max_vram: options.MaxVram = None,
    seed: options.Seed = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N pairs of each group.")
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear/--no-clear", help="Also measure the change made to the clear images.")
    ] = True,
    mixing: Annotated[
        Mixing,
        typer.Option(
            "--mixing", help="Mix the scene, or each patch alone: what is it worth that patches meet?"
        ),
    ] = Mixing.scene,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a line per pair; - for stdout.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the CSV file.")] = False,
    as_json: options.Json = False,
    progress: Annotated[
        console.ProgressKind, typer.Option("--progress", help="How progress is shown on stderr.")
    ] = console.ProgressKind.auto,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' messages.")] = False,
) -> None:
    """Dehaze the hazy images of a dataset and compare the results with its clear ones, in PSNR and SSIM.

    The seam score tells whether patches or tiles show: 1.00 is perfect.

    Understands 8KDehaze, RESIDE, O-HAZE, and any hazy/ beside clear/ with equal names. No image is written.
    Scores of identical images are infinite: "inf" in the table and in CSV, null in JSON.

    Example: dehazexl evaluate --data 8KDehaze/test --limit 10 --csv scores.csv
    """
    console.configure_logging(verbose, quiet)
    chosen = options.read_options(
        bands, input_range, strength, device, precision, max_ram, max_vram, overlap, seed
    )
    wanted = options.read_mode(mode, tile, tile_overlap, blend, long_side, upsampling)
    chosen = replace(chosen, mode=wanted)
    pairs = collect_pairs(data, limit)
    if csv_file is not None:
        images = (path for pair in pairs for path in (pair.hazy, pair.clear))
        require_writable(csv_file, overwrite, (weights, *images))
        if as_json and descriptor_of(csv_file) == STDOUT:
            raise UsageError(
                f"--csv {csv_file} and --json both write to stdout", "give --csv the name of a file"
            )
    from dehazexl_cli.models.loading import load_model

    with console.when_stopped("no results were written; run the same command again, perhaps with --limit"):
        loaded = load_model(model, weights, multiple)
        evaluation = replace(prepare(loaded, mixing, chosen, clear), not_alpha=not_alpha)
        outcome = evaluate_all(pairs, evaluation, Narrator(progress, quiet, len(pairs)))
    publish(outcome, evaluation, csv_file, as_json)
    if outcome.failures:
        console.say(f"{len(outcome.failures)} of {len(pairs)} pairs failed")
        raise typer.Exit(FINISHED_WITH_FAILURES)


@dataclass(frozen=True)
class Evaluation:
    """A model and how it is run."""

    model: DehazeModel
    about: dict[str, Any]  # of the model and the run, for the JSON
    options: Options
    with_clear: bool
    not_alpha: bool = False
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
        from dehazexl_cli.engine import joints_of, run
        from dehazexl_cli.evaluation import ScoringWriter

        writers: list[ScoringWriter] = []
        joints = joints_of(scene.info, self.model, self.options)

        def make_writer() -> ScoringWriter:
            writers.append(ScoringWriter(source, reference, bands, self.options.input_range, joints))
            return writers[-1]

        report = run(scene, make_writer, self.model, self.options)
        for note in (*report.fallbacks, *report.warnings):
            log.warning("%s: %s", scene.info.name, note)
        return writers[-1].scores, writers[-1].seams


def prepare(loaded: Loaded, mixing: Mixing, chosen: Options, with_clear: bool) -> Evaluation:
    """The model and how it is run; what no pair could be run with fails here, before the first."""
    from dehazexl_cli import __version__
    from dehazexl_cli.engine import precision_for
    from dehazexl_cli.engine.device import choose_devices, precision_name
    from dehazexl_cli.evaluation import require_limits
    from dehazexl_cli.models.ablation import MixingPatches

    require_limits(chosen.input_range)
    devices = choose_devices(chosen.device)
    precision = precision_for(loaded.model, chosen.precision, devices[0])
    about = {
        "model": loaded.name,
        "weights_sha256": loaded.sha256,
        "version": __version__,
        "mode": chosen.mode.settled(loaded.model),
        "mixing": mixing.value,
        "strength": chosen.strength,
        "device": ",".join(map(str, devices)),
        "precision": precision_name(precision),
    }
    model = MixingPatches(loaded.model) if mixing is Mixing.patch else loaded.model
    return Evaluation(model, about, chosen, with_clear)


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


def evaluate_all(pairs: Sequence[Pair], evaluation: Evaluation, narrator: Narrator) -> Outcome:
    """Measure pair by pair; one that fails is reported and does not stop the others."""
    outcome = Outcome()
    for number, pair in enumerate(pairs, 1):
        try:
            result = evaluation.measure(pair)
        except Exception as error:  # whatever a damaged file sets off
            if console.debug:
                raise
            outcome.failures.append(Failure(pair.hazy.name, pair.group, reason(error)))
            narrator.tell_failure(number, outcome.failures[-1], getattr(error, "hint", ""))
        else:
            outcome.results.append(result)
            narrator.tell(number, result)
    return outcome


@dataclass(frozen=True)
class Narrator:
    """Says how far it is: a line per pair, as an evaluation may take hours."""

    kind: console.ProgressKind
    quiet: bool
    total: int

    def tell(self, number: int, result: Result) -> None:
        """One pair is done."""
        if self.kind is console.ProgressKind.json:
            self._event(number, result.name, result.group, None)
        elif self.kind is not console.ProgressKind.never and not (
            self.quiet and self.kind is console.ProgressKind.auto
        ):
            hazy, output = result.measures["hazy_psnr"], result.measures["output_psnr"]
            where = f"{number} of {self.total}, {result.group}/{result.name}"
            console.say(f"{where}: {hazy:.2f} dB hazy, {output:.2f} dB dehazed")

    def tell_failure(self, number: int, failure: Failure, hint: str) -> None:
        """One pair cannot be measured; said even when quiet."""
        if self.kind is console.ProgressKind.json:
            return self._event(number, failure.name, failure.group, failure.error)
        console.say(f"failed: {number} of {self.total}, {failure.group}/{failure.name}: {failure.error}")
        if hint:
            console.say(f"  try: {hint}")

    def _event(self, number: int, name: str, group: str, error: str | None) -> None:
        event = {"event": "pair", "done": number, "total": self.total, "name": name, "group": group}
        console.say(to_json(event | ({"error": error} if error else {})))


def publish(outcome: Outcome, evaluation: Evaluation, csv_file: Path | None, as_json: bool) -> None:
    """Hand over the results as asked for; a table if nothing was asked for."""
    if csv_file is not None:
        write_whole(csv_file, as_csv(outcome), "name another --csv")
    if as_json:
        console.put(to_json(as_plain(outcome, evaluation.about), 2))
    elif csv_file is None:
        print_table(outcome.results)
