"""The Python interface."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from dehazexl_cli import processors
from dehazexl_cli.config import FOR_FILES, FOR_STORING, Options
from dehazexl_cli.errors import UsageError, in_words_of_python, pythonic

if TYPE_CHECKING:
    import numpy as np

    from dehazexl_cli.arrays import Picture
    from dehazexl_cli.files import OpenedScene
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.report import Report


def load_model(
    name: str | None = None, weights: str | PathLike[str] | None = None, multiple: int | None = None
) -> Loaded:
    """Load a model with its weights, by default the bundled one.

    Parameters
    ----------
    name
        Of a model; by default that of the weight file. "generic" is any network in a TorchScript or
        torch.export file.
    weights
        A weight file; by default the bundled one of that name.
    multiple
        What the sides of images for a generic network must be multiples of, if its file does not say so.

    Returns
    -------
    The model, for `dehaze` and `dehaze_file`.

    Raises
    ------
    UsageError for a name that is none, WeightsError if the weights are missing or do not fit.
    """
    processors.warn_of_spinning()
    from dehazexl_cli.models.loading import load_model

    with in_words_of_python():
        return load_model(name, weights, multiple)


def dehaze(
    image: Any,
    *,
    model: str | Loaded | None = None,
    options: Options | None = None,
    nodata: float | None = None,
    channel_axis: int | None = None,
) -> np.ndarray[Any, Any]:
    """Dehaze an array or an image file; what a user should know of the run is a Python warning.

    Parameters
    ----------
    image
        An array [height, width], [height, width, bands] or [bands, height, width], a path, or what
        NumPy makes an array of: lists, Pillow's images, tensors, DataArrays.
    model
        A name, or what `load_model` returned, which saves loading it each time.
    options
        See `Options`; those of files do not go with arrays.
    nodata
        A value that is no ground; a file, a masked array and a DataArray say so themselves.
    channel_axis
        0 or -1, where the bands are. By default the first or the last axis, whichever alone has at most 16.

    Returns
    -------
    An array of the input's shape and dtype, masked if the input was; of a file [height, width, bands].

    Raises
    ------
    The DehazeError that fits.
    """
    processors.warn_of_spinning()
    from dehazexl_cli.files import run_in_memory

    with in_words_of_python():
        loaded, picture = ready(model), None
        if isinstance(image, str | PathLike):
            opened = opened_file(image, checked(options), nodata, channel_axis)
        else:
            picture, opened = opened_array(image, checked(options), nodata, channel_axis)
        layout = "hwc" if picture is None else picture.layout
        try:
            result, report = run_in_memory(
                opened.reader, loaded.model, opened.options, layout, like=opened.like.info
            )
        finally:
            opened.reader.close()
    for message in (*report.fallbacks, *report.warnings, *report.notes):
        warnings.warn(pythonic(message), stacklevel=2)
    return result if picture is None else picture.like(result)


def dehaze_file(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    model: str | Loaded | None = None,
    options: Options | None = None,
    overwrite: bool = False,
    resume: bool = False,
    in_place: bool = False,
    haze_map: str | PathLike[str] | None = None,
    watch: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Dehaze a raster file into a new one; the Python form of `dehazexl run`.

    Parameters
    ----------
    source, target
        A target that is the source is refused unless the original is to be replaced `in_place`.
    model
        A name, or what `load_model` returned.
    options
        See `Options`.
    overwrite
        Whether a target that exists is replaced.
    resume
        Whether what is done is kept until the file is complete, and a later call goes on from there.
    haze_map
        A GeoTIFF to write beside the target: how much light gets through, in per cent.
    watch
        Called with (phase, patches done, patches in all).

    Returns
    -------
    What was done, and what a user should know of it.

    Raises
    ------
    The DehazeError that fits; then there is no target.
    """
    processors.warn_of_spinning()
    from dehazexl_cli import files

    with in_words_of_python():
        config = checked(options).run_config(resume, in_place)
        wanted_map = None if haze_map is None else path_of(haze_map)
        return files.dehaze_file(
            path_of(source), path_of(target), ready(model), config, overwrite, watch, wanted_map
        )


def checked(options: Options | None) -> Options:
    """The options, or the defaults; UsageError for anything else."""
    if options is None:
        return Options()
    if not isinstance(options, Options):
        raise UsageError(
            f"options is a {type(options).__name__}", "pass dehazexl_cli.Options(strength=0.8) or the like"
        )
    return options


def path_of(path: str | PathLike[str]) -> str:
    """A path as text; UsageError for anything else."""
    if isinstance(path, str | PathLike):
        return os.fsdecode(path)
    raise UsageError(f"a {type(path).__name__} is no path", "pass a text or a pathlib.Path; see also dehaze")


def ready(model: str | Loaded | None) -> Loaded:
    """A model with weights: the default, the named one, or one that was loaded; UsageError for others."""
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.models.loading import load_model

    if model is None or isinstance(model, str):
        return load_model(model)
    if not isinstance(model, Loaded):
        raise UsageError(
            f"model is a {type(model).__name__}", "pass a name like 'mgbl-s', or what load_model returns"
        )
    return model


def opened_file(
    path: str | PathLike[str], options: Options, nodata: float | None, channel_axis: int | None
) -> OpenedScene:
    """A file that is to become an array."""
    from dehazexl_cli.files import open_scene

    if channel_axis is not None:
        raise UsageError("a file says itself which its bands are", "leave out channel_axis")
    options.require_unset(FOR_STORING, "use dehaze_file to write a file")
    options = options if nodata is None else replace(options, nodata=nodata)
    return open_scene(path_of(path), options.run_config())


def opened_array(
    image: Any, options: Options, nodata: float | None, channel_axis: int | None
) -> tuple[Picture, OpenedScene]:
    """An array, or what NumPy makes one of, and the scene that it is."""
    from dehazexl_cli.arrays import understood
    from dehazexl_cli.files import OpenedScene

    options.require_unset(FOR_FILES, "it is for files; cut arrays yourself: image[:512, :512]")
    picture = understood(image, channel_axis, options.nodata if nodata is None else nodata)
    reader = picture.reader()
    return picture, OpenedScene("array", reader, reader, options.run_config().options)
