"""What a user decides about a run: frozen, light, and the same from the command line and from Python.

`Options` is flat, as Python programmers write it. It and the command line make a `RunConfig`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, Protocol, get_args

from dehazexl_cli.errors import UsageError, in_words_of_python
from dehazexl_cli.grid import Box
from dehazexl_cli.plan import PlanOverrides, parse_size

Path = str | os.PathLike[str]
Kind = Literal["global", "tile", "downsample", "whole"]
Blend = Literal["feather", "hard"]
Upsampling = Literal["guided", "plain"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Unseen = Literal["keep", "nodata"]
PRECISIONS = get_args(Precision)

SHORTEST_SIDE = 32  # pixels of a tile or a smaller picture: a token in the networks of this family

# Options that say where, how fast and in how much room a result is made. All others change its pixels or what
# is stored with them: they alone are in its provenance, and tell whether another was made the same way.
OF_THE_MACHINE = frozenset({"device", "max_ram", "max_vram", "threads", "tmp_dir"})


class _Network(Protocol):
    @property
    def supports_streaming(self) -> bool: ...  # whether it has the three steps


@dataclass(frozen=True)
class InferenceMode:
    """How the user wants a scene run; None is left to the defaults."""

    kind: Kind | None = None  # global where the model can, else tile
    tile: int | None = None  # side, pixels
    tile_overlap: int | None = None  # pixels that neighbouring tiles share
    blend: Blend | None = None
    long_side: int | None = None  # of the smaller picture, pixels
    upsampling: Upsampling | None = None

    def __post_init__(self) -> None:
        for option, word, words in (
            ("--mode", self.kind, get_args(Kind)),
            ("--blend", self.blend, get_args(Blend)),
            ("--upsampling", self.upsampling, get_args(Upsampling)),
        ):
            if word is not None and word not in words:
                raise UsageError(f"{option} {word} is not known", f"use one of: {', '.join(words)}")
        for option, value in (("--tile", self.tile), ("--long-side", self.long_side)):
            if value is not None and value < SHORTEST_SIDE:
                raise UsageError(f"{option} {value} is too small", f"give {SHORTEST_SIDE} pixels or more")

    def settled(self, model: _Network) -> Kind:
        """Return the kind for this model; UsageError where options and model do not go together."""
        kind = self.kind or ("global" if model.supports_streaming else "tile")
        if kind == "global" and not model.supports_streaming:
            raise UsageError(
                "this network sees an image in one pass only, so it cannot run with --mode global",
                "use --mode tile, downsample or whole",
            )
        owners: dict[str, tuple[Kind, object]] = {
            "--tile": ("tile", self.tile),
            "--tile-overlap": ("tile", self.tile_overlap),
            "--blend": ("tile", self.blend),
            "--long-side": ("downsample", self.long_side),
            "--upsampling": ("downsample", self.upsampling),
        }
        for option, (owner, value) in owners.items():
            if value is not None and kind != owner:
                raise UsageError(f"{option} has no meaning in mode {kind}", f"add --mode {owner}")
        return kind


@dataclass(frozen=True)
class EngineOptions:
    """How pixels are computed; the defaults adapt to the scene and the machine."""

    bands: tuple[int, ...] | None = None
    all_bands: bool = False  # dehaze the other bands too, in groups of three
    input_range: tuple[float, float] | None = None  # low and high, of all bands that are dehazed
    # Instead: low and high of each of them, in their order; or "dtype" or "percentiles".
    band_ranges: tuple[float, ...] | str | None = None
    window: Box | None = None  # what is written; all of the scene is looked at
    strength: float = 1.0
    unseen: Unseen = "keep"  # what becomes of pixels under closed cloud
    device: str = "auto"  # or several, like cuda:0,cuda:1
    precision: str = "auto"
    max_ram: int | None = None  # bytes
    max_vram: int | None = None  # bytes, on each device
    overlap: int | None = None  # pixels; None is the model's own choice
    overrides: PlanOverrides = field(default_factory=PlanOverrides)
    mode: InferenceMode = field(default_factory=InferenceMode)
    tmp_dir: str | None = None  # where features may wait if they find no room in memory
    threads: int | None = None  # of the processor; None is what torch takes

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength} is out of range", "give a number from 0 to 1")
        if self.unseen not in get_args(Unseen):
            raise UsageError(f"--unseen {self.unseen} is not known", "use keep or nodata")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads} is out of range", "give 1 or more")


@dataclass(frozen=True)
class Selection:
    """What of a raster is worked on; by default all that the file itself says is ground."""

    nodata: float | None = None  # is no ground where all bands that are dehazed have it
    mask: str | None = None  # a raster of the same size, 0 where there is no ground
    window: Box | None = None  # the part that is written
    bounds: tuple[float, float, float, float] | None = None  # the same as xmin, ymin, xmax, ymax
    bounds_crs: str | None = None  # their coordinate system; None: the raster's own
    context: Literal["window", "scene"] = "window"  # what the haze of that part is judged by
    not_alpha: bool = False  # the band that the file calls alpha holds other data, and takes no pixel out
    any_size: bool = False  # also gigabytes of pixels out of next to no bytes

    def __post_init__(self) -> None:
        if self.bounds_crs is not None and self.bounds is None:
            raise UsageError("--bbox-crs says nothing without --bbox", "give --bbox too")
        if self.context == "scene" and self.window is None and self.bounds is None:
            raise UsageError("--context scene says nothing without a part", "give --window or --bbox too")


@dataclass(frozen=True)
class Storage:
    """How a raster is to be stored; the format follows from the suffix of its name unless it is given."""

    format: str | None = None  # GDAL's short name of the driver, or a usual name, in any case
    creation: tuple[tuple[str, str], ...] = ()  # creation options, handed to GDAL as they are
    overviews: bool = False  # also in a GeoTIFF; a COG always has some
    tmp_dir: str | None = None  # where to write until the file is complete; None: beside the target
    provenance: tuple[tuple[str, str], ...] = ()  # tags that say how it was made, for a GeoTIFF or COG
    descriptions: tuple[str, ...] = ()  # of the bands, where they are not those of a source
    colormap: tuple[tuple[int, ...], ...] = ()  # red, green and blue of 0, 1, …; none: a source's


@dataclass(frozen=True)
class RunConfig:
    """How files are dehazed, whichever they are."""

    options: EngineOptions = field(default_factory=EngineOptions)
    selection: Selection = field(default_factory=Selection)
    storage: Storage = field(default_factory=Storage)
    provenance: bool = True  # whether a GeoTIFF says what it was made with
    resume: bool = False  # whether what is done survives a process that is killed
    in_place: bool = False  # the result replaces its source
    spare_classes: bool = False  # whether what its name says to be flags or classes is copied as it is
    if_hazy: float | None = None  # a scene of which less than this share lies under haze is left out

    def settings(self) -> dict[str, Any]:
        """Return what was decided otherwise than by default and changes the result, as plain values."""
        found: dict[str, Any] = {}
        for part in (self.options, self.selection, self.storage):
            plain, default = asdict(part), asdict(type(part)())
            found |= {name: value for name, value in plain.items() if value != default[name]}
        return {name: value for name, value in found.items() if name not in OF_THE_MACHINE}


@dataclass(frozen=True)
class Options:
    """What may be decided about a run; the defaults adapt to the scene and the machine.

    Every field is an option of `dehazexl run` of the same name. Raises UsageError for a value that cannot be.
    """

    bands: Sequence[int] | None = None  # that are red, green and blue, from 1; or one grey
    all_bands: bool = False  # dehaze the other bands too, by threes
    # Numbers shown as black and white: (low, high); such pairs, one per band; "dtype" for all that the type
    # holds, 0 to 1 of floats; "percentiles" for nearly all that the scene has. None: dtype for bytes, else
    # percentiles.
    input_range: Sequence[float] | Sequence[Sequence[float]] | Literal["dtype", "percentiles"] | None = None
    strength: float = 1.0  # how much of the change to apply, 0 to 1
    unseen: Unseen = "keep"  # or "nodata", which pixels under closed cloud become
    mode: Kind | None = None
    tile: int | None = None  # side of a tile, pixels
    tile_overlap: int | None = None  # pixels that tiles share
    blend: Blend | None = None
    long_side: int | None = None  # of the smaller picture, pixels
    upsampling: Upsampling | None = None
    overlap: int | None = None  # pixels that patches share
    device: str = "auto"  # or cpu, cuda, cuda:0,cuda:1, mps
    precision: Precision = "auto"
    max_ram: int | str | None = None  # bytes, or "8G"
    max_vram: int | str | None = None  # the same, of each GPU
    threads: int | None = None  # of the processor
    seed: int = 0  # of the sampled attention in very large scenes
    tmp_dir: Path | None = None  # where results are made, and where features may wait
    nodata: float | None = None  # a value that is no ground where all colour bands have it
    mask: Path | None = None  # an image of the same size, 0 where there is no ground
    not_alpha: bool = False  # the band that the file calls alpha holds other data
    any_size: bool = False  # take gigabytes of pixels out of next to no bytes, too
    window: Sequence[int] | None = None  # the part that is wanted: column, row, width, height
    bbox: Sequence[float] | None = None  # the same in coordinates: xmin, ymin, xmax, ymax
    bbox_crs: str | None = None  # of bbox; None: that of the image
    context: Literal["window", "scene"] = "window"  # what the haze of a part is judged by
    format: str | None = None  # GTiff, COG, PNG, …; None: by the suffix
    creation: Mapping[str, object] | None = None  # creation options of GDAL's driver
    overviews: bool = False
    provenance: bool = True  # whether a GeoTIFF says what it was made with

    def __post_init__(self) -> None:
        for each in fields(self):
            value, (fits, words) = getattr(self, each.name), KINDS[each.name]
            if not (value is None and each.default is None) and not fits(value):
                raise UsageError(f"{each.name}={value!r} is not possible", f"give {words}")
            if is_real(value):  # NumPy's numbers are none that JSON takes
                object.__setattr__(self, each.name, int(value) if is_whole(value) else float(value))
        self.run_config()

    def run_config(self, resume: bool = False, in_place: bool = False) -> RunConfig:
        """Return the same as it is run; UsageError for what does not go together."""
        tmp_dir = None if self.tmp_dir is None else os.fspath(self.tmp_dir)
        with in_words_of_python():
            options = EngineOptions(
                bands=None if self.bands is None else tuple(map(int, self.bands)),
                all_bands=self.all_bands,
                band_ranges=flat_ranges(self.input_range),
                strength=self.strength,
                unseen=self.unseen,
                device=self.device,
                precision=self.precision,
                max_ram=parse_size("max_ram", None if self.max_ram is None else str(self.max_ram)),
                max_vram=parse_size("max_vram", None if self.max_vram is None else str(self.max_vram)),
                overlap=self.overlap,
                overrides=PlanOverrides(seed=self.seed),
                mode=InferenceMode(
                    self.mode, self.tile, self.tile_overlap, self.blend, self.long_side, self.upsampling
                ),
                tmp_dir=tmp_dir,
                threads=self.threads,
            )
            selection = Selection(
                self.nodata,
                None if self.mask is None else os.fspath(self.mask),
                None if self.window is None else box_of(*map(int, self.window)),
                None if self.bbox is None else four(*map(float, self.bbox)),
                self.bbox_crs,
                self.context,
                self.not_alpha,
                self.any_size,
            )
            creation = tuple((name.upper(), str(value)) for name, value in (self.creation or {}).items())
            storage = Storage(self.format, creation, self.overviews, tmp_dir)
        return RunConfig(options, selection, storage, self.provenance, resume, in_place)

    def require_unset(self, names: Iterable[str], instead: str) -> None:
        """Raise UsageError, with what to do instead, for an option that has no meaning where it is given."""
        default = Options()
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise UsageError(f"{name} has no meaning here", instead)


FOR_STORING = ("format", "creation", "overviews")
FOR_FILES = ("mask", "not_alpha", "any_size", "window", "bbox", *FOR_STORING)


def box_of(column: int, row: int, width: int, height: int) -> Box:
    """Return a box that is named as users do, from its column."""
    return Box(row, column, height, width)


def four(left: float, bottom: float, right: float, top: float) -> tuple[float, float, float, float]:
    """Return the numbers of a bbox."""
    return left, bottom, right, top


def flat_ranges(value: Any) -> tuple[float, ...] | str | None:
    """Return the numbers of a range, or of one per band in their order; a word or None stays."""
    if value is None or isinstance(value, str):
        return value
    return tuple(
        float(number) for pair in value for number in (pair if isinstance(pair, Iterable) else (pair,))
    )


def is_whole(value: object) -> bool:
    """Tell whether it is a whole number, NumPy's included."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Tell whether it is a number, NumPy's included."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_a(*types: type) -> Callable[[object], bool]:
    """Make a test for something of one of these types."""
    return lambda value: isinstance(value, types)


