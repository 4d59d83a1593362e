"""`dehazexl run IN… OUT`: dehaze one scene, or some into a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dehazexl_cli.atomic import write_atomic
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.cli.run_outputs import note_growth, require_item, require_map, require_report, summarise
from dehazexl_cli.errors import UsageError
from dehazexl_cli.paths import is_same, require_apart, require_writable
from dehazexl_cli.stac import find_source, write_item
from dehazexl_cli.text import to_json

# Options of one image, and what is said where there are several.
FOR_ONE = {
    "--report": "the reports of several are in OUT/.dehazexl/reports",
    "--resume": "dehazexl batch --skip-existing goes on with a folder of results",
    "--dask": "dehazexl batch --dask takes several",
    "--in-place": "name it twice: dehazexl run x.tif x.tif --in-place",
    "--haze-map": "dehazexl haze IN MAP makes one of each",
    "--stac": "their reports have the fields of STAC's processing extension",
}


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
    stac: Annotated[
        Path | None, typer.Option("--stac", metavar="FILE", help="Write a STAC item of OUT.")
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
            "--stac": stac,
        }
        for option, instead in FOR_ONE.items():
            if given[option]:
                raise UsageError(f"{option} is for one image", instead)
        return dehaze_some(sources, Path(target), shared, config, overwrite, display, dry_run)
    source, item = find_source(sources[0])
    if dry_run:
        from dehazexl_cli.cli.plan import print_plan

        return print_plan(source, shared, as_json)

    options.require_there(source)
    require_apart(target, (shared.mask, shared.weights))
    if not is_same(source, target):  # which is refused, or wanted, when the source is open
        require_writable(target, overwrite, streams=False)
    inputs = (source, item, shared.mask, shared.weights)
    if haze_map is not None:
        require_map(haze_map, target, overwrite, inputs, dask)
    if stac is not None:
        require_item(stac, source, target, overwrite, (*inputs, haze_map))
    if report_file is not None:
        require_report(report_file, target, overwrite, (*inputs, haze_map, stac), as_json or print_paths)
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
    if stac is not None:
        write_item(stac, report, source, item)
    if report_file is not None:
        require_apart(report_file, [target])
        write_atomic(report_file, to_json(report.to_dict(), 2) + "\n", "name another --report")
    if as_json:
        output.put(to_json(report.to_dict(), 2))
    if print_paths:
        output.put_path(target)
    if not quiet:
        summarise(report)


def is_folder(target: str) -> bool:
    """Whether results go into a folder and get their names from their sources."""
    return os.path.isdir(target) or target.endswith(("/", os.sep))
