"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.plan import parse_size

if TYPE_CHECKING:
    from dehazexl_cli.engine import InferenceMode, Options
    from dehazexl_cli.raster.formats import Storage
    from dehazexl_cli.raster.selection import Selection


class Precision(StrEnum):
    """What networks compute in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


# Said here again, as the registry of models takes seconds to load; a test compares them.
MODELS = ("dehazexl-s", "dehazexl-paper", "mgbl-s", "mgbl-paper", "generic")


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Completion of an option's value in the shell, from these."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


Input = Annotated[
    str, typer.Argument(metavar="IN", help="The hazy image: GeoTIFF, PNG, JPEG, whatever GDAL opens.")
]
Inputs = Annotated[
    list[str], typer.Argument(metavar="IN", help="A hazy image: GeoTIFF, PNG, JPEG, whatever GDAL opens.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="dehazexl-s (default) and mgbl-s are bundled; dehazexl-paper, mgbl-paper, generic.",
        autocompletion=one_of(*MODELS),
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="A weight file; .pt or .pt2 if generic.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:1, cuda:0,cuda:1 or mps.",
        autocompletion=one_of("auto", "cpu", "cuda", "mps"),
    ),
]
PrecisionName = Annotated[Precision, typer.Option("--precision", help="What the network computes in.")]
Bands = Annotated[
    str | None,
    typer.Option(
        "--bands",
        "-b",
        metavar="R,G,B",
        help="Bands that are red, green and blue, or one grey; default: as IN says.",
    ),
]
InputRange = Annotated[
    str | None,
    typer.Option("--input-range", metavar="LOW,HIGH", help="Stored numbers shown as black and white."),
]
MaxRam = Annotated[str | None, typer.Option("--max-ram", metavar="SIZE", help="Memory it may use, like 8G.")]
MaxVram = Annotated[
    str | None, typer.Option("--max-vram", metavar="SIZE", help="GPU memory it may use, like 6G.")
]
Overlap = Annotated[
    str,
    typer.Option("--overlap", metavar="PIXELS", help="Pixels that patches share, or auto; 0 as published."),
]
Strength = Annotated[
    float, typer.Option("--strength", metavar="0..1", help="How much of the change to apply.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the sampled attention in very large scenes.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help="GTiff, COG, PNG, JPEG, JP2OpenJPEG or WEBP; default: by the suffix of OUT.",
        autocompletion=one_of("GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG", "WEBP"),
    ),
]
Creation = Annotated[
    list[str] | None,
    typer.Option("--co", "-co", metavar="NAME=VALUE", help="A creation option of GDAL's driver; repeatable."),
]
Overviews = Annotated[bool, typer.Option("--overviews", help="Add overviews; a COG always has some.")]
TmpDir = Annotated[
    str | None,
    typer.Option(
        "--tmp-dir",
        metavar="DIR",
        help="Where OUT is made before it moves to its place, and where what finds no room in memory waits.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="Of the processor; default: all cores.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Keep what is done, in --tmp-dir or beside OUT, and go on with a run that was killed.",
    ),
]
BandRanges = Annotated[
    list[str] | None,
    typer.Option(
        "--input-range",
        metavar="LOW,HIGH",
        help="Stored numbers shown as black and white; per band: repeat it, or give l1,h1,l2,h2,…; or dtype, "
        "percentiles.",
    ),
]
AllBands = Annotated[
    bool, typer.Option("--all-bands", help="Dehaze the other bands too, by threes in their order.")
]
Nodata = Annotated[
    float | None,
    typer.Option("--nodata", help="A value that is no ground where all dehazed bands have it; may be nan."),
]
AnySize = Annotated[
    bool, typer.Option("--any-size", help="Take gigabytes of pixels also out of a file of next to no bytes.")
]
NotAlpha = Annotated[
    bool,
    typer.Option(
        "--not-alpha", help="The band that IN calls alpha is data, such as infrared, and hides nothing."
    ),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", metavar="FILE", help="An image of the same size, 0 where there is no ground."),
]
Window = Annotated[
    str | None,
    typer.Option("--window", metavar="COL,ROW,W,H", help="The part to dehaze and write, in pixels."),
]
Bbox = Annotated[
    str | None,
    typer.Option("--bbox", metavar="XMIN,YMIN,XMAX,YMAX", help="The part, in coordinates."),
]
BboxCrs = Annotated[
    str | None,
    typer.Option("--bbox-crs", metavar="CRS", help="Of --bbox, like EPSG:4326; default: that of IN."),
]


class ContextKind(StrEnum):
    """What the haze of a part is judged by."""

    window = "window"
    scene = "scene"


Context = Annotated[
    ContextKind,
    typer.Option("--context", help="Judge the haze of a part by that part, or by the whole scene."),
]
NoProvenance = Annotated[
    bool,
    typer.Option("--no-provenance", help="No tags that say how OUT was made; equal runs, equal bytes."),
]
ModeName = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="global|tile|downsample|whole",
        help="The scene as one, by patches (default); independent tiles; a smaller picture; or in one pass.",
        autocompletion=one_of("global", "tile", "downsample", "whole"),
    ),
]
Tile = Annotated[int | None, typer.Option("--tile", metavar="PIXELS", help="Side of a tile; 512.")]
TileOverlap = Annotated[
    int | None, typer.Option("--tile-overlap", metavar="PIXELS", help="Pixels that tiles share; an eighth.")
]
Blend = Annotated[
    str | None,
    typer.Option("--blend", metavar="feather|hard", help="How tiles meet where they overlap; feather."),
]
LongSide = Annotated[
    int | None, typer.Option("--long-side", metavar="PIXELS", help="Of the smaller picture; 2048.")
]
Upsampling = Annotated[
    str | None,
    typer.Option(
        "--upsampling",
        metavar="guided|plain",
        help="How the smaller picture is brought back: its colour changes alone, or itself; guided.",
    ),
]
Multiple = Annotated[
    int | None,
    typer.Option("--multiple", metavar="N", min=1, help="A generic network takes sides of N, 2N, … pixels."),
]
PrintPaths = Annotated[
    bool, typer.Option("--print-paths", help="Print the name of each result on stdout when it is complete.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def read_options(
    bands: str | None,
    input_range: str | None,
    strength: float,
    device: str,
    precision: Precision,
    max_ram: str | None,
    max_vram: str | None,
    overlap: str,
    seed: int,
) -> Options:
    """The engine's options from the command line's texts; UsageError for a text that is none."""
    from dehazexl_cli.engine import Options, PlanOverrides

    return Options(
        bands=parse_bands(bands),
        input_range=parse_range(input_range),
        strength=strength,
        device=device,
        precision=precision.value,
        max_ram=parse_size("--max-ram", max_ram),
        max_vram=parse_size("--max-vram", max_vram),
        overlap=parse_overlap(overlap),
        wishes=PlanOverrides(seed=seed),
    )


def read_selection(
    nodata: float | None,
    mask: str | None,
    window: str | None,
    bbox: str | None,
    bbox_crs: str | None,
    context: ContextKind,
    not_alpha: bool = False,
    any_size: bool = False,
) -> Selection:
    """Which pixels are worked on, from the command line's texts; UsageError for a text that is none."""
    from dehazexl_cli.raster.selection import Selection

    bounds = numbers("--bbox", bbox, 4)
    return Selection(
        nodata,
        mask,
        None if window is None else parse_window(window),
        None if bounds is None else (bounds[0], bounds[1], bounds[2], bounds[3]),
        bbox_crs,
        context.value,
        not_alpha,
        any_size,
    )


