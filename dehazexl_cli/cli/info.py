"""`dehazexl info FILE…`: what is seen in a raster, and what would be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.cli.plan import describe, network_for, sentences, size
from dehazexl_cli.errors import DehazeError
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.config import EngineOptions
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.raster.base import RasterReader

SHOWN_BANDS = 16  # to people; JSON has all


@shares("model", "bands", "all_bands", "not_alpha", "max_ram")
def info(
    sources: Annotated[list[str], typer.Argument(metavar="FILE", help="Images, whatever GDAL opens.")],
    shared: Shared,
    as_json: options.Json = False,
) -> None:
    """Print what is seen in each FILE, and how `dehazexl run` would treat it. Nothing is written.

    Numbers in bands are those of a thinned view of 512 pixels a side. JSON is a list with an object for each
    FILE; one that cannot be used has an "error" in it. --bands, --all-bands, --not-alpha, --model and
    --max-ram mean what they mean to `dehazexl run`.

    Example: dehazexl info scene.tif
    """
    output.configure_logging(False, False)
    if len(sources) == 1:
        options.require_there(sources[0])
    chosen, network, seen = shared.engine_options(), network_for(shared), []
    for number, source in enumerate(sources):
        try:
            seen.append(look_at(source, network, chosen, heed_alpha=not shared.not_alpha))
        except DehazeError as error:
            if len(sources) == 1:
                raise
            output.show_error(error)
            seen.append({"input": source, "error": said(error)})
        else:
            if not as_json:
                output.put("\n".join(["", *lines(seen[-1])] if number else lines(seen[-1])))
    if as_json:
        output.put(to_json(seen, 2))
    if any("error" in facts for facts in seen):
        raise typer.Exit(output.FINISHED_WITH_FAILURES)


def look_at(
    source: str, network: tuple[str, DehazeModel], chosen: EngineOptions, heed_alpha: bool = True
) -> dict[str, Any]:
    """What a file tells, as plain values; InputError if it cannot be used."""
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.base import Trust
    from dehazexl_cli.raster.describe import describe_raster

    with closing(open_reader(source, Trust(alpha=heed_alpha, size=True))) as reader:
        shape = {key: getattr(reader.info, key) for key in ("height", "width", "count", "dtype")}
        return {
            "input": source,
            **shape,
            **asdict(describe_raster(reader)),
            "run": how_it_would_run(reader, network, chosen),
        }


def how_it_would_run(
    reader: RasterReader, network: tuple[str, DehazeModel], chosen: EngineOptions
) -> dict[str, Any]:
    """The plan of a run as plain values; what prevents one is part of what is seen, and no failure here."""
    from dehazexl_cli.engine import prepare

    name, model = network
    try:
        job = prepare(reader, model, chosen)
    except DehazeError as error:
        return {"error": said(error)}
    part = job.frame.part if job.frame else None
    return describe(job, name, model) | {"ground": part and part._asdict()}


def said(error: DehazeError) -> dict[str, Any]:
    """An error as plain values."""
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """What is seen, for a person."""
    yield f"file       {facts['input']}"
    yield f"format     {stored(facts)}"
    yield f"scene      {facts['width']} x {facts['height']} pixels, {facts['count']} bands of {typed(facts)}"
    yield f"place      {placed(facts['place'])}"
    for number, band in enumerate(facts["bands"][:SHOWN_BANDS]):
        yield f"{'band' if number == 0 else '':<11}{banded(band)}"
    if facts["count"] > SHOWN_BANDS:
        yield f"{'':<11}and {facts['count'] - SHOWN_BANDS} more; --json lists all"
    yield f"ground     {grounded(facts)}"
    if "error" in facts["run"]:
        yield f"run        impossible: {facts['run']['error']['message']}"
        yield f"  try      {facts['run']['error']['hint']}"
    else:
        # The first sentence says again what scene it is.
        yield from sentences(facts["run"])[1:]


def stored(facts: dict[str, Any]) -> str:
    """Format and storage."""
    storage = facts["storage"]
    height, width = storage["block"]
    parts = [storage["driver"]]
    if storage["compression"]:
        parts.append(storage["compression"])
    parts.append(f"blocks of {width} x {height}")
    if storage["overviews"]:
        parts.append(f"overviews {', '.join(f'1:{factor}' for factor in storage['overviews'])}")
    if storage["size_bytes"] is not None:
        parts.append(megabytes(storage["size_bytes"]))
    if storage["decoder"] != "GDAL":
        parts.append(f"decoded by {storage['decoder']}, as GDAL cannot")
    return ", ".join(parts)


def typed(facts: dict[str, Any]) -> str:
    """The pixel type, and the bits in use if they are fewer."""
    return str(facts["dtype"]) + (f", of which {facts['bits']} bits are in use" if facts["bits"] else "")


def placed(place: dict[str, Any]) -> str:
    """Where it lies."""
    parts = []
    if place["crs"]:
        short = place["crs"].startswith("EPSG:")
        parts.append(
            f"{place['crs']} ({place['crs_name']})" if short else place["crs_name"] or "a CRS as WKT"
        )
    elif place["bounds"]:
        parts.append("coordinates without a CRS")
    if place["pixel"]:
        height, width = place["pixel"]
        unit = f" {place['unit']}" if place["unit"] and place["unit"] != "unknown" else ""
        parts.append(f"pixels of {width:g} x {height:g}{unit}" + (", rotated" if place["rotated"] else ""))
        parts.append("bounds " + ",".join(f"{number:.10g}" for number in place["bounds"]))
    if place["control_points"]:
        parts.append(f"{place['control_points']} ground control points")
    if place["rpcs"]:
        parts.append("RPCs")
    return ", ".join(parts) or "not georeferenced"


def banded(band: dict[str, Any]) -> str:
    """One band."""
    names = " ".join(filter(None, [band["meaning"], band["description"] and f'"{band["description"]}"']))
    found = "no ground" if band["low"] is None else f"{band['low']:g} to {band['high']:g}"
    text = f"{band['number']:<3}{names + ', ' if names else ''}{found}"
    if (band["scale"], band["offset"]) != (1.0, 0.0):
        text += f", stands for {band['scale']:g} * number + {band['offset']:g}"
    return text + (f" {band['unit']}" if band["unit"] else "")


def grounded(facts: dict[str, Any]) -> str:
    """What is ground, and by what it is told."""
    said_by = []
    values = dict.fromkeys(value for value in facts["nodata"] if value is not None)
    if values:
        said_by.append(f"nodata {', '.join(f'{value:g}' for value in values)}")
    if facts["mask"]:
        said_by.append("a mask band")
    if facts["alpha"]:
        said_by.append(f"alpha in band {facts['alpha']}")
    if facts["palette"]:
        said_by.append(f"a colour table, read as {facts['palette']}")
    text = f"{facts['valid_share']:.1%} of the pixels looked at; " + (
        ", ".join(said_by) or "no nodata, mask or alpha"
    )
    part = facts["run"].get("ground")
    if part is not None:
        text += f"; all within columns {part['left']} to {part['left'] + part['width'] - 1}"
        text += f", rows {part['top']} to {part['top'] + part['height'] - 1}"
    return text


def megabytes(count: int) -> str:
    """The size of a file for a person."""
    return size(count) if count >= 2**30 else f"{count / 2**20:.1f} MB"