def are(fits: Callable[[object], bool], count: int | None = None) -> Callable[[object], bool]:
    """Make a test for a sequence of such values, of so many if that is said."""

    def all_fit(values: object) -> bool:
        if isinstance(values, str) or not isinstance(values, Iterable):
            return False
        found = list(values)
        return count in (None, len(found)) and all(map(fits, found))

    return all_fit


def is_range(value: object) -> bool:
    """Tell whether it is a pair, a pair for each band, or what a range is chosen by."""
    pairs = are(lambda each: is_real(each) or are(is_real, 2)(each))
    return value in ("dtype", "percentiles") if isinstance(value, str) else pairs(value)


Kinds = tuple[Callable[[object], bool], str]
FLAG: Kinds = (is_a(bool), "True or False")
WHOLE: Kinds = (is_whole, "a whole number")
NUMBER: Kinds = (is_real, "a number")
TEXT: Kinds = (is_a(str), "a text")
PATH: Kinds = (is_a(str, os.PathLike), "a path")
SIZE: Kinds = (lambda value: is_whole(value) or isinstance(value, str), 'bytes, or a text like "8G"')
# What a value must be, and how that is said. None is possible where it is the default.
KINDS: dict[str, Kinds] = {
    "bands": (are(is_whole), "their numbers, like (4, 3, 2)"),
    "input_range": (is_range, '(low, high), such a pair for each band, "dtype" or "percentiles"'),
    "window": (are(is_whole, 4), "column, row, width and height, like (0, 0, 512, 512)"),
    "bbox": (are(is_real, 4), "xmin, ymin, xmax and ymax"),
    "precision": (lambda value: value in PRECISIONS, "auto, fp32, bf16 or fp16"),
    "context": (lambda value: value in ("window", "scene"), "window or scene"),
    "creation": (is_a(Mapping), 'names and values like {"COMPRESS": "ZSTD"}'),
    **dict.fromkeys(("all_bands", "overviews", "provenance", "not_alpha", "any_size"), FLAG),
    **dict.fromkeys(("tile", "tile_overlap", "long_side", "overlap", "threads", "seed"), WHOLE),
    **dict.fromkeys(("strength", "nodata"), NUMBER),
    **dict.fromkeys(("mode", "blend", "upsampling", "unseen", "device", "bbox_crs", "format"), TEXT),
    **dict.fromkeys(("tmp_dir", "mask"), PATH),
    **dict.fromkeys(("max_ram", "max_vram"), SIZE),
}
