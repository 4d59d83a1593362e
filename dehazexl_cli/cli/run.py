"""`dehazexl run IN… OUT`: dehaze one scene, or some into a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.cli import console, options
from dehazexl_cli.cli.telling import Display
from dehazexl_cli.documents import write_whole
from dehazexl_cli.errors import UsageError
from dehazexl_cli.paths import STDOUT, descriptor_of, is_same, require_apart, require_writable
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.paths import AnyPath
    from dehazexl_cli.report import Report
    from dehazexl_cli.worker_config import WorkerConfig


def run(
    sources: options.Inputs,
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="The dehazed image: .tif, .png, .jpg, .jp2, .webp, .vrt; or a folder."
        ),
    ],
    model: options.ModelName = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.PrecisionName = options.Precision.auto,
    bands: options.Bands = None,
    all_bands: options.AllBands = False,
    input_range: options.BandRanges = None,
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
    format: options.Format = None,
    creation: options.Creation = None,
    overviews: options.Overviews = False,
    tmp_dir: options.TmpDir = None,
    nodata: options.Nodata = None,
    not_alpha: options.NotAlpha = False,
    any_size: options.AnySize = False,
    mask: options.Mask = None,
    window: options.Window = None,
    bbox: options.Bbox = None,
    bbox_crs: options.BboxCrs = None,
    context: options.Context = options.ContextKind.window,
    threads: options.Threads = None,
    resume: options.Resume = False,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask", metavar="ADDRESS", help="By the workers of tcp://HOST:8786 together; or local:N."
        ),
    ] = None,
    no_provenance: options.NoProvenance = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT and FILE if they exist.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="OUT is IN: replace the original by its result.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    as_json: options.Json = False,
    print_paths: options.PrintPaths = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report as JSON; - for stdout.")
    ] = None,
    progress: Annotated[
        console.ProgressKind, typer.Option("--progress", help="How progress is shown on stderr.")
    ] = console.ProgressKind.auto,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' messages.")] = False,
) -> None:
    """Remove the haze from IN and write OUT, with the same size, type, bands and georeference.

    With several images OUT is a folder, and the model is loaded once; `dehazexl batch` can do more.

    Example: dehazexl run hazy.tif clear.tif
    """
    console.configure_logging(verbose, quiet)
    from dehazexl_cli.files import RunConfig
    from dehazexl_cli.worker_config import WorkerConfig

    display = Display(progress, quiet, as_json, print_paths)
    chosen = options.read_options(bands, None, strength, device, precision, max_ram, max_vram, overlap, seed)
    chosen = replace(
        chosen,
        all_bands=all_bands,
        band_ranges=options.parse_ranges(input_range),
        mode=options.read_mode(mode, tile, tile_overlap, blend, long_side, upsampling),
        tmp_dir=tmp_dir,
        threads=threads,
    )
    selection = options.read_selection(nodata, mask, window, bbox, bbox_crs, context, not_alpha, any_size)
    storage = options.read_storage(format, creation, overviews, tmp_dir)
    recipe = RunConfig(chosen, selection, storage, not no_provenance, resume, in_place)
    setup = WorkerConfig(recipe, model, weights, multiple)
    if is_folder(target) or len(sources) > 1:
        from dehazexl_cli.cli.batch import dehaze_some

        if report_file is not None:
            raise UsageError(
                "--report is for one image", "the reports of several are in OUT/.dehazexl/reports"
            )
        if resume:
            raise UsageError(
                "--resume is for one image", "dehazexl batch --skip-existing goes on with a folder of results"
            )
        if dask is not None:
            raise UsageError("--dask is for one image here", "dehazexl batch --dask takes several")
        if in_place:
            raise UsageError(
                "--in-place is for one image", "name it twice: dehazexl run x.tif x.tif --in-place"
            )
        return dehaze_some(sources, Path(target), setup, overwrite, display, dry_run)
    source = sources[0]
    if dry_run:
        from dehazexl_cli.cli.plan import network_for, print_plan

        return print_plan(source, network_for(model, weights, multiple), chosen, selection, as_json)

    require_apart(target, (mask, weights))
    if report_file is not None:
        require_report(report_file, target, overwrite, (source, mask, weights), as_json or print_paths)
    with console.progress(progress, quiet) as shown:
        if dask is not None:
            from dehazexl_cli.cluster.dask import dehaze_shared

            report = dehaze_shared(source, target, setup, dask, overwrite, shown)
        else:
            report = dehaze_here(source, target, setup, overwrite, shown)
    if report_file is not None:
        require_apart(report_file, [target])
        write_report(report, report_file)
    if as_json:
        console.put(to_json(report.to_dict(), 2))
    if print_paths:
        console.put_path(target)
    if not quiet:
        summarise(report)


def dehaze_here(
    source: str, target: str, setup: WorkerConfig, overwrite: bool, shown: console.Progress
) -> Report:
    """Dehaze one image in this process."""
    from dehazexl_cli.files import dehaze_file
    from dehazexl_cli.models.loading import load_model

    loaded = load_model(setup.model, setup.weights, setup.multiple)
    return dehaze_file(source, target, loaded, setup.recipe, overwrite, shown)


def is_folder(target: str) -> bool:
    """Whether results go into a folder and get their names from their sources."""
    return os.path.isdir(target) or target.endswith(("/", os.sep))


def require_report(
    path: Path, target: str, overwrite: bool, inputs: Sequence[AnyPath | None], prints: bool
) -> None:
    """Raises OutputError, before any work, if the report could not be written or would replace what it must
    not.

    One that is given the name of OUT is refused at the end, as the image is no less wanted for that.
    """
    from dehazexl_cli.raster.side_files import own_side_files

    if prints and descriptor_of(path) == STDOUT:
        raise UsageError(f"--report {path} and another option write to stdout", "name a file for the report")
    if is_same(path, target):
        return console.say(f"warning: --report {path} is OUT, and no report will be written there")
    require_writable(path, overwrite, (*inputs, *own_side_files(Path(target))))


def write_report(report: Report, path: Path) -> None:
    """The report as a JSON file."""
    write_whole(path, to_json(report.to_dict(), 2) + "\n", "name another --report")


def summarise(report: Report) -> None:
    """A few lines on stderr: what was done, and what the user should know."""
    seconds = sum(report.seconds.values())
    megapixels = report.height * report.width / 1e6
    console.say(
        f"{report.output}: {report.width} x {report.height} pixels in {seconds:.1f} s "
        f"({megapixels / seconds:.2f} megapixels/s, {report.mode} mode, {report.device}, {report.precision}, "
        f"{report.model}, peak memory {report.peak_host_bytes / 2**30:.2f} GB)"
    )
    if report.invalid_pixels:
        console.say(
            f"note: {report.invalid_pixels} pixels are no ground (nodata, transparent or not finite) "
            "and were left as they were"
        )
    if report.clipped_values:
        ground = report.height * report.width - report.invalid_pixels
        share = report.clipped_values / (ground * sum(len(group["bands"]) for group in report.groups))
        # What the type holds is no guess, and no other range gives room beyond it.
        other = "" if report.range_source == "dtype" else "; --input-range sets another"
        console.say(
            f"note: {report.clipped_values} values ({share:.2%}) were held at the ends of the range "
            f"({report.range_source}){other}"
        )
    for note in (*report.notes, *report.fallbacks):
        console.say(f"note: {note}")
    for warning in report.warnings:
        console.say(f"warning: {warning}")
