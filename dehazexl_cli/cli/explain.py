"""`dehazexl explain IN OUT --window col,row,w,h`: which pixels does the restoration of a window depend on?"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dehazexl_cli.atomic import staged
from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.config import InferenceMode
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.paths import require_all_writable
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.attribution.run import Answer, Explanation, Question
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.raster.base import FileWriter, RasterReader

NO_ROOM = "free some space"


@shares(
    *("model", "weights", "device", "precision", "bands", "not_alpha", "input_range", "overlap", "max_ram"),
    *("max_vram", "nodata", "mask", "tile"),
)
def explain(
    source: options.Input,
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The map, a .tif; a .png and a .json get its name too.")
    ],
    windows: Annotated[
        list[str] | None,
        typer.Option("--window", metavar="COL,ROW,W,H", help="Whose restoration is explained; repeatable."),
    ] = None,
    places: Annotated[
        list[str] | None,
        typer.Option("--xy", metavar="X,Y", help="A window by the coordinates of its middle; repeatable."),
    ] = None,
    size: Annotated[
        float | None, typer.Option("--size", metavar="UNITS", help="Side of --xy windows, in map units.")
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            metavar="CLEAR|self|black",
            help="The scene without haze: a file, the model's own output, or black.",
        ),
    ] = "self",
    path: Annotated[
        str,
        typer.Option(
            "--path",
            metavar="blend|transmission",
            help="From the clear to the hazy scene in a straight line, or as haze grows denser.",
        ),
    ] = "blend",
    detector: Annotated[
        str, typer.Option("--detector", metavar="sum|mean", help="What of the window's output is explained.")
    ] = "sum",
    steps: Annotated[
        str,
        typer.Option("--steps", metavar="auto|N", help="Along the path; auto: until the gap is under 1 %."),
    ] = "auto",
    modes: Annotated[
        str,
        typer.Option(
            "--compare-modes", metavar="MODE,…", help="Of: global, tile; tiles see only themselves."
        ),
    ] = "global",
    *,
    shared: Shared,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    progress: options.Progress = output.ProgressKind.auto,
    quiet: options.Quiet = False,
) -> None:
    """Show which pixels of IN the restoration of a window depends on: the Dehazing Attribution Map.

    OUT is a GeoTIFF of signed numbers, a band for each window and mode, that add up to what the haze changes
    in the window. Pictures and a JSON file with shares and distances are written beside it.

    Example: dehazexl explain hazy.tif map.tif --window 1200,800,64,64
    """
    output.configure_logging(False, quiet)
    began = time.perf_counter()
    if shared.precision is options.Precision.auto:
        shared = replace(shared, precision=options.Precision.fp32)
    if shared.precision is options.Precision.fp16:
        raise UsageError("gradients are too small for fp16", "use --precision fp32, bf16 or auto")
    # --tile is for the modes that are compared, and for no run.
    chosen = replace(shared.engine_options(), mode=InferenceMode())
    from dehazexl_cli.attribution.run import Question, explain_scene, open_baseline

    open_baseline(baseline)
    if target.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{target}: is no .tif", f"call it {target.with_suffix('.tif')}")
    count = len(windows or []) + len(places or [])
    beside = [target.with_suffix(".json"), *picture_paths(target, count)]
    require_all_writable([target, *beside], overwrite, (source, baseline, shared.mask, shared.weights))

    from dehazexl_cli.raster.selection import open_selected

    reader, _ = open_selected(source, shared.run_config().selection)
    with closing(reader):
        question = Question(
            find_windows(reader, windows or [], places or [], size),
            tuple(dict.fromkeys(mode.strip() for mode in modes.split(","))),
            baseline,
            path,
            detector,
            parse_steps(steps),
            shared.tile,
        )
        loaded = shared.load_model()
        with map_writer(target, reader, question, loaded, source, overwrite) as writer:
            with output.Progress(progress, quiet) as told:
                explanation = explain_scene(reader, loaded.model, question, chosen, told)
            facts = report(source, target, explanation, loaded, began)
            text = to_json(facts, 2)
            documents = pictures(target, reader, explanation, question)
            write_rows(writer, reader, explanation)
            with staged(documents | {target.with_suffix(".json"): (text + "\n").encode()}, NO_ROOM):
                writer.commit()
    if as_json:
        output.put(text)
    if not quiet:
        summarise(facts)


def parse_steps(text: str) -> int | None:
    """A number of steps, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--steps {text!r} is no number of steps", "write auto, or a number like 100")
    return int(text)


def find_windows(
    reader: RasterReader, windows: list[str], places: list[str], size: float | None
) -> tuple[Box, ...]:
    """Boxes of the raster, as named in pixels or in coordinates; UsageError for what is none or outside."""
    from dehazexl_cli.raster import find_box
    from dehazexl_cli.raster.selection import require_inside

    if bool(places) != (size is not None):
        raise UsageError("--xy and --size say something together only", "give both, or --window")
    found = []
    for text in windows:
        box = options.parse_window(text)
        require_inside(box, reader.info)
        found.append(box)
    for text in places:
        x, y = options.numbers("--xy", text, 2) or (0.0, 0.0)
        half = (size or 0.0) / 2
        if not 0 < half < math.inf:
            raise UsageError(f"--size {size:g} is no size", "give the side of the window in map units")
        found.append(find_box(reader, (x - half, y - half, x + half, y + half), said=f"--xy {text}"))
    if not found:
        raise UsageError("there is no window to explain", "name one: --window col,row,width,height")
    return tuple(found)


def picture_paths(target: Path, count: int) -> list[Path]:
    """A picture for each window."""
    if count == 1:
        return [target.with_suffix(".png")]
    return [target.with_name(f"{target.stem}-{number}.png") for number in range(1, count + 1)]


