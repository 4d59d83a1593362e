"""`dehazexl view BEFORE AFTER [MORE…]`: a page with rasters of any size over each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import InputError
from dehazexl_cli.signals import hint_when_stopped
from dehazexl_cli.text import masked, name_of

if TYPE_CHECKING:
    from dehazexl_cli.evaluation.measures import View
    from dehazexl_cli.raster.base import RasterReader
    from dehazexl_cli.viewer.server import Layer

SAMPLE_SIDE = 1024  # pixels of the thinned view that a stretch is found by


@shares("bands", "not_alpha", "input_range", "tmp_dir")
def view(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="An image, whatever GDAL opens.")],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", help="Another of the same size, or of the same place.")
    ],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[MORE]...", help="Further ones, such as maps.")
    ] = None,
    *,
    shared: Shared,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="To serve on; default: any that is free.")
    ] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
) -> None:
    """Show BEFORE and AFTER at every zoom, with a curtain between them, in a page for this machine's browser.

    The address of the page is printed; Ctrl-C ends it. All images of one type are shown in the stretch of
    BEFORE, nodata is transparent. Nothing is written; images of more than 2,048 pixels a side without
    overviews are read once before.

    Example: dehazexl view hazy.tif clear.tif --open
    """
    output.configure_logging(False, quiet)
    from dehazexl_cli.viewer.server import ViewServer

    with hint_when_stopped(""), ExitStack() as stack:
        names = [before, after, *(more or [])]
        chosen = shared.engine_options()
        layers = open_layers(stack, names, chosen.bands, chosen.input_range, shared.not_alpha)
        server = stack.enter_context(ViewServer(layers, port))
        prepare(layers, None if shared.tmp_dir is None else Path(shared.tmp_dir), progress, quiet)
        output.put(server.address)
        if not quiet:
            output.say("the page is there until Ctrl-C")
        if open_page:
            open_in_browser(server.address)
        server.serve_forever()


def open_layers(
    stack: ExitStack,
    names: Sequence[str],
    wanted: tuple[int, ...] | None,
    given: tuple[float, float] | None,
    not_alpha: bool,
) -> list[Layer]:
    """The rasters, to be closed by the stack; InputError for one that cannot lie over the first."""
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.base import Trust
    from dehazexl_cli.raster.overviews import open_overviews
    from dehazexl_cli.viewer.pyramid import Pyramid
    from dehazexl_cli.viewer.server import Layer

    trust, layers = Trust(alpha=not not_alpha, size=True), []
    readers = [stack.enter_context(closing(open_reader(name, trust))) for name in names]
    for reader in readers[1:]:
        require_over(readers[0], reader)
    views = choose_views(readers, wanted, given)
    for name, reader, seen in zip(titles(names), readers, views, strict=True):
        pyramid = Pyramid({1: reader, **open_overviews(reader, trust)}, seen.bands, seen.shown)
        layers.append(Layer(name, about(reader, seen), stack.enter_context(closing(pyramid))))
    return layers


def require_over(first: RasterReader, other: RasterReader) -> None:
    """Raises InputError for rasters that are neither of one size nor of one place by their files."""
    from dehazexl_cli.raster import covers_the_same

    one, two = first.info, other.info
    if (one.height, one.width) == (two.height, two.width):
        return
    coarse = one.width / two.width
    if abs(two.height * coarse - one.height) <= max(1.0, coarse) and covers_the_same(first, other):
        return
    raise InputError(
        f"{two.name} has {two.width} x {two.height} pixels, {one.name} has {one.width} x {one.height}, and "
        "their files do not say that they cover one place",
        f"bring it there: gdalwarp -t_srs … -te … -ts {one.width} {one.height} {two.name} OUT.tif",
    )


def choose_views(
    readers: Sequence[RasterReader], wanted: tuple[int, ...] | None, given: tuple[float, float] | None
) -> list[View]:
    """The stretch of the first for all that have its type and bands; others have their own.

    What the user wants and gives is meant for those that have the first one's bands.
    """
    from dehazexl_cli.evaluation.measures import View
    from dehazexl_cli.raster.bands import choose_bands

    views: list[View] = []
    first = readers[0].info
    for reader in readers:
        info = reader.info
        colours = choose_bands(info, wanted if info.count == first.count else None).colours
        if info.indexed:  # colours of a table mean what they are
            views.append(View(colours, 0, 255))
        elif views and info.dtype == first.dtype and len(colours) == len(views[0].bands):
            views.append(View(colours, views[0].low, views[0].high))
        else:
            views.append(View(colours, *(given if given and not views else stretch(reader, colours))))
    return views


def stretch(reader: RasterReader, bands: tuple[int, ...]) -> tuple[float, float]:
    """What is black and white in a raster: all of a byte, or what a run would see as such."""
    from dehazexl_cli.raster.base import range_of, white_of

    if reader.info.dtype == "uint8":
        return 0, white_of(reader.info)
    found = range_of(reader.sample(bands, SAMPLE_SIDE))
    return found.low, found.high


def titles(names: Sequence[str]) -> list[str]:
    """Names of files, with their folders where those alone are not different."""
    short = [name_of(name) for name in names]
    return short if len(set(short)) == len(short) else [masked(name) for name in names]


def about(reader: RasterReader, seen: View) -> str:
    """What is shown, in a line."""
    info = reader.info
    shown = "colours of its table" if info.indexed else f"{seen.low:g} to {seen.high:g} as black to white"
    return f"{info.width} × {info.height} pixels of {info.dtype}, {shown}"


def prepare(layers: Sequence[Layer], folder: Path | None, kind: output.ProgressKind, quiet: bool) -> None:
    """Make small copies of large rasters; where there are no overviews, all of these is read."""
    total, done = sum(layer.pyramid.rows_to_prepare for layer in layers), 0
    with output.Progress(kind, quiet) as told:

        def made(rows: int) -> None:
            nonlocal done
            done += rows
            told("shrink", done, total)

        for layer in layers:
            layer.pyramid.prepare(folder, made)


def open_in_browser(address: str) -> None:
    """Open the page, or say that there is no browser."""
    import webbrowser

    if not webbrowser.open(address):
        output.say("no browser was found: open the address in one")
