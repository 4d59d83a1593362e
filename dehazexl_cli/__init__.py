"""Remove haze from aerial and satellite images of any size.

>>> import dehazexl_cli
>>> clear = dehazexl_cli.dehaze(hazy)                      # an array [height, width, 3], or a path
>>> report = dehazexl_cli.dehaze_file("in.tif", "out.tif")  # any size, from disk to disk
"""

from __future__ import annotations

import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehazexl_cli.errors import UsageError, WeightsError

if TYPE_CHECKING:
    import numpy as np

    from dehazexl_cli.engine import Options
    from dehazexl_cli.models.checkpoint import Loaded
    from dehazexl_cli.raster.formats import Storage
    from dehazexl_cli.raster.selection import Selection
    from dehazexl_cli.report import Report

__version__ = "0.1.0"
DEFAULT_MODEL = "dehazexl-s"
GENERIC = "generic"


def load_model(
    name: str | None = None, weights: str | PathLike[str] | None = None, multiple: int | None = None
) -> Loaded:
    """A model with weights: by default the bundled one, else the one that the weight file holds.

    The name "generic" stands for any network in a TorchScript or torch.export file; `multiple` is what the
    sides of its images must be multiples of, if its file does not say so. A bundled model may bring a
    companion along; one from a file has none.

    Raises UsageError for a name that is none, WeightsError if the weights are missing or do not fit.
    """
    from dehazexl_cli.models.checkpoint import load, load_bundled
    from dehazexl_cli.models.foreign import load_foreign

    if name == GENERIC:
        if weights is None:
            raise WeightsError("no generic network comes with dehazexl", "name its file with --weights")
        return load_foreign(Path(weights), multiple)
    if multiple is not None:
        raise UsageError("--multiple is for foreign networks only", "add --model generic, or leave it out")
    if weights is not None:
        return load(Path(weights), name)
    return load_bundled(name or DEFAULT_MODEL)


def dehaze(
    image: np.ndarray[Any, Any] | str | PathLike[str],
    *,
    model: Loaded | None = None,
    options: Options | None = None,
    nodata: float | None = None,
) -> np.ndarray[Any, Any]:
    """Dehaze an array [height, width] or [height, width, bands], or an image file; returns an array.

    The result has the input's shape and dtype (a file's is [height, width, bands]). `nodata` marks array
    values that are no ground; a file says so itself. Raises the DehazeError that fits.
    """
    from dehazexl_cli.engine import Options, run
    from dehazexl_cli.raster import open_reader
    from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

    path = isinstance(image, str | PathLike)
    reader = open_reader(image) if path else ArrayReader(image, nodata=nodata)  # type: ignore[arg-type]
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info, "hwc" if path or image.ndim == 3 else "hw"))  # type: ignore[union-attr]
        return writers[-1]

    try:
        run(reader, make_writer, (model or load_model()).model, options or Options())
    finally:
        reader.close()
    return writers[-1].array


def dehaze_file(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    model: Loaded | None = None,
    options: Options | None = None,
    selection: Selection | None = None,
    storage: Storage | None = None,
    provenance: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    in_place: bool = False,
    watch: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Dehaze a raster file into a new one; the Python form of `dehazexl run`.

    `selection` tells which pixels are ground and which part is wanted, `storage` format, creation options and
    overviews; with `provenance` a GeoTIFF says what it was made with. With `resume`, what is done is kept
    until the file is complete, and a later call goes on from there. A target that is the source is refused
    unless the original is to be replaced `in_place`. `watch` is told (phase, patches done, patches in all).
    Raises the DehazeError that fits.
    """
    from dehazexl_cli.engine import Options
    from dehazexl_cli.files import Recipe, compute, finished, open_scene
    from dehazexl_cli.raster.formats import Storage
    from dehazexl_cli.raster.selection import Selection

    recipe = Recipe(
        options or Options(), selection or Selection(), storage or Storage(), provenance, resume, in_place
    )
    opened = open_scene(os.fspath(source), recipe)
    try:
        computed = compute(opened, os.fspath(target), model or load_model(), recipe, overwrite, watch)
    finally:
        opened.reader.close()
    return finished(computed)