def parse_window(text: str) -> Box:
    """A box of "1024,0,512,512", column and row first; UsageError for a text that is none."""
    part = numbers("--window", text, 4) or ()
    if any(number != int(number) for number in part):
        raise UsageError(f"--window {text!r} are no whole pixels", "write it like 1024,0,512,512")
    col, row, width, height = map(int, part)
    return Box(row, col, height, width)


def numbers(option: str, text: str | None, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers of "1,2.5", as many as there must be; UsageError for a text that is none."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)) or count not in (None, len(found)):
        many = "numbers" if count is None else f"{count} numbers"
        raise UsageError(
            f"{option} {text!r} are no {many}", "write them with commas between, like 0,0,512,512"
        )
    return found


def read_storage(
    format: str | None, creation: list[str] | None, overviews: bool, tmp_dir: str | None
) -> Storage:
    """How the output is stored, from the command line's texts; UsageError for a text that is none."""
    from dehazexl_cli.raster.formats import Storage

    return Storage(format, parse_creation(creation or []), overviews, tmp_dir)


def parse_creation(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Names and values of ["COMPRESS=ZSTD"]; the values stay as they are."""
    for text in texts:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise UsageError(f"--co {text!r} is no creation option", "write it like COMPRESS=ZSTD")
    pairs = (text.partition("=") for text in texts)
    return tuple((name.strip().upper(), value) for name, _, value in pairs)


def read_mode(
    kind: str | None,
    tile: int | None = None,
    tile_overlap: int | None = None,
    blend: str | None = None,
    long_side: int | None = None,
    upsampling: str | None = None,
) -> InferenceMode:
    """The mode of a run from the command line's texts; UsageError for a text that is none."""
    from dehazexl_cli.engine import InferenceMode

    return InferenceMode(kind, tile, tile_overlap, blend, long_side, upsampling)  # type: ignore[arg-type]


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """Band numbers of "4,3,2"."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--bands {text!r} are no band numbers", "write them like 4,3,2") from None


def parse_overlap(text: str) -> int | None:
    """Pixels, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--overlap {text!r} is no number of pixels", "write auto, 0, or a number like 32")
    return int(text)


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Low and high of "0,4095"."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--input-range {text!r} is no range", "write it like 0,4095") from None
    return low, high


def parse_ranges(texts: list[str] | None) -> tuple[float, ...] | str | None:
    """Low and high of all bands, or of each in turn, of ["0,4095"], ["0,900", "0,800"] or ["0,9,0,8"].

    A single word stays one.
    """
    if not texts:
        return None
    if len(texts) == 1 and texts[0] in ("dtype", "percentiles"):
        return texts[0]
    values = [value for text in texts for value in numbers("--input-range", text) or ()]
    if len(values) % 2:
        raise UsageError(f"--input-range {','.join(texts)!r} is no range", "write it like 0,4095")
    return tuple(values)
