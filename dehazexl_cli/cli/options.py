"""Options that several commands share: each declared once, and how their texts become values."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from dehazexl_cli.cli import output
from dehazexl_cli.cli.output import ProgressKind
from dehazexl_cli.config import EngineOptions, InferenceMode, Kind, RunConfig, Selection, Storage
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.paths import is_gdal_name
from dehazexl_cli.plan import PlanOverrides, parse_size

if TYPE_CHECKING:
    from dehazexl_cli.models.checkpoint import Loaded


class Precision(StrEnum):
    """What networks compute in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class ContextKind(StrEnum):
    """What the haze of a part is judged by."""

    window = "window"
    scene = "scene"


# Said here again, as the registry of models takes seconds to load; a test compares them.
MODELS = ("dehazexl-s", "dehazexl-paper", "mgbl-s", "mgbl-paper", "generic")


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Complete an option's value in the shell, from these."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def require_there(source: str) -> None:
    """Raises InputError, before torch is loaded, for a name that no file has and no driver of GDAL's."""
    if os.path.exists(source) or is_gdal_name(source) or source.startswith("<"):  # or a VRT as text
        return
    from dehazexl_cli.raster.refusals import missing

    raise missing(source)


Input = Annotated[
    str, typer.Argument(metavar="IN", help="The hazy image: GeoTIFF, PNG, JPEG, whatever GDAL opens.")
]
Inputs = Annotated[
    list[str], typer.Argument(metavar="IN", help="A hazy image: GeoTIFF, PNG, JPEG, whatever GDAL opens.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' messages.")]


def say_as(kind: ProgressKind) -> ProgressKind:
    """Have all that is said be events from here on, if that is wanted."""
    output.events = kind is ProgressKind.json
    return kind


