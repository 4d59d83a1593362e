"""What `dehazexl run` writes beside OUT, seen to before any work; and what it says at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dehazexl_cli.cli import output
from dehazexl_cli.errors import UsageError
from dehazexl_cli.paths import STDOUT, descriptor_of, is_same, require_apart, require_writable

if TYPE_CHECKING:
    from dehazexl_cli.paths import AnyPath
    from dehazexl_cli.report import Report

MUCH_LARGER = 3  # times
NO_MATTER_BYTES = 1 << 20  # which no disk minds


def require_beside(path: Path, target: str, overwrite: bool, inputs: Sequence[AnyPath | None]) -> None:
    """Raises OutputError for a file that is OUT, an input or there already, or cannot be written."""
    from dehazexl_cli.raster.side_files import own_side_files

    require_apart(path, (target,))
    require_writable(path, overwrite, (*inputs, *own_side_files(Path(target))))


def require_map(
    path: Path, target: str, overwrite: bool, inputs: Sequence[AnyPath | None], dask: str | None
) -> None:
    """Raises OutputError or UsageError, before any work, if the haze map could not be written."""
    from dehazexl_cli.haze_map import require_map_name

    if dask is not None:
        raise UsageError("--haze-map and --dask do not go together", "leave out one of them")
    require_map_name(path)
    require_beside(path, target, overwrite, inputs)


def require_item(
    path: Path, source: str, target: str, overwrite: bool, inputs: Sequence[AnyPath | None]
) -> None:
    """Raises OutputError or UsageError, before any work, if a STAC item could not be made or written."""
    from dehazexl_cli.raster import require_placed
    from dehazexl_cli.stac import require_rio_stac

    require_rio_stac()
    require_placed(source, "leave out --stac, or give IN coordinates first")
    require_beside(path, target, overwrite, inputs)


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
