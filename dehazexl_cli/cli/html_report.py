"""One HTML page that shows a scene before and after, with everything inside it: no network, no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehazexl_cli.text import name_of, to_json, view_command

if TYPE_CHECKING:
    from dehazexl_cli.cli.compare import Candidate
    from dehazexl_cli.evaluation import Seam
    from dehazexl_cli.evaluation.measures import View
    from dehazexl_cli.raster.base import Pixels, RasterReader

TEMPLATE = Path(__file__).with_name("html_report.html")
SLOT = "/*DATA*/null"
OVERVIEW_SIDE = 1400  # pixels
CROP_SIDE = 400  # pixels, shown at full size
MAP_SIDE = 700  # pixels of a seam map
WORST = 4  # seams that are shown as places, evenly of each way
FULL_COLOUR = 8.0  # levels of a seam that the map shows in full colour
BINS = 64


def comparison_page(
    source: str,
    reference: str | None,
    candidates: Sequence[Candidate],
    rows: Sequence[dict[str, Any]],
    spots: Sequence[tuple[int, int]],
) -> str:
    """The page of `dehazexl compare`: `rows` of its table, and places (column, row) that the user named."""
    view = candidates[0].view
    files = {"input": source, **{c.label: str(c.output) for c in candidates}}
    if reference is not None:
        files["reference"] = reference
    facts = scene_facts(source)
    places = [*named_places(spots), *worst_places(candidates)]
    data = facts | {
        "title": f"{name_of(source)} in {len(candidates)} ways",
        "view": view_command(*files.values()),
        "stretch": [view.low, view.high],
        "views": {label: jpeg(small(path, view, OVERVIEW_SIDE)) for label, path in files.items()},
        "places": [place | {"images": crops(files, view, place)} for place in places],
        "maps": {c.label: seam_map(source, view, c.seams) for c in candidates},
        "histograms": {label: histograms(path, view) for label, path in files.items()},
        "rows": [{key: value for key, value in row.items() if key != "report"} for row in rows],
        "reports": {c.label: c.report for c in candidates},
    }
    return filled(data)


def preview_page(title: str, before: Pixels, after: Pixels, facts: dict[str, Any]) -> str:
    """The page of `dehazexl preview`: two pictures [3, h, w] uint8 and a slider between them."""
    return filled(facts | {"title": title, "views": {"input": jpeg(before), "dehazed": jpeg(after)}})


def filled(data: dict[str, Any]) -> str:
    """The template with its data; nothing in it can end the script it stands in."""
    text = to_json(data).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace(SLOT, text, 1)


def scene_facts(source: str) -> dict[str, Any]:
    """Name and size of the scene."""
    from dehazexl_cli.raster import open_reader

    with closing(open_reader(source)) as reader:
        info = reader.info
    return {"name": info.name, "height": info.height, "width": info.width, "dtype": info.dtype}


def named_places(spots: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
    """Places that the user asked for."""
    return [{"name": f"at {column}, {row}", "row": row, "column": column} for column, row in spots]


def worst_places(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The middles of the highest jumps at each way's lines, no two near each other."""
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        taken = 0
        for seam in candidate.seams:
            row = seam.box.top + seam.box.height // 2
            column = seam.box.left + seam.box.width // 2
            if any(abs(p["row"] - row) + abs(p["column"] - column) < CROP_SIDE // 2 for p in found):
                continue
            name = f"{candidate.label}: jump of {seam.height:.1f} levels"
            found.append({"name": name, "row": row, "column": column})
            taken += 1
            if taken == max(1, WORST // len(candidates)):
                break
    return found


def small(path: str, view: View, side: int) -> Pixels:
    """A file as a picture [3, h, w] uint8, its longer side at most `side`, in the stretch of the view."""
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.thumbnail import thumbnail

    with closing(open_reader(path)) as reader:
        return view.shown(thumbnail(reader, view.bands, side))


def crops(files: dict[str, str], view: View, place: dict[str, Any]) -> dict[str, str]:
    """A square of every file around a place, without loss."""
    from dehazexl_cli.raster import open_reader

    found = {}
    for label, path in files.items():
        with closing(open_reader(path)) as reader:
            found[label] = png(view.shown(crop(reader, view, place)))
    return found


def crop(reader: RasterReader, view: View, place: dict[str, Any]) -> Pixels:
    """The square around a place, moved inside the scene where it would reach out of it."""
    from dehazexl_cli.grid import Box

    info = reader.info
    height, width = min(CROP_SIDE, info.height), min(CROP_SIDE, info.width)
    top = min(max(0, place["row"] - height // 2), info.height - height)
    left = min(max(0, place["column"] - width // 2), info.width - width)
    return reader.read(Box(top, left, height, width), view.bands)


def seam_map(source: str, view: View, seams: Sequence[Seam]) -> str:
    """The scene in dark grey, every stretch of a line where patches meet coloured by its height."""
    import numpy as np

    from dehazexl_cli.raster import open_reader

    grey = small(source, view, MAP_SIDE).mean(axis=0) * 0.35
    picture = np.repeat(grey.astype(np.uint8)[None], 3, 0)
    with closing(open_reader(source)) as reader:
        info = reader.info
    down, right = picture.shape[1] / info.height, picture.shape[2] / info.width
    for seam in reversed(seams):  # the highest last, over the others
        box = seam.box
        rows = slice(round(box.top * down), max(round(box.top * down) + 2, round(box.bottom * down)))
        cols = slice(round(box.left * right), max(round(box.left * right) + 2, round(box.right * right)))
        share = min(1.0, seam.height / FULL_COLOUR)
        colour = np.array([255, 230 * (1 - share), 40 * (1 - share)])[:, None, None]
        part = picture[:, rows, cols]
        part[...] = part * (1 - share) + colour * share
    return png(picture)


def histograms(path: str, view: View) -> list[list[float]]:
    """Shares of pixels in equal steps of the stretch, by band."""
    import numpy as np

    from dehazexl_cli.raster import open_reader

    with closing(open_reader(path)) as reader:
        values = view.unit(reader.sample(view.bands, 1024))
    counts = [np.histogram(band, BINS, (0, 1))[0] for band in values]
    return [(count / max(1, count.sum())).round(5).tolist() for count in counts]


def jpeg(pixels: Pixels) -> str:
    """A picture [3, h, w] uint8 as a data address, slightly lossy."""
    import imagecodecs

    from dehazexl_cli.raster.pixels import interleaved

    return address("jpeg", imagecodecs.jpeg8_encode(interleaved(pixels), level=90))


def png(pixels: Pixels) -> str:
    """A picture [3, h, w] uint8 as a data address, without loss."""
    from dehazexl_cli.raster import thumbnail

    return address("png", thumbnail.png(pixels))


def address(kind: str, code: bytes | bytearray) -> str:
    """Bytes as a data address."""
    return f"data:image/{kind};base64,{base64.b64encode(code).decode()}"
