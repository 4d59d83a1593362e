"""`dehazexl haze IN [MAP]`: how hazy a scene is, and where, without dehazing it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.paths import require_writable
from dehazexl_cli.text import name_of, to_json

# What is said of each kind of haze; see engine.haze.KINDS.
WORDS = {
    "clear": "clear: 90 per cent of light gets through, or more",
    "light": "light haze: 65 to 90 per cent",
    "medium": "haze: 35 to 65 per cent",
    "dense": "dense haze: 10 to 35 per cent",
    "closed": "closed cloud: less than 10 per cent",
}


@shares(*options.MODEL, "device", "bands", "not_alpha", "input_range")
def haze(
    source: options.Input,
    target: Annotated[
        Path | None, typer.Argument(metavar="[MAP]", help="A .tif of IN's size: per cent of light.")
    ] = None,
    side: options.Side = 1024,
    *,
    shared: Shared,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
) -> None:
    """Tell how much of IN lies under how much haze, by a small picture of it, in seconds.

    MAP says of every place how much of the ground's light gets through, in per cent, 255 where there is no
    ground. It is no finer than the small picture; `dehazexl run --haze-map` writes one as fine as the scene.

    Example: dehazexl haze hazy.tif haze.tif
    """
    output.configure_logging(False, quiet)
    from dehazexl_cli.haze_map import look, require_map_name, write_map
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.base import Trust

    if target is not None:
        require_map_name(target)
        require_writable(target, overwrite, (source, shared.weights))
    with (
        closing(open_reader(source, Trust(alpha=not shared.not_alpha, size=True))) as reader,
        output.Progress(progress, quiet) as shown,
    ):
        small, report = look(reader, shared.load_model().model, shared.engine_options(), side)
        done = 0

        def watch(rows: int) -> None:
            nonlocal done
            done += rows
            shown("map", done, reader.info.height)

        if target is not None:
            for warning in write_map(target, small, reader, overwrite, watch):
                output.tell("warning", warning)
    if as_json:
        output.put(to_json({"input": source, "map": target, "haze": report.haze}, 2))
        return
    for line in lines(name_of(source), report.haze):
        output.put(line)


def lines(name: str, found: dict[str, float]) -> list[str]:
    """What was found, for a person."""
    if not found:
        return [f"{name}: no ground to judge"]
    table = [f"{found[kind]:7.1%}  {words}" for kind, words in WORDS.items()]
    return [f"{name}: {found['transmission']:.0%} of the ground's light gets through", *table]
