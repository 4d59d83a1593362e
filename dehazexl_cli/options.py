"""The options of a run as a Python programmer writes them: flat, and named as on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from dehazexl_cli.errors import UsageError, in_words_of_python
from dehazexl_cli.grid import Box
from dehazexl_cli.plan import parse_size

if TYPE_CHECKING:
    from dehazexl_cli.files import RunConfig

Path = str | os.PathLike[str]
FOR_STORING = ("format", "creation", "overviews")
FOR_FILES = ("mask", "not_alpha", "any_size", "window", "bbox", *FOR_STORING)


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
    mode: Literal["global", "tile", "downsample", "whole"] | None = None
    tile: int | None = None  # side of a tile, pixels
    tile_overlap: int | None = None  # pixels that tiles share
    blend: Literal["feather", "hard"] | None = None
    long_side: int | None = None  # of the smaller picture, pixels
    upsampling: Literal["guided", "plain"] | None = None
    overlap: int | None = None  # pixels that patches share
    device: str = "auto"  # or cpu, cuda, cuda:0,cuda:1, mps
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
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
        for field in fields(self):
            require_kind(field.name, getattr(self, field.name), field.default)
        self.recipe()

    def recipe(self, resume: bool = False) -> RunConfig:
        """The same as the engine has it; UsageError for what does not go together."""
        from dehazexl_cli.engine import InferenceMode, PlanOverrides
        from dehazexl_cli.engine import Options as EngineOptions
        from dehazexl_cli.files import RunConfig
        from dehazexl_cli.raster.formats import Storage
        from dehazexl_cli.raster.selection import Selection

        tmp_dir = None if self.tmp_dir is None else os.fspath(self.tmp_dir)
        with in_words_of_python():
            options = EngineOptions(
                bands=None if self.bands is None else tuple(map(int, self.bands)),
                all_bands=self.all_bands,
                band_ranges=flat_ranges(self.input_range),
                strength=self.strength,
                device=self.device,
                precision=self.precision,
                max_ram=parse_size("max_ram", None if self.max_ram is None else str(self.max_ram)),
                max_vram=parse_size("max_vram", None if self.max_vram is None else str(self.max_vram)),
                overlap=self.overlap,
                wishes=PlanOverrides(seed=self.seed),
                mode=InferenceMode(
                    self.mode,
                    self.tile,
                    self.tile_overlap,
                    self.blend,
                    self.long_side,
                    self.upsampling,
                ),
                tmp_dir=tmp_dir,
                threads=self.threads,
            )
            selection = Selection(
                self.nodata,
                None if self.mask is None else os.fspath(self.mask),
                window_of(self.window),
                None if self.bbox is None else four(self.bbox),
                self.bbox_crs,
                self.context,
                self.not_alpha,
                self.any_size,
            )
            creation = tuple((name.upper(), str(value)) for name, value in (self.creation or {}).items())
            storage = Storage(self.format, creation, self.overviews, tmp_dir)
        return RunConfig(options, selection, storage, self.provenance, resume)

    def require_unset(self, names: Iterable[str], instead: str) -> None:
        """Raises UsageError, with what to do instead, for an option that has no meaning where it is given."""
        default = Options()
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise UsageError(f"{name} has no meaning here", instead)


def is_whole(value: object) -> bool:
    """Whether it is a whole number, NumPy's included."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether it is a number, NumPy's included."""
    return isinstance(value, Real) and not isinstance(value, bool)


def are(fits: Callable[[object], bool], count: int | None = None) -> Callable[[object], bool]:
    """Whether something is a sequence of such values, of so many if that is said."""

    def all_fit(values: object) -> bool:
        if isinstance(values, str) or not isinstance(values, Iterable):
            return False
        found = list(values)
        return count in (None, len(found)) and all(map(fits, found))

    return all_fit


def one_of(*words: str, otherwise: Callable[[object], bool] | None = None) -> Callable[[object], bool]:
    """Whether something is one of some words, or fits otherwise."""

    def fits(value: object) -> bool:
        known = isinstance(value, str) and value in words
        return known or (otherwise is not None and otherwise(value))

    return fits


def is_text(value: object) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def is_path(value: object) -> bool:
    """Whether it is a path."""
    return isinstance(value, str | os.PathLike)


FLAG = (lambda value: isinstance(value, bool), "True or False")
WHOLE = (is_whole, "a whole number")
NUMBER = (is_real, "a number")
TEXT = (is_text, "a text")
PATH = (is_path, "a path")
SIZE = (lambda value: is_whole(value) or is_text(value), 'bytes, or a text like "8G"')
PAIRS = are(lambda each: is_real(each) or are(is_real, 2)(each))
# What a value must be, and how that is said. None is possible where it is the default.
KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "bands": (are(is_whole), "their numbers, like (4, 3, 2)"),
    "input_range": (
        one_of("dtype", "percentiles", otherwise=PAIRS),
        '(low, high), such a pair for each band, "dtype" or "percentiles"',
    ),
    "window": (are(is_whole, 4), "column, row, width and height, like (0, 0, 512, 512)"),
    "bbox": (are(is_real, 4), "xmin, ymin, xmax and ymax"),
    "precision": (one_of("auto", "fp32", "bf16", "fp16"), "auto, fp32, bf16 or fp16"),
    "context": (one_of("window", "scene"), "window or scene"),
    "creation": (lambda value: isinstance(value, Mapping), 'names and values like {"COMPRESS": "ZSTD"}'),
    **dict.fromkeys(("all_bands", "overviews", "provenance", "not_alpha", "any_size"), FLAG),
    **dict.fromkeys(("tile", "tile_overlap", "long_side", "overlap", "threads", "seed"), WHOLE),
    **dict.fromkeys(("strength", "nodata"), NUMBER),
    **dict.fromkeys(("mode", "blend", "upsampling", "device", "bbox_crs", "format"), TEXT),
    **dict.fromkeys(("tmp_dir", "mask"), PATH),
    **dict.fromkeys(("max_ram", "max_vram"), SIZE),
}


def require_kind(name: str, value: object, default: object) -> None:
    """Raises UsageError for a value of a kind that an option cannot have."""
    fits, words = KINDS[name]
    if not (value is None and default is None) and not fits(value):
        raise UsageError(f"{name}={value!r} is not possible", f"give {words}")


def flat_ranges(value: Any) -> tuple[float, ...] | str | None:
    """The numbers of a range, or of one per band in their order; a word or None stays."""
    if value is None or isinstance(value, str):
        return value
    return tuple(
        float(number) for pair in value for number in (pair if isinstance(pair, Iterable) else (pair,))
    )


def window_of(window: Sequence[int] | None) -> Box | None:
    """The box of column, row, width, height."""
    if window is None:
        return None
    col, row, width, height = map(int, window)
    return Box(row, col, height, width)


def four(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    """The numbers of a bbox."""
    left, bottom, right, top = map(float, numbers)
    return left, bottom, right, top
