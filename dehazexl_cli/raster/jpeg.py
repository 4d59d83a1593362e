"""What JPEG compression leaves of pixels, for images that are to look like those from a camera."""

from __future__ import annotations

import imagecodecs
import numpy as np

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.pixels import interleaved

CELL = 16  # pixels per side of what JPEG codes together, with colour at half resolution
LARGEST_SIDE = 65_500  # libjpeg's limit, pixels


def require_jpeg_can_hold(info: RasterInfo) -> None:
    """Raises InputError unless a JPEG of such a scene could exist."""
    if info.dtype != "uint8":
        raise InputError(f"{info.name}: a JPEG has 8 bits, not {info.dtype}", "leave out --jpeg")
    if max(info.height, info.width) > LARGEST_SIDE:
        raise InputError(
            f"{info.name}: {info.width} x {info.height} pixels are more than a JPEG can hold",
            f"leave out --jpeg, or cut the scene to at most {LARGEST_SIDE} pixels a side",
        )


def require_quality(quality: int) -> None:
    """Raises UsageError for a quality that JPEG does not know."""
    if not 1 <= quality <= 100:
        raise UsageError(f"--jpeg {quality} is no quality", "give a number from 1 to 100, such as 90")


def rows_around(top: int, height: int, scene_height: int) -> tuple[int, int]:
    """First and last + 1 of the rows to pass through `through_jpeg`, so that those wanted come out right.

    Right means: as from the whole scene. Cells must stay in their places, and the decoder smooths colour
    across their edges.
    """
    first = top // CELL * CELL - CELL
    last = -(-(top + height) // CELL) * CELL + CELL
    return max(0, first), min(scene_height, last)


def through_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Red, green and blue [3, height, width] uint8, compressed at a quality of 1 to 100 and decoded."""
    code = imagecodecs.jpeg8_encode(interleaved(pixels), level=quality, subsampling="420")
    decoded: Pixels = imagecodecs.jpeg8_decode(code)
    return np.moveaxis(decoded, 2, 0)
