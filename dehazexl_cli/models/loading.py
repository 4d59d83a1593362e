"""A model with its weights by name, by file, or both."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from dehazexl_cli.errors import UsageError, WeightsError
from dehazexl_cli.models.checkpoint import Loaded, UnknownNetwork, load, load_bundled
from dehazexl_cli.models.exported import load_exported
from dehazexl_cli.models.filekind import Kind, kind_of
from dehazexl_cli.models.spandrel_networks import load_spandrel

DEFAULT_MODEL = "dehazexl-s"
GENERIC = "generic"


def load_model(
    name: str | None = None, weights: str | PathLike[str] | None = None, multiple: int | None = None
) -> Loaded:
    """Load a model; see `dehazexl_cli.load_model`, which puts what is refused into Python's words."""
    if name == GENERIC:
        if weights is None:
            raise WeightsError("no generic network comes with dehazexl", "name its file with --weights")
        path = Path(weights)
        if path.is_file() and kind_of(path) in (Kind.pickled, Kind.safetensors):
            return load_spandrel(path, multiple)
        return load_exported(path, multiple)
    if multiple is not None:
        raise UsageError("--multiple is for foreign networks only", "add --model generic, or leave it out")
    if weights is not None:
        try:
            return load(Path(weights), name)
        except UnknownNetwork:
            return load_spandrel(Path(weights))
    return load_bundled(name or DEFAULT_MODEL)
