"""`dehazexl synth CLEAR… OUT_DIR`: pairs of hazy and clear images, made from clear ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.paths import file_of, make_folder
from dehazexl_cli.signals import hint_when_stopped
from dehazexl_cli.text import name_of

if TYPE_CHECKING:
    from dehazexl_cli.raster.base import RasterInfo, RasterReader
    from dehazexl_cli.training.synthesis import Camera, Hazing

PICTURES = {"JPEG", "PNG", "BMP", "WEBP", "GIF"}  # formats, as GDAL names them, whose copies are PNG files
TIFF_SUFFIXES = (".tif", ".tiff")


@shares("bands", "not_alpha", "input_range")
def synth(
    sources: Annotated[list[str], typer.Argument(metavar="CLEAR", help="Clear images.")],
    target: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the pairs.")],
    levels: Annotated[
        str, typer.Option("--levels", metavar="1,2,3,4", help="Densities, from light to very dense.")
    ] = "1,2,3,4",
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Equal seeds give equal bytes, whatever else is made.")
    ] = 0,
    *,
    shared: Shared,
    sensor_noise: Annotated[
        float,
        typer.Option("--sensor-noise", metavar="SHARE", help="Noise of the camera, like 0.01 of the range."),
    ] = 0.0,
    jpeg: Annotated[
        int | None,
        typer.Option("--jpeg", metavar="QUALITY", help="Compress hazy images like a camera does, 1 to 100."),
    ] = None,
    overwrite: options.Overwrite = False,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put haze on clear images: OUT_DIR/clear and OUT_DIR/cloud_L1 to cloud_L4 with equal names.

    Level 1 leaves about 83 % of the ground's light, level 2 60 %,
    level 3 40 %, level 4 20 % and in parts less than 10 %.
    Images keep size, type, bands, nodata and georeference; JPEG becomes PNG.
    What each was made with is in NAME.json beside it.
    `dehazexl evaluate --data OUT_DIR` measures a model on the pairs.

    Example: dehazexl synth clear/*.tif pairs --levels 1,3 --seed 7
    """
    output.configure_logging(verbose, quiet)
    from dehazexl_cli.training.synthesis import Camera

    asked = SkyOptions(
        parse_levels(levels),
        seed,
        options.parse_bands(shared.bands),
        options.parse_range(shared.input_range),
        Camera(sensor_noise, jpeg),
        overwrite,
        shared.not_alpha,
    )
    scenes = [look_at(source, asked) for source in sources]
    require_different_names(scenes)
    require_room(scenes, target, asked)
    told = output.Progress(progress, quiet)
    with hint_when_stopped(
        f"finished images stay in {target}; with --overwrite the same command makes all, with equal bytes"
    ):
        synthesise(scenes, target, asked, told, quiet)


@dataclass(frozen=True)
class SkyOptions:
    """What is to be made of every image."""

    levels: tuple[int, ...]
    seed: int
    bands: tuple[int, ...] | None
    input_range: tuple[float, float] | None
    camera: Camera
    overwrite: bool
    not_alpha: bool = False

    def open(self, source: str) -> RasterReader:
        """Open an image as it is to be taken; InputError if it cannot be used."""
        from dehazexl_cli.raster import open_reader
        from dehazexl_cli.raster.base import Trust

        return open_reader(source, Trust(alpha=not self.not_alpha))


@dataclass(frozen=True)
class Scene:
    """A clear image that was looked at and can be used."""

    source: str
    name: str  # of all files made of it
    bands: tuple[int, ...]


def parse_levels(text: str) -> tuple[int, ...]:
    """Levels of "1,3", each once and from light to dense; UsageError for others than 1 to 4."""
    from dehazexl_cli.training.synthesis import LEVELS

    parts = {part.strip() for part in text.split(",")}
    known = {str(level): level for level in LEVELS}
    if not parts <= known.keys():
        raise UsageError(f"--levels {text!r} are no levels", f"choose from {','.join(known)}, like 1,3")
    return tuple(sorted(known[part] for part in parts))


def look_at(source: str, asked: SkyOptions) -> Scene:
    """Find out before the first image is made whether all can be used; raises InputError or UsageError."""
    from dehazexl_cli.engine.value_ranges import choose_range
    from dehazexl_cli.raster.bands import choose_bands
    from dehazexl_cli.training.synthesis import require_usable

    with closing(asked.open(source)) as reader:
        bands = choose_bands(reader.info, asked.bands).colours
        if asked.input_range is not None:
            choose_range(reader, bands, asked.input_range)
        require_usable(reader.info, bands, asked.camera)
        return Scene(source, target_name(source, reader.info), bands)


def target_name(source: str, info: RasterInfo) -> str:
    """The source's name, with the suffix of a format that loses nothing."""
    path = PurePath(name_of(source))
    if info.driver in PICTURES:
        return path.stem + ".png"
    return path.name if path.suffix.lower() in TIFF_SUFFIXES else path.stem + ".tif"


