"""Draw a contact sheet: every image of a folder before and after, small and a part of it at full size.

    python benchmarks/contact_sheet.py ../shared/data/try sheet.png [--model dehazexl-s]

A row is an image: as it is, dehazed, and its middle at full size before and after. What has more than 8 bits
is shown in the range between its own 1st and 99th percentile, as viewers show it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from before_after import DIVIDER, save

import dehazexl_cli

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
Picture = NDArray[Any]


def views(path: Path, side: int) -> list[Picture]:
    """The whole image within `side` pixels, and its middle at full size, [3, side, side] each."""
    with rasterio.open(path) as image:
        bands = (1, 2, 3) if image.count >= 3 else (1, 1, 1)
        scale = side / max(image.height, image.width)
        shape = (3, max(1, round(image.height * scale)), max(1, round(image.width * scale)))
        whole = image.read(bands, out_shape=shape, resampling=Resampling.average)
        width, height = min(side, image.width), min(side, image.height)
        middle = Window((image.width - width) // 2, (image.height - height) // 2, width, height)
        return [centred(whole, side), centred(image.read(bands, window=middle), side)]


def centred(picture: Picture, side: int) -> Picture:
    """A picture in the middle of a black square."""
    _, height, width = picture.shape
    square = np.zeros((3, side, side), picture.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = picture
    return square


def in_bytes(whole: Picture, middle: Picture) -> list[Picture]:
    """Both views of an image as bytes, in the range of the whole."""
    if whole.dtype == np.uint8:
        return [whole, middle]
    low, high = np.percentile(whole[whole != 0], (1, 99))
    return [((each - low) / (high - low) * 255).clip(0, 255).astype(np.uint8) for each in (whole, middle)]


def row(path: Path, model: Any, side: int) -> Picture:
    """One image, four pictures beside each other."""
    with tempfile.TemporaryDirectory() as folder:
        after = Path(folder) / "after.tif"
        dehazexl_cli.dehaze_file(path, after, model=model)
        pictures = [in_bytes(*views(image, side)) for image in (path, after)]
    divider = np.full((3, side, DIVIDER), 255, np.uint8)
    (whole, middle), (whole_after, middle_after) = pictures
    return np.concatenate([whole, divider, whole_after, divider, middle, divider, middle_after], axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sheet", type=Path, help="the PNG to write")
    parser.add_argument("--model", help="of the bundled ones; else the default")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--side", type=int, default=480, help="of a picture, pixels")
    chosen = parser.parse_args()
    model = dehazexl_cli.load_model(chosen.model, chosen.weights)
    paths = sorted(path for path in chosen.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    save(chosen.sheet, np.concatenate([row(path, model, chosen.side) for path in paths], axis=1))
    print(chosen.sheet, *(path.name for path in paths), sep="\n")


if __name__ == "__main__":
    main()
