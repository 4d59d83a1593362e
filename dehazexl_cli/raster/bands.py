"""Which bands of a raster are what: decided here, by what its file says of them and what a user does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.raster.base import RasterInfo

RGB = ("red", "green", "blue")
# A file that says one of these of a band holds no light: of "yellow" alone it may be a part of the spectrum.
_NO_LIGHT = frozenset({"cyan", "magenta", "black", "hue", "saturation", "lightness", "Y", "Cb", "Cr"})
_UNKNOWN = frozenset({"", "grey"})  # GDAL's way to say nothing of a band
# Words of names that quality flags and classes go by: QA_PIXEL, BQA, QA60, SCL, udm2, cfmask, MSK_CLASSI.
_CLASSES = re.compile(
    r"b?qa\d*|qc|scl|udm\d?|msk|(f|cf|cloud)?mask|class(es|ification)?|landcover|lulc|quality|aerosol"
)
_NEUTRAL = re.compile(r"band|channel|sr|surface|reflectance|toa|boa|b?\d+[a-z]?|central|wavelength|nm")
_WAVELENGTH = re.compile(r"(\d{3,5})(?:\.\d+)? ?nm\b")
_NANOMETRES = {"red": (620, 700), "green": (520, 600), "blue": (440, 520)}


class Bands(NamedTuple):
    """What each band is, 1-based; those in no group pass through as they are."""

    groups: tuple[tuple[int, ...], ...]  # each dehazed together; the first is red, green, blue, or one grey
    notes: tuple[str, ...] = ()  # what a user should know of the choice

    @property
    def dehazed(self) -> tuple[int, ...]:
        """All that are dehazed. They alone say by nodata, NaN and infinity which pixels are valid."""
        return tuple(band for group in self.groups for band in group)

    @property
    def colours(self) -> tuple[int, ...]:
        """Red, green and blue, or one grey."""
        return self.groups[0]


def choose_bands(info: RasterInfo, wanted: Sequence[int] | None = None, all_bands: bool = False) -> Bands:
    """Decide which bands are dehazed.

    Red, green and blue are the bands `wanted`, else those that the file's band names call so, else those of
    its colour interpretation, else its first three, else its first as grey. Alpha and bands of quality flags
    or classes are never dehazed; `all_bands` adds all others, by threes in their order, and what is left of
    these one by one.

    Raises InputError for a raster of alpha alone, or of ink and the like, UsageError for wanted bands that
    cannot be dehazed.
    """
    if wanted is None:
        colours, notes = _colours_of(info)
    else:
        colours, notes = _checked(info, wanted), ()
    _require_light(info, colours)
    groups = [colours]
    if all_bands:
        others = [band for band in _candidates(info) if band not in colours]
        whole = len(others) // 3 * 3
        groups += [(a, b, c) for a, b, c in zip(*[iter(others[:whole])] * 3, strict=True)]
        groups += [(band,) for band in others[whole:]]
    return Bands(tuple(groups), notes)


def holds_classes_only(info: RasterInfo) -> bool:
    """Whether a raster is said to hold quality flags or classes: by its file's name or its band's."""
    if info.count == 1 or info.indexed:
        return _says_classes(info, PurePath(info.name).stem) or _is_class_band(info, 1)
    return False


def _is_class_band(info: RasterInfo, band: int) -> bool:
    return _says_classes(info, _of_band(info.descriptions, band))


def _says_classes(info: RasterInfo, name: str) -> bool:
    return info.dtype.startswith(("uint", "int")) and any(map(_CLASSES.fullmatch, _words(name)))


def _colours_of(info: RasterInfo) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The colours that the file says, or those that are likeliest, and what should be known of that."""
    others = [band for band in range(1, info.count + 1) if band != info.alpha]
    if not others:
        raise InputError(f"{info.name} has no band but alpha", "give an image with colour bands")
    named = [_named(_of_band(info.descriptions, band)) for band in range(1, info.count + 1)]
    meant = [_of_band(info.meanings, band) for band in range(1, info.count + 1)]
    by_name = _each_once(named) or _by_wavelength(info.descriptions)
    by_meaning = _each_once(meant)
    if by_name is not None:
        return by_name, (_doubt(info, by_meaning, by_name),) if by_meaning not in (None, by_name) else ()
    if by_meaning is not None:
        contradicted = any(named[band - 1] not in ("", RGB[at]) for at, band in enumerate(by_meaning))
        return by_meaning, (_doubt(info, by_meaning, None),) if contradicted else ()
    unknown = [band for band in _candidates(info) if meant[band - 1] in _UNKNOWN]
    usable = next((some for some in (unknown, _candidates(info)) if len(some) >= 3), _candidates(info))
    if len(usable) < 3:
        return tuple((usable or others)[:1]), ()
    first = (usable[0], usable[1], usable[2])
    guessed = f"it does not say which bands are red, green and blue; {_listed(first)} are taken for them"
    return first, (f"{guessed} (--bands R,G,B names others)",) if len(others) > 3 else ()


