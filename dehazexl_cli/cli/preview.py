"""`dehazexl preview IN [OUT]`: a quick look at what a run would do, from a small picture of the scene."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.atomic import write_atomic
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.paths import require_all_writable
from dehazexl_cli.text import name_of, view_command

if TYPE_CHECKING:
    from dehazexl_cli.config import EngineOptions
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.raster.base import Pixels, RasterReader
    from dehazexl_cli.report import Report

GAP = 8  # white pixels between before and after


@shares(*options.MODEL, "device", "bands", "not_alpha", "input_range", "strength")
def preview(
    source: options.Input,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="A .png; the page gets its name too. Default: IN-preview.png."),
    ] = None,
    side: options.Side = 1024,
    *,
    shared: Shared,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Show IN before and after, from overviews, in seconds: a picture, and a page with a slider.

    A small picture shows less of the ground, so a run in full may judge the haze a little differently. The
    paths of both files are printed.

    Example: dehazexl preview huge.tif look.png
    """
    output.configure_logging(False, quiet)
    picture = target or Path(f"{Path(name_of(source)).stem}-preview.png")
    page = picture.with_suffix(".html")
    if picture.suffix.lower() != ".png":
        raise OutputError(f"{picture}: is no .png", f"call it {picture.with_suffix('.png')}")
    require_all_writable((picture, page), overwrite, (source, shared.weights))
    from dehazexl_cli.cli.html_report import preview_page
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.base import Trust

    chosen = shared.engine_options()
    with closing(open_reader(source, Trust(alpha=not shared.not_alpha, size=True))) as reader:
        before, after, report = dehazed_small(reader, shared.load_model().model, chosen, side)
        info = reader.info
    facts = {"name": info.name, "height": info.height, "width": info.width, "dtype": info.dtype}
    facts["stretch"] = [report.low, report.high]
    facts["view"] = view_command(source, "OUT")
    both = beside(before, after)
    text = preview_page(f"{name_of(source)}, a preview", before, after, facts)
    write_atomic(picture, both, "name another file")
    write_atomic(page, text, "name another file")
    output.put_path(picture)
    output.put_path(page)


def dehazed_small(
    reader: RasterReader, model: DehazeModel, chosen: EngineOptions, side: int
) -> tuple[Pixels, Pixels, Report]:
    """Pictures [3, h, w] uint8 before and after, in one stretch."""
    from dataclasses import replace

    from dehazexl_cli.evaluation.measures import View
    from dehazexl_cli.files import run_in_memory
    from dehazexl_cli.haze_map import small_reader
    from dehazexl_cli.raster.bands import choose_bands

    bands = choose_bands(reader.info, chosen.bands).colours
    small = small_reader(reader, bands, side)
    after, report = run_in_memory(small, model, replace(chosen, bands=None))
    view = View(tuple(range(1, len(bands) + 1)), report.low, report.high)
    before = small.read(Box(0, 0, small.info.height, small.info.width), view.bands)
    return view.shown(before), view.shown(after), report


def beside(before: Pixels, after: Pixels) -> bytes:
    """Both pictures side by side as a PNG."""
    import numpy as np

    from dehazexl_cli.raster.thumbnail import png

    gap = np.full((3, before.shape[1], GAP), 255, np.uint8)
    both = np.concatenate([before, gap, after], axis=2)
    return png(both)
