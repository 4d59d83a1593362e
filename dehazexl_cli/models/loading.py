"""A model with its weights by name, by file, or both."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from dehazexl_cli.errors import UsageError, WeightsError
from dehazexl_cli.models.checkpoint import Loaded, load, load_bundled
from dehazexl_cli.models.exported import load_exported

DEFAULT_MODEL = "dehazexl-s"
GENERIC = "generic"


def load_model(
    name: str | None = None, weights: str | PathLike[str] | None = None, multiple: int | None = None
) -> Loaded:
    """Load a model; see `dehazexl_cli.load_model`, which puts what is refused into Python's words."""
    if name == GENERIC:
        if weights is None:
            raise WeightsError("no generic network comes with dehazexl", "name its file with --weights")
        return load_exported(Path(weights), multiple)
    if multiple is not None:
        raise UsageError("--multiple is for foreign networks only", "add --model generic, or leave it out")
    if weights is not None:
        return load(Path(weights), name)
    return load_bundled(name or DEFAULT_MODEL)
