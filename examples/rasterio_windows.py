"""A pipeline with rasterio's windows: wanted places of a mosaic, dehazed, as chips for another program.

    python examples/rasterio_windows.py mosaic.tif chips --size 512 --at 13.42,52.51 --at 13.38,52.50

Each chip is cut around a place (in the mosaic's coordinates), dehazed in memory with a model that is loaded
once, and written with its own georeference. With --margin, more of the mosaic is shown to the model than is
kept, so that the haze is judged by the surroundings too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

import dehazexl_cli


def window_around(mosaic: rasterio.DatasetReader, x: float, y: float, size: int) -> Window:
    """A window of `size` pixels around a place, moved or cut so that it is inside the mosaic."""
    row, col = mosaic.index(x, y)
    width, height = min(size, mosaic.width), min(size, mosaic.height)
    left = min(max(0, col - width // 2), mosaic.width - width)
    top = min(max(0, row - height // 2), mosaic.height - height)
    return Window(left, top, width, height)


def cut_chips(
    path: Path, folder: Path, places: list[tuple[float, float]], size: int, margin: int, **settings: object
) -> list[Path]:
    """Dehaze a chip around each place; the names of the files."""
    model = dehazexl_cli.load_model(**settings)  # once, for all of them
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with rasterio.open(path) as mosaic:
        for number, (x, y) in enumerate(places):
            seen = window_around(mosaic, x, y, size + 2 * margin)
            kept = window_around(mosaic, x, y, size)
            hazy = mosaic.read(window=seen).transpose(1, 2, 0)  # [height, width, bands]
            clear = dehazexl_cli.dehaze(np.ascontiguousarray(hazy), model=model, nodata=mosaic.nodata)
            top, left = kept.row_off - seen.row_off, kept.col_off - seen.col_off
            chip = clear[top : top + kept.height, left : left + kept.width].transpose(2, 0, 1)
            profile = mosaic.profile | {
                "driver": "GTiff",
                "height": kept.height,
                "width": kept.width,
                "transform": mosaic.window_transform(kept),
                "tiled": False,
            }
            made.append(folder / f"{path.stem}-{number}.tif")
            with rasterio.open(made[-1], "w", **profile) as file:
                file.write(chip)
    return made


def parse_place(text: str) -> tuple[float, float]:
    """x and y of "13.42,52.51"."""
    x, y = text.split(",")
    return float(x), float(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mosaic", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at", type=parse_place, action="append", required=True, metavar="X,Y")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--margin", type=int, default=256)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    chips = cut_chips(
        arguments.mosaic,
        arguments.folder,
        arguments.at,
        arguments.size,
        arguments.margin,
        weights=arguments.weights,
    )
    for chip in chips:
        print(chip)


if __name__ == "__main__":
    main()
