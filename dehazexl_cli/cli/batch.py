"""`dehazexl batch IN… OUT_DIR`: dehaze many scenes, with one model that is loaded once."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli import processors
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.batch_output import BatchOutput
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import UsageError
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.batch.log import BatchLog
    from dehazexl_cli.batch.results import BatchExecutor
    from dehazexl_cli.batch.runner import BatchRunner, ExistingOutputs
    from dehazexl_cli.batch.sources import Naming, Scene
    from dehazexl_cli.config import RunConfig
    from dehazexl_cli.worker_config import WorkerConfig


class OnError(StrEnum):
    """What becomes of a batch when a scene fails."""

    go_on = "continue"
    stop = "stop"


@shares(*options.RUNNING)
def batch(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="IN", help="Images, folders, patterns in quotes.")
    ] = None,
    *,
    target: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results.")],
    from_file: Annotated[
        str | None,
        typer.Option(
            "--from-file",
            metavar="LIST",
            help="Take the images from a list, a name a line, - for stdin; or from a CSV.",
        ),
    ] = None,
    nul: Annotated[
        bool, typer.Option("--null", "-0", help="End names with NUL, in LIST and with --print-paths.")
    ] = False,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="Begin the tree of the images here.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", metavar="PATTERN", help="Leave out what it fits, like '*_thermal.tif'; repeatable."
        ),
    ] = None,
    suffix: Annotated[
        str, typer.Option("--suffix", metavar="TEXT", help="Put behind every name, before its ending.")
    ] = "",
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Run so many processes on the CPU, which share its cores and memory; 1 by default.",
        ),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="0,1", help="Compute on these GPUs, with a process each.")
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask", metavar="ADDRESS", help="Compute on the workers of tcp://HOST:8786; or local."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Do only this part, 1/N to N/N; array tasks know it."),
    ] = None,
    overwrite: options.Overwrite = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Keep results that were made the same way.")
    ] = False,
    redo_changed: Annotated[
        bool,
        typer.Option(
            "--redo-changed", help="Keep those too, and replace those that were made in another way."
        ),
    ] = False,
    if_hazy: Annotated[
        float | None,
        typer.Option(
            "--if-hazy",
            metavar="SHARE",
            min=0,
            max=1,
            help="Leave out scenes of which less than this share, 0 to 1, lies under haze.",
        ),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="Go on or stop when a scene fails.")
    ] = OnError.go_on,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="Write a JSON line a scene here, not to OUT_DIR/.dehazexl/log.ndjson.",
        ),
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            "--reports", metavar="DIR", help="Write a report a scene here, not to OUT_DIR/.dehazexl/reports."
        ),
    ] = None,
    shared: Shared,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    print_paths: options.PrintPaths = False,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove the haze from many images; folders are searched, and their tree is made again in OUT_DIR.

    While one scene is computed, the next is read and the last is finished. A scene that fails does not stop
    the others: a table at the end names it, and the exit code is 7. Images whose names say that they are
    quality flags, masks or classes (QA_PIXEL, SCL, udm2) are copied as they are.

    Example: dehazexl batch flights/2026 clear --skip-existing --jobs 2
    """
    output.configure_logging(verbose, quiet)
    from dehazexl_cli.batch.runner import ExistingOutputs
    from dehazexl_cli.batch.sources import Naming

    config = replace(shared.run_config(spare_classes=True), if_hazy=if_hazy)
    wanted = Wanted(
        sources or (), Naming(target, suffix, shared.format, base), from_file, nul, shard, exclude or ()
    )
    policy = ExistingOutputs(overwrite, skip_existing, redo_changed, on_error is OnError.stop)
    work = Work(shared, config, policy, jobs, parse_gpus(gpus), dask, log, reports)
    display = output.Display(progress, quiet, as_json, print_paths, nul)
    dehaze_all(wanted, work, display, dry_run)


@dataclass(frozen=True)
class Wanted:
    """The scenes of a batch as the user names them."""

    sources: Sequence[str]
    naming: Naming  # of results
    from_file: str | None = None
    nul: bool = False  # names in the list end with NUL
    shard: str | None = None
    exclude: Sequence[str] = ()  # patterns of what is left out

    @property
    def list_file(self) -> str | None:
        """The file that lists scenes, if it is one."""
        return None if self.from_file == "-" else self.from_file

    def collect(self, told: BatchOutput) -> list[Scene]:
        """All of them, or the part of them that is to be done here; raises the DehazeError that fits."""
        from dehazexl_cli.batch.shards import choose_shard
        from dehazexl_cli.batch.sources import collect, is_named, read_list

        listed = [] if self.from_file is None else read_list(self.from_file, self.nul)
        scenes = collect(self.sources, listed, self.naming, self.exclude)
        named = len(scenes) if all(map(is_named, self.sources)) else 0
        part = choose_shard(self.shard, os.environ, named)
        if part is None:
            return scenes
        mine = part.choose(scenes)
        if part.count > 1:
            told.tell_part(part, len(mine), len(scenes), asked=self.shard is not None)
        return mine


