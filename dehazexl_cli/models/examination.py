"""What can be said of weights before they are used: what a file holds, and whether a model works with it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dehazexl_cli.errors import CheckError, UsageError
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.models.checkpoint import Loaded, digest, identified, listed, read_outlines, require_fit


@dataclass(frozen=True)
class Description:
    """What a file says of its weights."""

    model: str
    format: str  # FORMAT or TRAINING_FORMAT of checkpoint.py, or "published"
    config: dict[str, Any]
    about: dict[str, Any]
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    size_bytes: int
    sha256: str


def describe(path: Path) -> Description:
    """What a weight file holds; of a safetensors file only the header is read.

    Raises WeightsError as `load` does.
    """
    header, outlines = read_outlines(path)
    preset, named, about = identified(path, header, outlines.keys(), None)
    with torch.device("meta"):  # a network without numbers
        model = preset.network(preset.config)
    require_fit(model, {key: outline.shape for key, outline in outlines.items()}, path)
    return Description(
        model=named,
        format=header.get("format", "published"),
        config=dataclasses.asdict(preset.config),
        about=about,
        tensors=len(outlines),
        parameters=sum(math.prod(outline.shape) for outline in outlines.values()),
        dtypes=tuple(sorted({outline.dtype for outline in outlines.values()})),
        size_bytes=path.stat().st_size,
        sha256=digest(path),
    )


def try_out(loaded: Loaded) -> None:
    """Run a model once on a fixed image; CheckError if a weight or a pixel of the result is not finite."""
    broken = [key for key, value in loaded.model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise CheckError(
            f"{len(broken)} tensors of {loaded.name} hold numbers that are not finite: {listed(broken)}",
            "download or convert the file again, or go back to an earlier one",
        )
    side = loaded.model.patch
    # Two patches, so that the bottleneck has something to do; every level of grey in every colour.
    ramp = torch.linspace(0, 1, 2 * side).repeat(side, 1)
    with torch.inference_mode():
        result = loaded.model(torch.stack([ramp, ramp.flip(1), 1 - ramp / 2])[None])
    if not result.isfinite().all():
        raise CheckError(
            f"{loaded.name} makes pixels that are not finite with these weights",
            "its training went astray; go back to an earlier file",
        )


def require_representable(model: DehazeModel, dtype: torch.dtype) -> None:
    """Raises UsageError if a weight is too large for the type, as it would become infinite."""
    largest = torch.finfo(dtype).max
    over = [key for key, value in model.state_dict().items() if (value.abs() > largest).any()]
    if over:
        raise UsageError(
            f"{len(over)} tensors have weights beyond {largest:g}, the end of {dtype}: {listed(over)}",
            "keep them in single precision: --dtype fp32",
        )
