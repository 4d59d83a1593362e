"""Pairs of hazy and clear images in the folders that dehazing datasets come in."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dehazexl_cli.errors import InputError

log = logging.getLogger(__name__)

SUFFIXES = {".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
HAZY_FOLDERS = ("hazy", "haze", "input")  # in any case
CLEAR_FOLDERS = ("clear", "gt", "target")
GRADED_FOLDER = re.compile(r"cloud_l\d+")  # 8KDehaze: the same scenes at several densities of haze
ROLE = re.compile(r"[_-](hazy|haze|input|gt|clear|target)$", re.IGNORECASE)
NAMED_AT_MOST = 20
UNDERSTOOD = (
    "name a folder that holds clear/ and cloud_L1/ … cloud_L4/ with equal names (8KDehaze), or hazy/ "
    "with clear/ or GT/, or input/ with target/; with equal names, 01_hazy.jpg beside 01_GT.jpg (O-HAZE), "
    "or 0001_0.8_0.2.png beside 0001.png (RESIDE)"
)


@dataclass(frozen=True)
class Pair:
    """A hazy image and what it should become."""

    hazy: Path
    clear: Path
    group: str  # images to be averaged: the density of haze in 8KDehaze, else the dataset's folder


def find_pairs(folder: Path) -> list[Pair]:
    """All pairs of a dataset's folder, by group and then by name.

    Images without a partner are named in a warning. Raises InputError if there is no pair at all, or if
    two clear images fit one hazy image.
    """
    hazy_folders, clear_folder = find_folders(folder)
    clear = images(clear_folder)
    pairs: list[Pair] = []
    alone: set[Path] = set(clear)
    for group, hazy_folder in hazy_folders.items():
        hazy = images(hazy_folder)
        found = match(hazy, clear)
        pairs += [Pair(path, found[path], group) for path in hazy if path in found]
        alone.difference_update(found.values())
        alone.update(path for path in hazy if path not in found)
    if not pairs:
        raise InputError(f"{folder}: no hazy image has a clear partner{listed(alone, folder)}", UNDERSTOOD)
    if alone:
        log.warning("%s: images without a partner are left out%s", folder, listed(alone, folder))
    return pairs


def find_folders(folder: Path) -> tuple[dict[str, Path], Path]:
    """Folders of hazy images by group, and the one of clear images."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}", UNDERSTOOD)
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    graded = {path.name: path for name, path in inside.items() if GRADED_FOLDER.fullmatch(name)}
    plain = [inside[name] for name in HAZY_FOLDERS if name in inside]
    clear = [inside[name] for name in CLEAR_FOLDERS if name in inside]
    if not clear or not (graded or plain):
        missing = "clear" if graded or plain else "hazy"
        raise InputError(f"{folder}: there is no folder of {missing} images in it", UNDERSTOOD)
    return graded or {folder.resolve().name: plain[0]}, clear[0]


def images(folder: Path) -> list[Path]:
    """The images of a folder in name order; hidden files and side files are none."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def match(hazy: Sequence[Path], clear: Sequence[Path]) -> dict[Path, Path]:
    """The clear partner of each hazy image that has one.

    A folder follows one convention, the one that finds most partners. Were it chosen image by image, a
    scene whose own partner is missing could get another's.
    """
    fitting = max((fits(hazy, clear, *convention) for convention in CONVENTIONS), key=len)
    return {path: one_of(path, candidates) for path, candidates in fitting.items()}


def fits(
    hazy: Sequence[Path], clear: Sequence[Path], wanted: Callable[[str], list[str]], own: Callable[[str], str]
) -> dict[Path, list[Path]]:
    """The clear images whose `own` name is the first there is of those `wanted` by each hazy image."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in clear:
        by_name[own(path.stem)].append(path)
    found = {path: [by_name[name] for name in wanted(path.stem) if name in by_name] for path in hazy}
    return {path: candidates[0] for path, candidates in found.items() if candidates}


def without_role(stem: str) -> str:
    """01_outdoor of 01_outdoor_hazy and of 01_outdoor_GT."""
    return ROLE.sub("", stem)


def shortened(stem: str) -> list[str]:
    """0001_0.8 and 0001 of 0001_0.8_0.2: the longest first, so that 0001_0.8 is preferred if it is there."""
    parts = stem.split("_")
    return ["_".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


# Names that a hazy image may look for, and the name that a clear one has.
CONVENTIONS: tuple[tuple[Callable[[str], list[str]], Callable[[str], str]], ...] = (
    (lambda stem: [stem], lambda stem: stem),
    (lambda stem: [without_role(stem)], without_role),
    (shortened, lambda stem: stem),
)


def one_of(hazy: Path, candidates: Sequence[Path]) -> Path:
    """The only candidate, or the only one of the hazy image's format."""
    alike = [path for path in candidates if path.suffix.lower() == hazy.suffix.lower()] or candidates
    if len(alike) > 1:
        raise InputError(
            f"{hazy}: {len(alike)} clear images fit: {', '.join(path.name for path in alike)}",
            "keep one of them in the folder",
        )
    return alike[0]


def listed(paths: Collection[Path], folder: Path) -> str:
    """The end of a message, ": hazy/1.png, hazy/2.png"; nothing for none."""
    names = [str(path.relative_to(folder)) for path in sorted(paths)]
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return f": {', '.join(names[:NAMED_AT_MOST])}{more}" if names else ""
