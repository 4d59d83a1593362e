"""Put two 8-bit RGB rasters of the same scene side by side in a small PNG."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

DIVIDER = 4  # pixels of white between the two


def thumbnail(path: Path, width: int) -> np.ndarray:
    """The raster [3, height, width] at a reduced size, read by decimation."""
    with rasterio.open(path) as source:
        if source.count < 3 or source.dtypes[0] != "uint8":
            raise SystemExit(f"{path} is not an 8-bit RGB raster")
        height = max(1, round(source.height * width / source.width))
        return source.read((1, 2, 3), out_shape=(3, height, width), resampling=Resampling.average)


def side_by_side(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Both pictures [3, height, width] of the same size, a thin white line between them."""
    divider = np.full((3, before.shape[1], DIVIDER), 255, np.uint8)
    return np.concatenate([before, divider, after], axis=2)


def save(path: Path, picture: np.ndarray) -> None:
    """Write [3, height, width] as a PNG, which has no place on the map."""
    _, height, width = picture.shape
    profile = {"driver": "PNG", "dtype": "uint8", "count": 3, "height": height, "width": width}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as target:
            target.write(picture)


def main() -> None:
    """Write the comparison and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1600, help="of the picture, pixels (default: 1600)")
    overrides = parser.parse_args()
    half = (overrides.width - DIVIDER) // 2
    save(overrides.picture, side_by_side(thumbnail(overrides.before, half), thumbnail(overrides.after, half)))
    print(overrides.picture)


if __name__ == "__main__":
    main()
