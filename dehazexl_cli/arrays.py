"""What a Python programmer may hand over as a picture, and how a result becomes the same kind of object.

No library is loaded for that: an object of one that is not loaded cannot be there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.memory import ArrayReader, DataArrayReader, Layout

MOST_BANDS = 16  # of an axis that is taken for that of the bands unless the user says which it is
# Of Pillow's images, those whose numbers are brightnesses. Those of a palette are not, nor hues.
MODES_OF_PILLOW = frozenset({"L", "LA", "RGB", "RGBA", "RGBX", "F", "I;16", "I;16L", "I;16B"})
ROWS_AND_COLUMNS = (("y", "x"), ("latitude", "longitude"), ("lat", "lon"))  # as xarray's users name them


@dataclass(frozen=True)
class Picture:
    """An object that was understood as a picture."""

    reader: ArrayReader
    layout: Layout  # of the array that `back` takes
    back: Callable[[Pixels], Any]  # makes of a result the kind of object that was given


def understood(image: Any, channel_axis: int | None, nodata: float | None, mask: Any) -> Picture:
    """Make out an array, masked or not, a Pillow image, a tensor, a DataArray, or what NumPy makes one of.

    `mask` [height, width] is True, or not 0, on ground; None: everywhere. Raises InputError for what is no
    picture, UsageError where nobody can know which axis the bands are on.
    """
    if is_instance(image, "xarray", "DataArray"):
        return of_dataarray(image, channel_axis, nodata, mask)
    if is_instance(image, "PIL.Image", "Image"):
        return of_pillow(image, channel_axis, nodata, mask)
    if is_instance(image, "torch", "Tensor"):
        narrow = image.is_floating_point() and image.element_size() < 4  # NumPy has no bfloat16
        array = as_array((image.float() if narrow else image).cpu())
        back: Callable[[Pixels], Any] = image.new_tensor
    elif isinstance(image, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(image)
        array, back = np.asarray(image.data), lambda result: np.ma.MaskedArray(result, hidden)
    else:
        array, back = as_array(image), lambda result: result
    layout = layout_of(array, channel_axis)
    valid = None
    if isinstance(image, np.ma.MaskedArray):  # a pixel is no ground where all its bands are masked
        valid = np.logical_not(hidden.all(axis={"hw": (), "hwc": (2,), "chw": (0,)}[layout]))
    return Picture(ArrayReader(array, layout == "chw", nodata, valid=both(valid, mask)), layout, back)


def of_pillow(image: Any, channel_axis: int | None, nodata: float | None, mask: Any) -> Picture:
    """A Pillow image; where its alpha is 0 there is no ground."""
    if image.mode not in MODES_OF_PILLOW:
        raise InputError(
            f"the numbers of a Pillow image of mode {image.mode} are no colours",
            'pass image.convert("RGB"), or "L" for grey',
        )
    if channel_axis is not None:
        raise UsageError("a Pillow image says itself which its bands are", "leave out channel_axis")
    array = np.asarray(image)
    alpha = array.shape[2] if image.mode in ("LA", "RGBA") else None

    def back(result: Pixels) -> Any:
        made = sys.modules["PIL.Image"].frombytes(
            image.mode, image.size, result.astype(array.dtype).tobytes()
        )
        made.info = dict(image.info)
        return made

    reader = ArrayReader(array, False, nodata, alpha, valid=both(None, mask))
    return Picture(reader, reader.layout, back)


def of_dataarray(image: Any, channel_axis: int | None, nodata: float | None, mask: Any) -> Picture:
    """A DataArray, whose dimensions may be in any order where their names are known."""
    known = next((names for names in ROWS_AND_COLUMNS if {*names} <= {*image.dims}), None)
    if known is None or image.ndim not in (2, 3):
        layout = layout_of(image, channel_axis)
        order = {"hw": (0, 1), "hwc": (2, 0, 1), "chw": (0, 1, 2)}[layout]
        dims = [image.dims[axis] for axis in order]
    else:
        dims = [*(dim for dim in image.dims if dim not in known), *known]
    if dims[0] == "time":
        raise InputError("a DataArray with times holds several pictures", "pass one at a time: .isel(time=0)")
    if nodata is None:
        nodata = image.rio.nodata if hasattr(image, "rio") else image.attrs.get("_FillValue")
    reader = DataArrayReader(image, dims, nodata, both(None, mask))

    def back(result: Pixels) -> Any:
        ours = image.transpose(*dims).copy(data=result)  # with its name, coordinates and attributes
        return ours.transpose(*image.dims)

    return Picture(reader, "hw" if len(dims) == 2 else "chw", back)


def is_instance(thing: Any, module: str, name: str) -> bool:
    """Tell whether something is of a class of a library, which is not loaded for that."""
    return module in sys.modules and isinstance(thing, getattr(sys.modules[module], name))


def both(valid: Pixels | None, mask: Any) -> Pixels | None:
    """Where there is ground by what an object itself says and by a mask beside it."""
    if mask is None:
        return valid
    ground: Pixels = as_array(mask) != 0
    return ground if valid is None else valid & ground


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
