"""`dehazexl run IN… OUT`: dehaze one scene, or some into a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.atomic import write_atomic
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import UsageError
from dehazexl_cli.paths import STDOUT, descriptor_of, is_same, require_apart, require_writable
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.paths import AnyPath
    from dehazexl_cli.report import Report

# Options of one image, and what is said where there are several.
FOR_ONE = {
    "--report": "the reports of several are in OUT/.dehazexl/reports",
    "--resume": "dehazexl batch --skip-existing goes on with a folder of results",
    "--dask": "dehazexl batch --dask takes several",
    "--in-place": "name it twice: dehazexl run x.tif x.tif --in-place",
    "--haze-map": "dehazexl haze IN MAP makes one of each",
}

MUCH_LARGER = 3  # times
NO_MATTER_BYTES = 1 << 20


@shares(*options.RUNNING, "threads")
def run(
    sources: options.Inputs,
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="The dehazed image: .tif, .png, .jpg, .jp2, .webp, .vrt; or a folder."
        ),
    ],
    shared: Shared,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep what is done, in --tmp-dir or beside OUT, and go on with a run that was killed.",
        ),
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            metavar="ADDRESS",
            help="Compute by the workers of tcp://HOST:8786 together; or of local:N.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace IN, which is OUT too, by its result.")
    ] = False,
    haze_map: Annotated[
        Path | None,
        typer.Option(
            "--haze-map", metavar="FILE", help="Write how much light gets through, in per cent, as a .tif."
        ),
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    print_paths: options.PrintPaths = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report as JSON; - for stdout.")
    ] = None,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove the haze from IN and write OUT, with the same size, type, bands and georeference.

    With several images OUT is a folder, and the model is loaded once; `dehazexl batch` can do more.

    Example: dehazexl run hazy.tif clear.tif
    """
    output.configure_logging(verbose, quiet)
    display = output.Display(progress, quiet, as_json, print_paths)
    config = shared.run_config(resume, in_place)
    if is_folder(target) or len(sources) > 1:
        from dehazexl_cli.cli.batch import dehaze_some

        given = {
            "--report": report_file,
            "--resume": resume,
            "--dask": dask,
            "--in-place": in_place,
            "--haze-map": haze_map,
        }
        for option, instead in FOR_ONE.items():
            if given[option]:
                raise UsageError(f"{option} is for one image", instead)
        return dehaze_some(sources, Path(target), shared, config, overwrite, display, dry_run)
    source = sources[0]
    if dry_run:
        from dehazexl_cli.cli.plan import print_plan

        return print_plan(source, shared, as_json)

    options.require_there(source)
    require_apart(target, (shared.mask, shared.weights))
    if not is_same(source, target):  # which is refused, or wanted, when the source is open
        require_writable(target, overwrite, streams=False)
    if haze_map is not None:
        require_map(haze_map, target, overwrite, (source, shared.mask, shared.weights), dask)
    if report_file is not None:
        inputs = (source, shared.mask, shared.weights, haze_map)
        require_report(report_file, target, overwrite, inputs, as_json or print_paths)
    with output.Progress(progress, quiet) as shown:
        if dask is None:
            from dehazexl_cli.files import dehaze_file

            report = dehaze_file(source, target, shared.load_model(), config, overwrite, shown, haze_map)
        else:
            from dehazexl_cli.cluster.dask import dehaze_shared
            from dehazexl_cli.worker_config import WorkerConfig

            setup = WorkerConfig(config, shared.model, shared.weights, shared.multiple)
            report = dehaze_shared(source, target, setup, dask, overwrite, shown)
    if shared.format is None and not any("COMPRESS=" in each.upper() for each in shared.creation or ()):
        note_growth(source, Path(target), report)
    if report_file is not None:
        require_apart(report_file, [target])
        write_atomic(report_file, to_json(report.to_dict(), 2) + "\n", "name another --report")
    if as_json:
        output.put(to_json(report.to_dict(), 2))
    if print_paths:
        output.put_path(target)
    if not quiet:
        summarise(report)


def require_map(
    path: Path, target: str, overwrite: bool, inputs: Sequence[AnyPath | None], dask: str | None
) -> None:
    """Raises OutputError or UsageError, before any work, if the haze map could not be written."""
    from dehazexl_cli.haze_map import require_map_name
    from dehazexl_cli.raster.side_files import own_side_files

    if dask is not None:
        raise UsageError("--haze-map and --dask do not go together", "leave out one of them")
    require_map_name(path)
    require_apart(path, (target,))
    require_writable(path, overwrite, (*inputs, *own_side_files(Path(target))))


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
        return output.tell("warning", f"--report {path} is OUT, and no report will be written there")
    require_writable(path, overwrite, (*inputs, *own_side_files(Path(target))))


def note_growth(source: str, target: Path, report: Report) -> None:
    """Note a GeoTIFF much larger than its source, as is one without loss of a JPEG, and how to avoid that."""
    if not os.path.isfile(source) or target.suffix.lower() not in (".tif", ".tiff"):
        return
    before, after = os.path.getsize(source), os.path.getsize(target)
    if (
        report.dtype == "uint8"
        and report.count in (1, 3)
        and after > max(MUCH_LARGER * before, NO_MATTER_BYTES)
    ):
        colours = " --co PHOTOMETRIC=YCBCR" if report.count == 3 else ""
        report.notes.append(
            f"OUT, compressed without loss, is {after / before:.0f} times as large as IN; "
            f"--co COMPRESS=JPEG --co JPEG_QUALITY=90{colours} keeps it small"
        )


def summarise(report: Report) -> None:
    """Say in a few lines what was done, and what the user should know."""
    seconds = sum(report.seconds.values())
    megapixels = report.height * report.width / 1e6
    output.tell(
        "done",
        f"{report.output}: {report.width} x {report.height} pixels in {seconds:.1f} s "
        f"({megapixels / seconds:.2f} megapixels/s, {report.mode} mode, {report.device}, {report.precision}, "
        f"{report.model}, peak memory {report.peak_host_bytes / 2**30:.2f} GB)",
        output=report.output,
        seconds=round(seconds, 3),
        megapixels=round(megapixels, 2),
    )
    if report.invalid_pixels:
        output.tell(
            "note",
            f"{report.invalid_pixels} pixels are no ground (nodata, transparent or not finite) "
            "and were left as they were",
        )
    if report.clipped_values:
        ground = report.height * report.width - report.invalid_pixels
        share = report.clipped_values / (ground * sum(len(group["bands"]) for group in report.groups))
        # What the type holds is no guess, and no other range gives room beyond it.
        other = "" if report.range_source == "dtype" else "; --input-range sets another"
        output.tell(
            "note",
            f"{report.clipped_values} values ({share:.2%}) were held at the ends of the range "
            f"({report.range_source}){other}",
        )
    for note in (*report.notes, *report.fallbacks):
        output.tell("note", note)
    for warning in report.warnings:
        output.tell("warning", warning)