@dataclass(frozen=True)
class Work:
    """How the scenes of a batch are done."""

    shared: Shared
    config: RunConfig
    policy: ExistingOutputs
    jobs: int | None = None
    gpus: tuple[int, ...] = ()
    dask: str | None = None  # the address of a scheduler
    log: Path | None = None
    reports: Path | None = None

    def __post_init__(self) -> None:
        named = {"--jobs": self.jobs, "--gpus": self.gpus, "--dask": self.dask}
        given = [name for name, value in named.items() if value]
        if len(given) > 1 and not (given == ["--jobs", "--dask"] and self.dask == "local"):
            raise UsageError(f"{' and '.join(given)} do not go together", "leave out one of them")

    @property
    def setup(self) -> WorkerConfig:
        """What a process needs to do one."""
        from dehazexl_cli.worker_config import WorkerConfig

        return WorkerConfig(self.config, self.shared.model, self.shared.weights, self.shared.multiple)


def dehaze_all(wanted: Wanted, work: Work, display: output.Display, dry_run: bool) -> None:
    """Do a batch and say what became of it, or only what would; exits with 7 if a scene failed."""
    from dehazexl_cli.batch.log import BatchLog
    from dehazexl_cli.paths import make_folder

    if (work.jobs or 1) > processors.count() and not display.quiet:
        cores = processors.count()
        output.tell(
            "warning", f"--jobs {work.jobs}: this machine has {cores} cores, and each job takes memory"
        )
    told, out = BatchOutput(display), wanted.naming.folder
    scenes = wanted.collect(told)
    if dry_run:
        return print_what_would_be(scenes, display)
    make_folder(out)
    log = BatchLog(out, work.log, work.reports)
    inputs = (work.config.selection.mask, work.shared.weights, wanted.list_file)
    log.require_writable(scenes, inputs, work.policy.overwrite or work.policy.redo_changed)
    runner, executor = set_out(scenes, log, work, told)
    began = time.monotonic()
    try:
        with told:
            told.begin(len(scenes))
            runner.run(executor)
    finally:
        told.summarise(runner.summary, time.monotonic() - began, log)
    if runner.summary.failures:
        raise typer.Exit(output.FINISHED_WITH_FAILURES)


def dehaze_some(
    sources: Sequence[str],
    folder: Path,
    shared: Shared,
    config: RunConfig,
    overwrite: bool,
    display: output.Display,
    dry_run: bool,
) -> None:
    """Do a batch as `dehazexl run` knows it; UsageError for a name that is to be an image."""
    from dehazexl_cli.batch.runner import ExistingOutputs
    from dehazexl_cli.batch.sources import Naming, endings_of
    from dehazexl_cli.raster.formats import VRT

    if not folder.is_dir() and folder.suffix.lower() in (*endings_of(None), *VRT.suffixes):
        raise UsageError(f"{len(sources)} images cannot all become {folder}", "name a folder as OUT")
    # A shard would surprise who runs one command per task of an array.
    wanted = Wanted(sources, Naming(folder, format=shared.format), shard="1/1")
    dehaze_all(wanted, Work(shared, config, ExistingOutputs(overwrite)), display, dry_run)


def set_out(
    scenes: Sequence[Scene], log: BatchLog, work: Work, told: BatchOutput
) -> tuple[BatchRunner, BatchExecutor]:
    """Return who deals out the scenes, and who does them; what no scene could be run with fails here."""
    from dehazexl_cli.batch.dask import DaskBatchExecutor
    from dehazexl_cli.batch.executors import InProcessExecutor, ProcessExecutor, shared_out
    from dehazexl_cli.batch.runner import BatchRunner
    from dehazexl_cli.cluster.connection import named_in_full
    from dehazexl_cli.provenance import Origin

    setup = work.setup if work.dask is None else named_in_full(work.setup)
    setups = shared_out(setup, (1 if work.dask else work.jobs) or 1, work.gpus)
    loaded = setups[0].load()
    origin = Origin.of(loaded.name, loaded.sha256, setup.config.settings())
    runner = BatchRunner(scenes, work.policy, origin, log, told.tell)
    if work.dask is not None:
        return runner, DaskBatchExecutor(setup, work.dask, work.jobs)
    if len(setups) == 1:
        return runner, InProcessExecutor(setups[0], loaded, told.watch)
    return runner, ProcessExecutor(setups)


def print_what_would_be(scenes: Sequence[Scene], display: output.Display) -> None:
    """A line for each scene on stdout: its source, and what would become of it."""
    if display.as_json:
        rows = [{"input": scene.source, "output": str(scene.target)} for scene in scenes]
        return output.put(to_json(rows, 2))
    for scene in scenes:
        output.put(f"{scene.source}\t{scene.target}")


def parse_gpus(text: str | None) -> tuple[int, ...]:
    """Numbers of "0,1"."""
    if text is None:
        return ()
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UsageError(f"--gpus {text!r} are no GPUs", "write their numbers once each, like 0,1")
    return tuple(int(part) for part in parts)