Progress = Annotated[
    ProgressKind,
    typer.Option(
        "--progress",
        callback=say_as,
        help="Show progress on stderr as a bar or lines, always, never, or as JSON events.",
    ),
]
Side = Annotated[
    int, typer.Option("--side", metavar="PIXELS", min=64, help="Make the small picture so long.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
PrintPaths = Annotated[
    bool, typer.Option("--print-paths", help="Print the name of each result on stdout when it is complete.")
]


def option(
    help: str,
    default: Any = None,
    names: tuple[str, ...] = (),
    complete: tuple[str, ...] = (),
    metavar: str | None = None,
    min: int | None = None,
    hidden: bool = False,
) -> Any:
    """Declare an option of `Shared`; it is named like its field unless it has other names."""
    completion = one_of(*complete) if complete else None
    how = {"help": help, "autocompletion": completion, "metavar": metavar, "min": min, "hidden": hidden}
    return field(default=default, metadata={"names": names, "how": how})


@dataclass(frozen=True)
class Shared:
    """The options that decide on a run, as they are typed; see `shares`."""

    model: str | None = option(
        "The network: dehazexl-s (default), mgbl-s, dehazexl-paper, mgbl-paper or generic.", complete=MODELS
    )
    weights: Path | None = option("Take the weights from this file; of a generic network a .pt or .pt2.")
    multiple: int | None = option("Show a generic network sides of N, 2N, … pixels.", metavar="N", min=1)
    device: str = option(
        "Compute on auto, cpu, cuda, cuda:1, cuda:0,cuda:1 or mps.",
        "auto",
        complete=("auto", "cpu", "cuda", "mps"),
    )
    precision: Precision = option("Let the network compute in these numbers.", Precision.auto)
    bands: str | None = option(
        "Take these bands for red, green and blue, or one for grey; by default as IN says.",
        names=("--bands", "-b"),
        metavar="R,G,B",
    )
    all_bands: bool = option("Dehaze the other bands too, by threes in their order.", False)
    input_range: str | None = option("Show these numbers as black and white.", metavar="LOW,HIGH")
    band_ranges: list[str] | None = option(
        "Show these numbers as black and white: of all bands, of each in turn (repeat it, or give "
        "l1,h1,l2,h2,…); or dtype, or percentiles.",
        names=("--input-range",),
        metavar="LOW,HIGH",
    )
    strength: float = option("Apply so much of the change.", 1.0, metavar="0..1")
    unseen: str = option(
        "Keep what comes of pixels under closed cloud, or make them nodata.", "keep", metavar="keep|nodata"
    )
    overlap: str = option("Let patches share so many pixels; 0 as published.", "auto", metavar="PIXELS")
    mode: str | None = option(
        "Run the scene as one, by patches (default), by independent tiles, as a smaller picture, or "
        "whole in one pass.",
        metavar="global|tile|downsample|whole",
        complete=get_args(Kind),
    )
    tile: int | None = option("Make tiles of this side; 512 by default.", metavar="PIXELS")
    tile_overlap: int | None = option(
        "Let tiles share so many pixels; an eighth of them by default.", metavar="PIXELS"
    )
    blend: str | None = option(
        "Feather tiles where they overlap (default), or cut them hard.", metavar="feather|hard"
    )
    long_side: int | None = option("Make the smaller picture so long; 2048 by default.", metavar="PIXELS")
    upsampling: str | None = option(
        "Bring back the smaller picture's changes of colour (guided, default), or itself (plain).",
        metavar="guided|plain",
    )
    max_ram: str | None = option("Use no more memory than this, like 8G.", metavar="SIZE")
    max_vram: str | None = option("Use no more memory of each GPU than this, like 6G.", metavar="SIZE")
    threads: int | None = option("Compute on so many cores; by default on all.", metavar="N", min=1)
    seed: int = option("Draw the sampled attention of very large scenes by this seed.", 0, hidden=True)
    format: str | None = option(
        "Write GTiff, COG, PNG, JPEG, JP2OpenJPEG or WEBP; by default as the suffix of OUT says.",
        names=("--format", "-f"),
        complete=("GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG", "WEBP"),
    )
    creation: list[str] | None = option(
        "Give GDAL's driver a creation option; repeatable.", names=("--co", "-co"), metavar="NAME=VALUE"
    )
    overviews: bool = option("Add overviews; a COG always has some.", False)
    tmp_dir: str | None = option(
        "Make OUT here before it moves to its place, and put here what finds no room in memory.",
        metavar="DIR",
    )
    nodata: float | None = option(
        "Take pixels for no ground where all dehazed bands have this value; may be nan."
    )
    not_alpha: bool = option(
        "Take the band that IN calls alpha for data, such as infrared, that hides nothing.", False
    )
    any_size: bool = option("Take gigabytes of pixels also out of a file of next to no bytes.", False)
    mask: str | None = option(
        "Read from an image of the same size, 0 there, what is no ground.", metavar="FILE"
    )
    window: str | None = option("Dehaze and write this part, in pixels.", metavar="COL,ROW,W,H")
    bbox: str | None = option("Dehaze and write this part, in coordinates.", metavar="XMIN,YMIN,XMAX,YMAX")
    bbox_crs: str | None = option(
        "Take --bbox in these coordinates, like EPSG:4326; by default in those of IN.", metavar="CRS"
    )
    context: ContextKind = option(
        "Judge the haze of a part by that part, or by the whole scene.", ContextKind.window
    )
    no_provenance: bool = option(
        "Write no tags that say how OUT was made, so that equal runs give equal bytes.", False
    )

    def __post_init__(self) -> None:
        if self.model is not None and self.model not in MODELS:
            raise UsageError(f"there is no model named {self.model!r}", f"choose one of: {', '.join(MODELS)}")

    def engine_options(self) -> EngineOptions:
        """Return how pixels are computed; UsageError for a text that is no value."""
        return EngineOptions(
            bands=parse_bands(self.bands),
            all_bands=self.all_bands,
            input_range=parse_range(self.input_range),
            band_ranges=parse_ranges(self.band_ranges),
            strength=self.strength,
            unseen=self.unseen,  # type: ignore[arg-type]
            device=self.device,
            precision=self.precision.value,
            max_ram=parse_size("--max-ram", self.max_ram),
            max_vram=parse_size("--max-vram", self.max_vram),
            overlap=parse_overlap(self.overlap),
            overrides=PlanOverrides(seed=self.seed),
            mode=InferenceMode(
                self.mode,  # type: ignore[arg-type]  # it sees to that itself
                self.tile,
                self.tile_overlap,
                self.blend,  # type: ignore[arg-type]
                self.long_side,
                self.upsampling,  # type: ignore[arg-type]
            ),
            tmp_dir=self.tmp_dir,
            threads=self.threads,
        )

    def run_config(
        self, resume: bool = False, in_place: bool = False, spare_classes: bool = False
    ) -> RunConfig:
        """Return how files are dehazed; UsageError for a text that is no value."""
        bounds = numbers("--bbox", self.bbox, 4)
        selection = Selection(
            self.nodata,
            self.mask,
            None if self.window is None else parse_window(self.window),
            None if bounds is None else (bounds[0], bounds[1], bounds[2], bounds[3]),
            self.bbox_crs,
            self.context.value,
            self.not_alpha,
            self.any_size,
        )
        storage = Storage(self.format, parse_creation(self.creation or []), self.overviews, self.tmp_dir)
        return RunConfig(
            self.engine_options(), selection, storage, not self.no_provenance, resume, in_place, spare_classes
        )

    def load_model(self) -> Loaded:
        """Load the network with its weights; WeightsError or UsageError if that cannot be."""
        from dehazexl_cli.models.loading import load_model

        return load_model(self.model, self.weights, self.multiple)


SHARED = {each.name: each for each in fields(Shared)}
HINTS = get_type_hints(Shared)
MODEL = ("model", "weights", "multiple")
COMPUTING = ("device", "precision", "max_ram", "max_vram", "overlap", "seed")
MODE = ("mode", "tile", "tile_overlap", "blend", "long_side", "upsampling")
SELECTION = ("nodata", "not_alpha", "any_size", "mask", "window", "bbox", "bbox_crs", "context")
PLANNING = (*MODEL, *COMPUTING, *MODE, *SELECTION, "bands", "all_bands", "band_ranges", "tmp_dir")
RUNNING = (*PLANNING, "strength", "unseen", "format", "creation", "overviews", "no_provenance")


def shares(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command some of the options of `Shared`, which its parameter `shared` is then made of.

    A `source` is looked for first.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in names}
            source = values.get("source")
            if isinstance(source, str):  # a raster's; weight files are paths
                require_there(source)
            command(shared=Shared(**chosen), **values)

        own = inspect.signature(command, eval_str=True).parameters
        params = [own[name] for name in own if name != "shared"]
        place = list(own).index("shared")
        params[place:place] = [parameter(SHARED[name]) for name in SHARED if name in names]
        params = [param.replace(kind=inspect.Parameter.KEYWORD_ONLY) for param in params]
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__annotations__ = {param.name: param.annotation for param in params}
        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        return run

    return decorate


def parameter(shared: Field[Any]) -> inspect.Parameter:
    """Return an option of `Shared` as a parameter of a command."""
    names = shared.metadata["names"] or (f"--{shared.name.replace('_', '-')}",)
    kind: Any = Annotated[HINTS[shared.name], typer.Option(*names, **shared.metadata["how"])]
    return inspect.Parameter(
        shared.name, inspect.Parameter.KEYWORD_ONLY, default=shared.default, annotation=kind
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
