"""STAC items: what a result is, where it lies and what it was made of, for catalogues; by rio-stac."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dehazexl_cli.atomic import write_atomic
from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.report import Report
from dehazexl_cli.text import is_remote, masked, to_json

PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
RESULT = "dehazed"  # the name of the asset


class Source(NamedTuple):
    """What is dehazed: a file, and the item that it is an asset of, if it was named by one."""

    path: str
    item: str | None = None


def find_source(name: str) -> Source:
    """Return the file of an asset that is named as `item.json#asset`; any other name is a file's itself.

    Raises InputError for an item that cannot be read or has no such asset.
    """
    item, mark, asset = name.rpartition("#")
    if not mark or not item.lower().endswith((".json", ".geojson")) or os.path.exists(name):
        return Source(name)
    assets = read_item(item).get("assets", {})
    if asset not in assets or "href" not in assets[asset]:
        raise InputError(f"{item} has no asset {asset!r}", f"it has {', '.join(sorted(assets)) or 'none'}")
    href = str(assets[asset]["href"])
    inside = not urlsplit(href).scheme and not os.path.isabs(href)
    return Source(os.path.join(os.path.dirname(item), href) if inside else href, item)


def read_item(path: str) -> dict[str, Any]:
    """Read an item; InputError if it is none."""
    try:
        item = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no STAC item ({error})", "name one as item.json#asset") from error
    if not isinstance(item, dict) or item.get("type") != "Feature":
        raise InputError(f"{path} is no STAC item", "name one as item.json#asset")
    return item


def require_rio_stac() -> Any:
    """Import rio-stac, which makes items; UsageError if it is not installed."""
    try:
        import rio_stac
    except ImportError as error:
        raise UsageError("--stac needs the package rio-stac", "pip install 'dehazexl[stac]'") from error
    return rio_stac


def write_item(path: Path, report: Report, source: str, source_item: str | None = None) -> None:
    """Write the item of a result: its place, size, bands, processing, and from what it derives.

    Raises OutputError where it cannot be written.
    """
    import rasterio

    rio_stac, folder = require_rio_stac(), path.absolute().parent
    before = read_item(source_item) if source_item else {}
    with rasterio.open(report.output) as result, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics over nodata
        item = rio_stac.create_stac_item(
            result,
            id=Path(report.output).stem,
            extensions=[PROCESSING],
            properties=dict(report.processing),
            with_proj=True,
            with_raster=True,
            asset_name=RESULT,
            asset_roles=["data"],
            asset_href=os.path.relpath(report.output, folder),
        ).to_dict(include_self_link=False)
    for key in ("datetime", "start_datetime", "end_datetime", "platform", "instruments", "constellation"):
        if key in before.get("properties", {}):  # of the picture, which is older than its processing
            item["properties"][key] = before["properties"][key]
    origin = source_item or source
    # A server's address may hold a key.
    href = masked(origin) if is_remote(origin) else os.path.relpath(origin, folder)
    link = {"rel": "derived_from", "href": href}
    item["links"].append(link | ({"type": "application/geo+json"} if source_item else {}))
    write_atomic(path, to_json(item, 2) + "\n", "name another --stac")
