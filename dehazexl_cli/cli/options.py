"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.errors import UsageError

if TYPE_CHECKING:
    from dehazexl_cli.engine import Mode, Options


class Precision(StrEnum):
    """What networks compute in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


Input = Annotated[
    str, typer.Argument(metavar="IN", help="The hazy image: GeoTIFF, PNG, JPEG, whatever GDAL opens.")
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="dehazexl-s (bundled, the default), dehazexl-paper, mgbl-paper, generic."),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="A weight file; .pt or .pt2 if generic.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionName = Annotated[Precision, typer.Option("--precision", help="What the network computes in.")]
Bands = Annotated[
    str | None,
    typer.Option("--bands", "-b", metavar="R,G,B", help="Bands that are red, green and blue, or one grey."),
]
InputRange = Annotated[
    str | None,
    typer.Option("--input-range", metavar="LOW,HIGH", help="Source values shown as black and white."),
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
ModeName = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="global|tile|downsample|whole",
        help="The scene as one, by patches; independent tiles; a smaller picture; or in a single pass.",
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
    from dehazexl_cli.cli.console import parse_size
    from dehazexl_cli.engine import Options, Wishes

    return Options(
        bands=parse_bands(bands),
        input_range=parse_range(input_range),
        strength=strength,
        device=device,
        precision=precision.value,
        max_ram=parse_size(max_ram),
        max_vram=parse_size(max_vram),
        overlap=parse_overlap(overlap),
        wishes=Wishes(seed=seed),
    )


def read_mode(
    kind: str | None,
    tile: int | None = None,
    tile_overlap: int | None = None,
    blend: str | None = None,
    long_side: int | None = None,
    upsampling: str | None = None,
) -> Mode:
    """The mode of a run from the command line's texts; UsageError for a text that is none."""
    from dehazexl_cli.engine import Mode

    return Mode(kind, tile, tile_overlap, blend, long_side, upsampling)  # type: ignore[arg-type]


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