def map_writer(
    target: Path, reader: RasterReader, question: Question, loaded: Loaded, source: str, overwrite: bool
) -> FileWriter:
    """The file of maps; OutputError, before any work, if anything that is written could not be."""
    from dehazexl_cli.attribution.run import named
    from dehazexl_cli.config import Storage
    from dehazexl_cli.provenance import Provenance
    from dehazexl_cli.raster import open_writer
    from dehazexl_cli.raster.base import RasterInfo

    bands = [f"{mode}, window {named(window)}" for mode in question.modes for window in question.windows]
    info, settings = reader.info, question.settings()
    made = Provenance.now(loaded.name, loaded.sha256, settings, source)
    storage = Storage(creation=(("PREDICTOR", "3"),), provenance=made.tags(), descriptions=tuple(bands))
    maps = RasterInfo(str(target), "GTiff", info.height, info.width, len(bands), "float32", math.nan)
    return open_writer(target, reader, overwrite, storage, maps)


def write_rows(writer: FileWriter, reader: RasterReader, explanation: Explanation) -> None:
    """All maps by strips; what is no ground is NaN."""
    import numpy as np

    from dehazexl_cli.engine.nodata import strips

    info, ground = reader.info, explanation.ground
    for strip in strips(info.height, info.width):
        rows = np.full((len(explanation.answers), strip.height, info.width), np.nan, np.float32)
        shared = strip.within(ground)
        inner = shared.moved(-ground.top, -ground.left)
        out = rows[:, shared.top - strip.top : shared.bottom - strip.top, shared.left : shared.right]
        part = slice(inner.top, inner.bottom), slice(inner.left, inner.right)
        for band, answer in zip(out, explanation.answers, strict=True):
            band[...] = answer.attribution.map[part].numpy()
            if explanation.valid is not None:
                band[~explanation.valid[part].numpy()] = np.nan
        writer.write(rows)


def pictures(
    target: Path, reader: RasterReader, explanation: Explanation, question: Question
) -> dict[Path, bytes]:
    """A picture for each window, its modes side by side."""
    from dehazexl_cli.attribution.figure import picture
    from dehazexl_cli.evaluation.measures import View

    view = View(tuple(explanation.facts["bands"]), *explanation.facts["range"])
    count = len(question.windows)
    drawn = {}
    for number, path in enumerate(picture_paths(target, count)):
        drawn[path] = picture(explanation.answers[number::count], reader, explanation.ground, view)
    return drawn


def report(
    source: str, target: Path, explanation: Explanation, loaded: Loaded, began: float
) -> dict[str, Any]:
    """What was asked, how it was answered, and the answers, as plain values."""
    from dehazexl_cli.provenance import about
    from dehazexl_cli.report import peak_host_bytes

    maps = [plain(band, answer) for band, answer in enumerate(explanation.answers, 1)]
    return {
        "input": source,
        "output": str(target),
        **about(loaded.name, loaded.sha256),
        **explanation.facts,
        "total_seconds": round(time.perf_counter() - began, 2),
        "peak_host_bytes": peak_host_bytes(),
        "maps": maps,
    }


def plain(band: int, answer: Answer) -> dict[str, Any]:
    """One map's numbers; boxes as col, row, width, height."""
    found, (top, left, height, width) = answer.attribution, answer.near
    return {
        "band": band,
        "window": [answer.window.left, answer.window.top, answer.window.width, answer.window.height],
        "mode": answer.mode,
        "patches": [left, top, width, height],
        "hazy_value": found.hazy_value,
        "clear_value": found.clear_value,
        "difference": found.difference,
        "total": found.total,
        "gap": finite(found.gap),
        "residue": finite(found.residue),
        "complete": found.complete,
        "steps": found.steps,
        **answer.spread.to_dict(),
        "elsewhere": answer.elsewhere,
    }


def finite(number: float) -> float | None:
    """A number for JSON; None for what is none."""
    return number if math.isfinite(number) else None


def summarise(facts: dict[str, Any]) -> None:
    """A few lines on stderr: what the maps say, and how far they can be trusted."""
    output.say(
        f"{facts['output']}: {len(facts['maps'])} maps in {facts['total_seconds']:.1f} s ({facts['model']}, "
        f"{facts['device']}, {facts['precision']}, {facts['path']} from {facts['baseline']}, "
        f"peak memory {facts['peak_host_bytes'] / 2**30:.2f} GB)"
    )
    for each in facts["maps"]:
        where = f"window {','.join(map(str, each['window']))}, {each['mode']}"
        if each["inside"] is None:
            output.say(f"{where}: depends on nothing that differs between the hazy and the clear scene")
            continue
        output.say(
            f"{where}: {each['inside']:.1%} inside, {each['patch']:.1%} in its patches, "
            f"{each['beyond']:.2%} beyond; half within {each['radius_50']:.0f} pixels, 90 % within "
            f"{each['radius_90']:.0f}; diffusion index {each['diffusion_index']:.2f}"
        )
        output.say("  " + completeness(each))


def completeness(facts: dict[str, Any]) -> str:
    """How far a map adds up to what it must, in a sentence."""
    from dehazexl_cli.attribution import TOLERANCE

    after = f"after {facts['steps']} steps"
    if facts["gap"] is None:
        return f"completeness: no gap {after}, as hazy and clear scene give the same in this window"
    gap = f"completeness gap {facts['gap']:.2%} of the difference that the haze makes, {after}"
    if facts["gap"] < TOLERANCE:
        return gap
    if facts["complete"]:
        return (
            f"{gap}; that difference is small, as most cancels out: it is {facts['residue']:.3%} of all that "
            "is attributed"
        )
    return f"note: {gap}, more than {TOLERANCE:.0%}: the map is only roughly right; take more --steps"