def require_different_names(scenes: Sequence[Scene]) -> None:
    """Raises UsageError if two images would share names: also by stem, which is what skies follow from."""
    seen: dict[str, str] = {}
    for scene in scenes:
        stem = PurePath(scene.name).stem
        other = seen.setdefault(stem.casefold(), scene.source)  # some file systems do not tell A from a
        if other is not scene.source:
            raise UsageError(
                f"{other} and {scene.source} would both become {stem}",
                "rename one of them, or put them into different OUT_DIRs",
            )


def require_room(scenes: Sequence[Scene], target: Path, asked: SkyOptions) -> None:
    """Raises OutputError, before hours of work, if a file is in the way."""
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: is no folder", "the last argument is the folder for the pairs")
    sources = {os.path.realpath(file_of(scene.source)): scene for scene in scenes}
    for scene in scenes:
        for path in files_of(scene, target, asked.levels):
            lost = sources.get(os.path.realpath(path))
            if lost is not None and not (lost is scene and path == clear_path(target, scene)):
                raise OutputError(f"{path}: is a CLEAR image and would be lost", "name another OUT_DIR")
    present = [
        path
        for scene in scenes
        for path in files_of(scene, target, asked.levels)
        if path.exists() and not is_source(path, scene)
    ]
    if present and not asked.overwrite:
        more = f", and {len(present) - 1} more" if len(present) > 1 else ""
        raise OutputError(
            f"{present[0]}: exists already{more}", "name another OUT_DIR, or --overwrite to replace them"
        )


def files_of(scene: Scene, target: Path, levels: Sequence[int]) -> Iterator[Path]:
    """All files that will be made of an image."""
    yield clear_path(target, scene)
    for level in levels:
        yield hazy_path(target, scene, level)
        yield Path(f"{hazy_path(target, scene, level)}.json")


def clear_path(target: Path, scene: Scene) -> Path:
    """Where the clear image of a pair lies."""
    return target / "clear" / scene.name


def hazy_path(target: Path, scene: Scene, level: int) -> Path:
    """Where the hazy image of a level lies."""
    return target / f"cloud_L{level}" / scene.name


def is_source(path: Path, scene: Scene) -> bool:
    """Whether OUT_DIR/clear holds the very image: then it need not be copied."""
    source = Path(scene.source)
    return path.exists() and source.exists() and path.samefile(source)


def synthesise(
    scenes: Sequence[Scene], target: Path, asked: SkyOptions, told: output.Progress, quiet: bool
) -> None:
    """Make all pairs; an image that turns out damaged does not stop the others."""
    for name in ("clear", *(f"cloud_L{level}" for level in asked.levels)):
        make_folder(target / name)
    began, done, failed, total = time.monotonic(), 0, 0, len(scenes) * (1 + len(asked.levels))
    for scene in scenes:
        try:
            for path, record in make_pairs(scene, target, asked):
                done, name = done + 1, f"{path.parent.name}/{path.name}"
                line = f"{done} of {total}, {name}{described(record)}"
                told.item("image", line, done=done, total=total, name=name)
        except InputError as error:
            if len(scenes) == 1:
                raise
            failed += 1
            output.show_error(error)
    if not (quiet or told.is_json):
        made, seconds = len(scenes) - failed, time.monotonic() - began
        output.say(f"{target}: {made} clear, {made * len(asked.levels)} hazy in {seconds:.1f} s")
    if failed:
        output.say(f"{failed} of {len(scenes)} images failed")
        raise typer.Exit(output.FINISHED_WITH_FAILURES)


def make_pairs(scene: Scene, target: Path, asked: SkyOptions) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Write the files of one scene and yield each with what it was made with; None for the clear image."""
    from dehazexl_cli.training.synthesis import copy_clear, write_hazy

    with closing(asked.open(scene.source)) as reader:
        clear = clear_path(target, scene)
        if not is_source(clear, scene):
            copy_clear(reader, clear, asked.overwrite)
        yield clear, None
        for level in asked.levels:
            path = hazy_path(target, scene, level)
            yield path, write_hazy(reader, hazing(reader, scene, level, asked), path, asked.overwrite)


def hazing(reader: RasterReader, scene: Scene, level: int, asked: SkyOptions) -> Hazing:
    """What the hazy image of a level is made with."""
    from dehazexl_cli.engine.value_ranges import choose_range
    from dehazexl_cli.training.haze_presets import Origin
    from dehazexl_cli.training.synthesis import Hazing

    origin = Origin(asked.seed, PurePath(scene.name).stem, level)
    radiometry = choose_range(reader, scene.bands, asked.input_range)
    return Hazing.draw(origin, reader.info, scene.bands, radiometry, asked.camera)


def described(record: dict[str, Any] | None) -> str:
    """The end of a line about an image."""
    if record is None:
        return ""
    share = record["transmission"]["mean"]
    seen = "no ground" if share is None else f"{share:.0%} of the ground's light"
    return f": {record['weather']}, {seen}"
