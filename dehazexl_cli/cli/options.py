"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.errors import UsageError

if TYPE_CHECKING:
    from dehazexl_cli.engine import Options
    from dehazexl_cli.raster.formats import Storage


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
    typer.Option("--model", help="dehazexl-s (bundled, the default), dehazexl-paper or mgbl-paper."),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="A weight file, .safetensors or .pth.")]
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
Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", help="GTiff, COG, PNG, JPEG, JP2OpenJPEG or WEBP; default: by the suffix of OUT."
    ),
]
Creation = Annotated[
    list[str] | None,
    typer.Option("--co", "-co", metavar="NAME=VALUE", help="A creation option of GDAL's driver; repeatable."),
]
Overviews = Annotated[bool, typer.Option("--overviews", help="Add overviews; a COG always has some.")]
TmpDir = Annotated[
    str | None,
    typer.Option("--tmp-dir", metavar="DIR", help="Where OUT is made before it moves to its place."),
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
