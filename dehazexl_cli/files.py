"""A raster file into another: opening, computing and publishing, which a batch lets overlap between files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dehazexl_cli.config import EngineOptions, RunConfig, Storage
from dehazexl_cli.engine import Resume, run
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import strips
from dehazexl_cli.haze_map import open_map, require_hazy
from dehazexl_cli.paths import AnyPath, is_same
from dehazexl_cli.provenance import Provenance
from dehazexl_cli.raster import open_writer
from dehazexl_cli.raster.bands import holds_classes_only
from dehazexl_cli.raster.base import FileWriter, Pixels, RasterInfo, RasterReader
from dehazexl_cli.raster.copying import FileCopy
from dehazexl_cli.raster.fingerprint import fingerprint
from dehazexl_cli.raster.memory import ArrayWriter, Layout
from dehazexl_cli.raster.selection import open_selected
from dehazexl_cli.raster.views import WindowedReader
from dehazexl_cli.report import Report

if TYPE_CHECKING:
    from dehazexl_cli.engine.run import Distribute
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.raster.mosaic import PartMaker

Watch = Callable[[str, int, int], None]  # phase, patches done, patches in all

STRIP_ROWS = 256


@dataclass(frozen=True)
class OpenedScene:
    """A file that was opened and looked at."""

    source: str
    reader: RasterReader  # of what the engine looks at
    like: RasterReader  # of what is written
    options: EngineOptions


def open_scene(source: str, config: RunConfig) -> OpenedScene:
    """Open a file and find the part that is wanted; InputError or UsageError if that cannot be."""
    reader, box = open_selected(source, config.selection)
    if box is None:
        return OpenedScene(source, reader, reader, config.options)
    part = WindowedReader(reader, box)
    if config.selection.context == "scene":
        return OpenedScene(source, reader, part, replace(config.options, window=box))
    return OpenedScene(source, part, part, config.options)


@dataclass(frozen=True)
class UncommittedResult:
    """A scene whose every row was handed to its writer, and what is said of it."""

    report: Report
    writer: FileWriter
    made: Provenance
    target: str


def compute(
    opened: OpenedScene,
    target: str,
    loaded: Loaded,
    config: RunConfig,
    overwrite: bool = False,
    watch: Watch | None = None,
    hold: Callable[[FileWriter], FileWriter] | None = None,
    distribute: Distribute | None = None,
    maker: PartMaker | None = None,
    haze_map: AnyPath | None = None,
) -> UncommittedResult:
    """Dehaze an open scene; raises the DehazeError that fits, UsageError for another target in place.

    Raises NotHazy, before anything is written, for a scene that is to be left out.

    `hold` may put a writer of its own before each that is opened, which decides when the file appears.
    `distribute` is for `engine.run`, `maker` for `open_writer`. A `haze_map` is written beside the result.
    """
    if config.in_place and not is_same(target, opened.source):
        raise UsageError(f"in place, OUT is IN, and {target} is not {opened.source}", "name one file twice")
    made = Provenance.now(loaded.name, loaded.sha256, config.settings(), opened.source)
    to_copy = config.spare_classes and holds_classes_only(opened.like.info)
    if config.if_hazy is not None and not to_copy:
        require_hazy(opened.like, loaded.model, opened.options, config.if_hazy)
    as_stored = to_copy and is_wanted_as_stored(opened, target, config.storage)
    told = config.provenance and not to_copy
    storage = replace(config.storage, provenance=made.tags() if told else ())
    writers: list[FileWriter] = []

    def make_writer() -> FileWriter:
        writer: FileWriter
        if as_stored:
            writer = FileCopy(opened.source, target, overwrite, storage.tmp_dir)
        else:
            writer = open_writer(
                target, opened.like, overwrite, storage, in_place=config.in_place, maker=maker
            )
        writers.append(hold(writer) if hold else writer)
        return writers[-1]

    resume = resume_of(config, opened, target, loaded) if config.resume else None
    if to_copy:
        report = copy(opened, make_writer, by_rows=not as_stored)
    else:
        make_map = None if haze_map is None else lambda: open_map(haze_map, opened.like, overwrite)
        report = run(
            opened.reader, make_writer, loaded.model, opened.options, watch, resume, distribute, make_map
        )
    return UncommittedResult(report, writers[-1], made, target)


def resume_of(config: RunConfig, opened: OpenedScene, target: str, loaded: Loaded) -> Resume:
    """Return where what is done is kept, and what tells one scene from another."""
    path = Path(os.path.realpath(target))
    folder = path.parent if config.storage.tmp_dir is None else Path(config.storage.tmp_dir)
    identity = {
        "the input": fingerprint(opened.reader),
        "the weights": loaded.sha256,
        "the selection": repr(replace(config.selection, mask=None)),
    }
    return Resume(str(folder / f".{path.name}.resume"), identity)


def copy(opened: OpenedScene, make_writer: Callable[[], FileWriter], by_rows: bool) -> Report:
    """Write what is wanted of a raster as it is, and say so."""
    info = opened.like.info
    report = Report(input=info.name, height=info.height, width=info.width, count=info.count, dtype=info.dtype)
    report.warn("holds quality flags or classes, as its name says, and was copied as it is")
    with report.timed("copy"), make_writer() as writer:
        for box in strips(info.height if by_rows else 0, info.width, STRIP_ROWS):
            writer.write(opened.like.read(box, range(1, info.count + 1)))
        writer.commit()
    return report


def is_wanted_as_stored(opened: OpenedScene, target: str, storage: Storage) -> bool:
    """Whether the file of a raster itself is what is wanted of it: all of it, in the same format."""
    same_format = Path(opened.source).suffix.lower() == Path(target).suffix.lower()
    plain = storage == Storage(tmp_dir=storage.tmp_dir)
    whole = not isinstance(opened.like, WindowedReader)
    return plain and same_format and whole and Path(opened.source).is_file()


def dehaze_file(
    source: str,
    target: str,
    loaded: Loaded,
    config: RunConfig,
    overwrite: bool = False,
    watch: Watch | None = None,
    haze_map: AnyPath | None = None,
) -> Report:
    """Dehaze a file into a new one, with a haze map if wanted; raises the DehazeError that fits."""
    opened = open_scene(source, config)
    try:
        computed = compute(opened, target, loaded, config, overwrite, watch, haze_map=haze_map)
    finally:
        opened.reader.close()
    return finished(computed)


def run_in_memory(
    reader: RasterReader,
    model: DehazeModel,
    options: EngineOptions,
    layout: Layout = "chw",
    watch: Watch | None = None,
    like: RasterInfo | None = None,
) -> tuple[Pixels, Report]:
    """Dehaze a scene into an array of this layout, of the shape and type of `like`, by default its own."""
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(like or reader.info, layout))
        return writers[-1]

    report = run(reader, make_writer, model, options, watch)
    return writers[-1].array, report


def finished(computed: UncommittedResult) -> Report:
    """The report of a result that has its name."""
    report, made = computed.report, computed.made
    for warning in computed.writer.warnings:
        report.warn(warning)
    report.output = computed.target
    report.model, report.weights_sha256, _ = made.origin
    report.version = made.version
    report.processing = made.stac()
    return report