def _checked(info: RasterInfo, wanted: Sequence[int]) -> tuple[int, ...]:
    for band in wanted:
        if not 1 <= band <= info.count:
            raise UsageError(
                f"{info.name} has no band {band}", f"its bands are 1 to {info.count}; name them with --bands"
            )
    if len(wanted) not in (1, 3) or len(set(wanted)) != len(wanted):
        raise UsageError(
            f"--bands {_listed(wanted)} are not red, green and blue",
            "name three different bands, or one to be treated as grey",
        )
    if info.alpha in wanted:
        raise UsageError(
            f"--bands {_listed(wanted)}: band {info.alpha} of {info.name} is its alpha",
            "name other bands, or --not-alpha if it holds infrared or other data",
        )
    return tuple(wanted)


def _require_light(info: RasterInfo, bands: Sequence[int]) -> None:
    """Raises InputError for bands of ink, or of another way to write colours than by light."""
    said = [_of_band(info.meanings, band) for band in range(1, info.count + 1)]
    if any(said[band - 1] in _NO_LIGHT for band in bands):
        raise no_light(info.name, ", ".join(said))


def no_light(name: str, said: str) -> InputError:
    """Make the error to raise for bands that write colours otherwise than by light."""
    return InputError(
        f"{name}: its bands are {said}, and not red, green and blue",
        "convert it first, for example: magick IN -colorspace sRGB OUT.tif",
    )


def _candidates(info: RasterInfo) -> list[int]:
    """Bands that might be dehazed."""
    bands = range(1, info.count + 1)
    return [band for band in bands if band != info.alpha and not _is_class_band(info, band)]


def _each_once(said: Sequence[str]) -> tuple[int, ...] | None:
    """The bands of red, green and blue, if each is said of one band."""
    return tuple(said.index(name) + 1 for name in RGB) if all(said.count(name) == 1 for name in RGB) else None


def _by_wavelength(names: Sequence[str]) -> tuple[int, ...] | None:
    """The bands in the middle of red, green and blue, if wavelengths are said and each has one."""
    found = []
    said = [(number, _nanometres(name)) for number, name in enumerate(names, 1)]
    for low, high in _NANOMETRES.values():
        within = [(abs(at - (low + high) / 2), number) for number, at in said if low <= at < high]
        found += [min(within)[1]] if within else []
    return tuple(found) if len(found) == len(RGB) else None


def _nanometres(name: str) -> int:
    """The wavelength in the name of a band, 0 if there is none."""
    said = _WAVELENGTH.search(name.lower())
    return 0 if said is None else int(said[1])


def _named(name: str) -> str:
    """What the name of a band says it is: a colour, another word, or nothing."""
    nanometres = _nanometres(name)
    if nanometres:
        within = (colour for colour, (low, high) in _NANOMETRES.items() if low <= nanometres < high)
        return next(within, "another")
    words = {word for word in _words(name) if not _NEUTRAL.fullmatch(word)}
    colours = words.intersection(RGB)
    if words and words == colours and len(colours) == 1:
        return colours.pop()
    known = words.intersection({*RGB, "nir", "infrared", "swir", "pan", "rededge", "coastal", "thermal"})
    return "another" if known else ""


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _doubt(info: RasterInfo, meant: tuple[int, ...] | None, named: tuple[int, ...] | None) -> str:
    """What is said where names of bands contradict the colour interpretation."""
    taken = named or meant or ()
    calls = ", ".join(_of_band(info.descriptions, band) for band in meant or ())
    return (
        f"its colour interpretation says that bands {_listed(meant or ())} are red, green and blue, and its "
        f"band names say {calls}; {_listed(taken)} are taken for them (--bands R,G,B names others)"
    )


def _of_band(said: Sequence[str], band: int) -> str:
    return said[band - 1] if band <= len(said) else ""


def _listed(bands: Sequence[int]) -> str:
    return ",".join(map(str, bands))
