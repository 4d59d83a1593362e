"""`dehazexl preview IN [OUT]`: a quick look at what a run would do, from a small picture of the scene."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.cli import console, options
from dehazexl_cli.cli.measuring import View
from dehazexl_cli.documents import write_whole
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.paths import require_all_writable
from dehazexl_cli.text import name_of, view_command

if TYPE_CHECKING:
    from dehazexl_cli.engine import Options
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.raster.base import Pixels, RasterReader
    from dehazexl_cli.report import Report

GAP = 8  # white pixels between before and after


def preview(
    source: options.Input,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="A .png; the page gets its name too. Default: IN-preview.png."),
    ] = None,
    side: Annotated[
        int, typer.Option("--side", metavar="PIXELS", min=64, help="Of the small picture's longer side.")
    ] = 1024,
    model: options.ModelName = None,
    weights: options.Weights = None,
    multiple: options.Multiple = None,
    device: options.Device = "auto",
    bands: options.Bands = None,
    not_alpha: options.NotAlpha = False,
    input_range: options.InputRange = None,
    strength: options.Strength = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Show IN before and after, from overviews, in seconds: a picture, and a page with a slider.

    A small picture shows less of the ground, so a run in full may judge the haze a little differently. The
    paths of both files are printed.

    Example: dehazexl preview huge.tif look.png
    """
    console.configure_logging(False, quiet)
    picture = target or Path(f"{Path(name_of(source)).stem}-preview.png")
    page = picture.with_suffix(".html")
    if picture.suffix.lower() != ".png":
        raise OutputError(f"{picture}: is no .png", f"call it {picture.with_suffix('.png')}")
    require_all_writable((picture, page), overwrite, (source, weights))
    from dehazexl_cli.cli.page import preview_page
    from dehazexl_cli.models.loading import load_model
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.base import Trust

    chosen = options.read_options(
        bands, input_range, strength, device, options.Precision.auto, None, None, "auto", 0
    )
    with closing(open_reader(source, Trust(alpha=not not_alpha, size=True))) as reader:
        before, after, report = dehazed_small(
            reader, load_model(model, weights, multiple).model, chosen, side
        )
        info = reader.info
    facts = {"name": info.name, "height": info.height, "width": info.width, "dtype": info.dtype}
    facts["stretch"] = [report.low, report.high]
    facts["view"] = view_command(source, "OUT")
    both = beside(before, after)
    text = preview_page(f"{name_of(source)}, a preview", before, after, facts)
    write_whole(picture, both, "name another file")
    write_whole(page, text, "name another file")
    console.put_path(picture)
    console.put_path(page)


def dehazed_small(
    reader: RasterReader, model: DehazeModel, chosen: Options, side: int
) -> tuple[Pixels, Pixels, Report]:
    """Pictures [3, h, w] uint8 before and after, in one stretch."""
    from dataclasses import replace

    from dehazexl_cli.cli.page import shown
    from dehazexl_cli.engine import run
    from dehazexl_cli.raster.bands import choose_bands
    from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
    from dehazexl_cli.raster.thumbnail import thumbnail, thumbnail_ground
    from dehazexl_cli.raster.views import MaskedReader

    info = reader.info
    bands = choose_bands(info, chosen.bands).colours
    pixels, ground = thumbnail(reader, bands, side), thumbnail_ground(reader, bands, side)
    small: RasterReader = ArrayReader(pixels, channels_first=True, nodata=info.nodata, name=info.name)
    if ground is not None:  # alpha and masks, too, say what the model is not to see
        small = MaskedReader(small, mask=ArrayReader(ground.astype("uint8")))
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(small.info, "chw"))
        return writers[-1]

    report = run(small, make_writer, model, replace(chosen, bands=None))
    view = View(tuple(range(1, len(bands) + 1)), report.low, report.high)
    before = small.read(whole(small), view.bands)
    return shown(before, view), shown(writers[-1].array, view), report


def whole(reader: RasterReader) -> Box:
    """All of a scene."""
    return Box(0, 0, reader.info.height, reader.info.width)


def beside(before: Pixels, after: Pixels) -> bytes:
    """Both pictures side by side as a PNG."""
    import imagecodecs
    import numpy as np

    from dehazexl_cli.raster.pixels import interleaved

    gap = np.full((3, before.shape[1], GAP), 255, np.uint8)
    both = np.concatenate([before, gap, after], axis=2)
    return bytes(imagecodecs.png_encode(interleaved(both), level=6))
