"""What a Python programmer may hand over as a picture, and what it is told back as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.memory import ArrayReader, Layout

MOST_BANDS = 16  # of an axis that is taken for that of the bands unless the user says which it is
# Of Pillow's images, those whose numbers are brightnesses. Those of a palette are not, nor hues.
MODES_OF_PILLOW = frozenset({"L", "LA", "RGB", "RGBA", "RGBX", "F", "I;16", "I;16L", "I;16B"})


@dataclass(frozen=True)
class Picture:
    """An array that was understood."""

    array: Pixels
    layout: Layout
    nodata: float | None
    mask: Pixels | None  # a masked array's own, of its shape; True where there is nothing

    def reader(self) -> ArrayReader:
        """The array as a scene; a pixel is no ground where all its bands are masked."""
        bands = {"hw": (), "hwc": (2,), "chw": (0,)}[self.layout]
        valid = None if self.mask is None else np.logical_not(self.mask.all(axis=bands))
        return ArrayReader(self.array, self.layout == "chw", self.nodata, valid=valid)

    def like(self, result: Pixels) -> Pixels:
        """A result, masked as the array was."""
        return result if self.mask is None else np.ma.MaskedArray(result, self.mask)


def understood(image: Any, channel_axis: int | None, nodata: float | None) -> Picture:
    """Make out an array, or what NumPy makes one of: lists, Pillow's images, tensors, DataArrays.

    Raises InputError for what is no picture, UsageError where nobody can know which axis the bands are on.
    """
    if hasattr(image, "getbands") and hasattr(image, "convert") and image.mode not in MODES_OF_PILLOW:
        raise InputError(
            f"the numbers of a Pillow image of mode {image.mode} are no colours",
            'pass image.convert("RGB"), or "L" for grey',
        )
    if nodata is None:
        nodata = getattr(image, "attrs", {}).get("_FillValue")  # where rioxarray keeps it
    masked = isinstance(image, np.ma.MaskedArray)
    array = np.asarray(image.data) if masked else as_array(image)
    mask = np.ma.getmaskarray(image) if masked else None
    return Picture(array, layout_of(array, channel_axis), nodata, mask)


def as_array(image: Any) -> Pixels:
    """What NumPy makes of an object; InputError where that is nothing with numbers."""
    kind = type(image).__name__
    try:
        array = np.asarray(image)
    except Exception as error:  # each library has its own
        said = str(error).partition("\n")[0]
        raise InputError(
            f"NumPy can make no array of this {kind} ({said})",
            "pass a NumPy array; of a tensor: tensor.detach().cpu().float().numpy()",
        ) from error
    if array.dtype.kind not in "buifc" or array.ndim == 0:
        raise InputError(
            f"a {kind} is no picture", "pass a NumPy array [height, width, bands] or the path of a file"
        )
    return array


def layout_of(array: Pixels, channel_axis: int | None) -> Layout:
    """Which axis the bands are on: as said, else the first or last, whichever alone has at most 16.

    Raises InputError for an array that is no picture, UsageError where that does not tell.
    """
    if array.ndim == 4:
        raise InputError(
            f"an array {list(array.shape)} holds several pictures", "pass one at a time: array[0]"
        )
    if array.ndim not in (2, 3):
        raise InputError(
            f"an array of {array.ndim} axes is no picture", "pass [height, width] or [height, width, bands]"
        )
    if array.ndim == 2:
        if channel_axis is not None:
            raise UsageError("an array of two axes has none for bands", "leave out channel_axis")
        return "hw"
    if channel_axis is not None:
        if channel_axis in (0, -3):
            return "chw"
        if channel_axis in (2, -1):
            return "hwc"
        raise UsageError(
            f"channel_axis {channel_axis!r} is not possible",
            "the bands are on the first axis, 0, or the last, -1",
        )
    first, last = (array.shape[axis] <= MOST_BANDS for axis in (0, 2))
    if first == last:
        raise UsageError(
            f"an array {list(array.shape)} does not tell which axis the bands are on",
            "say channel_axis=0 for [bands, height, width], or channel_axis=-1 for [height, width, bands]",
        )
    return "chw" if first else "hwc"
