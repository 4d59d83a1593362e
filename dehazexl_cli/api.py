"""The Python interface."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from difflib import get_close_matches
from os import PathLike
from typing import TYPE_CHECKING, Any

from dehazexl_cli import processors
from dehazexl_cli.config import FOR_FILES, FOR_STORING, Options
from dehazexl_cli.errors import UsageError, in_words_of_python, pythonic
from dehazexl_cli.progress import Fraction, bar

if TYPE_CHECKING:
    from dehazexl_cli.arrays import Picture
    from dehazexl_cli.files import OpenedScene, Watch
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.report import Report

Shown = bool | Callable[[float], None] | None  # how progress is to be told


def load_model(
    name: str | None = None, weights: str | PathLike[str] | None = None, multiple: int | None = None
) -> Loaded:
    """Load a model with its weights, by default the bundled one.

    Parameters
    ----------
    name : str, optional
        Of a model; by default that of the weight file. "generic" is any network in a TorchScript or
        torch.export file, or one that the package spandrel knows.
    weights : str or path, optional
        A weight file; by default the bundled one of that name.
    multiple : int, optional
        What the sides of images for a generic network must be multiples of, if its file does not say so.

    Returns
    -------
    Loaded
        The model, for `dehaze` and `dehaze_file`.

    Raises
    ------
    UsageError
        For a name that is none.
    WeightsError
        If the weights are missing or do not fit.

    Examples
    --------
    >>> fast = dehazexl_cli.load_model("mgbl-s")
    >>> clear = [dehazexl_cli.dehaze(image, model=fast) for image in images]
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
    mask: Any = None,
    progress: Shown = None,
    **settings: Any,
) -> Any:
    """Dehaze an image, and return it as the kind of object that it was.

    What a user should know of the run is a Python warning.

    Parameters
    ----------
    image : array, masked array, tensor, PIL.Image.Image, xarray.DataArray or path
        [height, width], [height, width, bands] or [bands, height, width]; or what NumPy makes such an array
        of. A DataArray on disk or in Dask's chunks is read by windows; only the result is in memory whole.
    model : str or Loaded, optional
        A name, or what `load_model` returned, which saves loading it each time.
    options : Options, optional
        Instead of `settings`; those of files do not go with arrays.
    nodata : float, optional
        A value that is no ground; a file, a masked array and a DataArray say so themselves.
    channel_axis : int, optional
        0 or -1, where the bands are. By default the first or the last axis, whichever alone has at most 16.
    mask : array or path, optional
        A boolean array [height, width], True on ground: what is False, or 0, stays as it is and is not looked
        at. It is the opposite of the mask of a masked array. For a file it is a path, as in `Options`.
    progress : bool or callable, optional
        True shows a bar on stderr. A callable gets a fraction that never falls and ends at 1; what it raises
        ends the run.
    **settings
        The fields of `Options` by their names.

    Returns
    -------
    array, masked array, tensor, PIL.Image.Image or xarray.DataArray
        Of the input's kind, shape and type: a tensor on its device, a Pillow image with its mode and alpha, a
        DataArray with its dimensions, coordinates and attributes. Of a path and of lists, an array; of a
        path it is [height, width, bands].

    Raises
    ------
    UsageError
        For options that cannot be, or do not go with the image.
    InputError
        For what is no picture, or a file that cannot be read.
    DehazeError
        Of another kind that fits, if weights, device or memory fail.

    Examples
    --------
    >>> clear = dehazexl_cli.dehaze(hazy, strength=0.8, bands=(3, 2, 1))
    >>> clear = dehazexl_cli.dehaze(PIL.Image.open("hazy.jpg"), model="mgbl-s", progress=True)
    >>> clear = dehazexl_cli.dehaze(rioxarray.open_rasterio("hazy.tif"))
    >>> clear.rio.to_raster("clear.tif")
    """
    processors.warn_of_spinning()
    from dehazexl_cli.files import run_in_memory

    with in_words_of_python(), told(progress) as watch:
        is_file = isinstance(image, str | PathLike)
        if isinstance(mask, str | PathLike) or (is_file and mask is not None):
            settings |= {"mask": path_of(mask)}
        options = chosen(options, settings)
        options = options if nodata is None else replace(options, nodata=nodata)
        loaded, picture = ready(model), None
        if is_file:
            opened = opened_file(image, options, channel_axis)
        else:
            picture, opened = opened_array(image, options, channel_axis, mask)
        layout = "hwc" if picture is None else picture.layout
        try:
            result, report = run_in_memory(
                opened.reader, loaded.model, opened.options, layout, watch, opened.like.info
            )
        finally:
            opened.reader.close()
    for message in (*report.fallbacks, *report.warnings, *report.notes):
        warnings.warn(pythonic(message), stacklevel=2)
    return result if picture is None else picture.back(result)


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
    progress: Shown = None,
    **settings: Any,
) -> Report:
    """Dehaze a raster file into a new one; the Python form of `dehazexl run`.

    Parameters
    ----------
    source, target : str or path
        A target that is the source is refused unless the original is to be replaced `in_place`.
    model : str or Loaded, optional
        A name, or what `load_model` returned.
    options : Options, optional
        Instead of `settings`.
    overwrite : bool
        Whether a target that exists is replaced.
    resume : bool
        Whether what is done is kept until the file is complete, and a later call goes on from there.
    in_place : bool
        Whether the target is the source, and takes its place.
    haze_map : str or path, optional
        A GeoTIFF to write beside the target: how much light gets through, in per cent.
    progress : bool or callable, optional
        As for `dehaze`.
    **settings
        The fields of `Options` by their names.

    Returns
    -------
    Report
        What was done, and what a user should know of it.

    Raises
    ------
    DehazeError
        Of the kind that fits; then there is no target.

    Examples
    --------
    >>> report = dehazexl_cli.dehaze_file("hazy.tif", "clear.tif", strength=0.8, max_ram="4G")
    >>> report.seconds
    """
    processors.warn_of_spinning()
    from dehazexl_cli import files

    with in_words_of_python(), told(progress) as watch:
        config = chosen(options, settings).run_config(resume, in_place)
        wanted_map = None if haze_map is None else path_of(haze_map)
        return files.dehaze_file(
            path_of(source), path_of(target), ready(model), config, overwrite, watch, wanted_map
        )


def chosen(options: Options | None, settings: dict[str, Any]) -> Options:
    """The options, or those made of settings, or the defaults; UsageError for both or what is neither."""
    names = [field.name for field in fields(Options)]
    for word in settings.keys() - set(names):
        (near,) = get_close_matches(word, names, 1, 0)
        raise UsageError(f"there is no option {word}", f"the nearest is {near}; help(dehazexl_cli.Options)")
    if options is None:
        return Options(**settings)
    if not isinstance(options, Options):
        raise UsageError(
            f"options is a {type(options).__name__}", "pass dehazexl_cli.Options(strength=0.8) or the like"
        )
    if settings:
        word = next(iter(settings))
        raise UsageError(f"options and {word} are both given", f"put {word} into options, or leave those out")
    return options


@contextmanager
def told(progress: Shown) -> Iterator[Watch | None]:
    """Make what is told of phases a fraction for a bar or a callable; it is 1 when all has gone well."""
    if progress is None or progress is False:
        yield None
        return
    if progress is not True and not callable(progress):
        raise UsageError(f"progress={progress!r} is not possible", "give True, or a function of a fraction")
    fraction = Fraction()
    with bar() if progress is True else nullcontext(progress) as tell:
        yield lambda phase, done, total: tell(fraction.advance(phase, done, total))
        if fraction.value < 1:  # a file of classes is copied, without phases
            tell(1.0)


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


def opened_file(path: str | PathLike[str], options: Options, channel_axis: int | None) -> OpenedScene:
    """A file that is to become an array."""
    from dehazexl_cli.files import open_scene

    if channel_axis is not None:
        raise UsageError("a file says itself which its bands are", "leave out channel_axis")
    options.require_unset(FOR_STORING, "use dehaze_file to write a file")
    return open_scene(path_of(path), options.run_config())


def opened_array(
    image: Any, options: Options, channel_axis: int | None, mask: Any
) -> tuple[Picture, OpenedScene]:
    """An array, or what NumPy makes one of, and the scene that it is."""
    from dehazexl_cli.arrays import understood
    from dehazexl_cli.files import OpenedScene

    options.require_unset(("mask",), "pass the mask of an array as an array [height, width]")
    options.require_unset(FOR_FILES, "it is for files; cut arrays yourself: image[:512, :512]")
    picture = understood(image, channel_axis, options.nodata, mask)
    return picture, OpenedScene("array", picture.reader, picture.reader, options.run_config().options)
