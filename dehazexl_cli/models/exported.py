"""Networks from elsewhere: TorchScript or `torch.export` files that map an image in [0, 1] to an image.

Such a network cannot be taken apart into encode, bottleneck and decode, so it sees a tile, a smaller picture
or a whole scene in one pass. Its file may declare what it asks of an image, as JSON in an extra file named
dehazexl.json: {"name": "…", "multiple": 32}.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dehazexl_cli.errors import UsageError, WeightsError
from dehazexl_cli.grid import mirrored
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.models.checkpoint import Loaded, digest
from dehazexl_cli.models.filekind import Kind, require_kind
from dehazexl_cli.plan import Footprint

DECLARATION = "dehazexl.json"
MULTIPLE = 32  # of pixels, where a file declares nothing: most networks halve an image five times at most
ARITHMETIC_PATCH = 256  # pixels; only memory is reckoned by it
# Nobody knows what a foreign network keeps: reckoned are sixteen maps of 64 channels in float32 per pixel.
PIXEL_BYTES = 16 * 64 * 4


class ExportedModel(DehazeModel):
    """A network with nothing but `forward`; float32, sides that are multiples of `multiple`."""

    supports_streaming = False
    patch = ARITHMETIC_PATCH

    def __init__(self, net: nn.Module, multiple: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple
        self.size = size  # the only height and width the network takes, if it is bound to one
        self.tile = None if size is None else min(size)

    def forward(self, image: Tensor, seed: int | None = None) -> Tensor:
        """Dehaze images [b, 3, height, width]; mirrored to a size the network takes, and cut back.

        Raises UsageError if the image is larger than the only size it takes, WeightsError if the network
        fails or returns another shape.
        """
        height, width = image.shape[2:]
        rows, cols = self.size or (ceil_to(height, self.multiple), ceil_to(width, self.multiple))
        if rows < height or cols < width:
            raise UsageError(
                f"this network takes images of {cols} x {rows} pixels only, and here is one of "
                f"{width} x {height}",
                f"use --mode tile --tile {min(rows, cols)}",
            )
        padded = mirrored_to(image, rows, cols)
        try:
            output = self.net(padded)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            raise self._refusal(rows, cols, str(error).strip().splitlines()[-1]) from error
        if not isinstance(output, Tensor) or output.shape != padded.shape:
            said = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise self._refusal(rows, cols, f"it returned {said}")
        return output[..., :height, :width].float()

    def footprint(self, dtype: torch.dtype) -> Footprint:
        weights = sum(p.numel() * p.element_size() for p in self.parameters())
        return Footprint(weights, 0, ARITHMETIC_PATCH**2 * PIXEL_BYTES, 0, 0)

    def _refusal(self, rows: int, cols: int, said: str) -> WeightsError:
        return WeightsError(
            f"the network cannot take an image of {cols} x {rows} pixels as [1, 3, height, width] ({said})",
            "declare the multiple its sides must be with --multiple N, or export it for images of any size",
        )


def load_exported(path: Path, multiple: int | None = None) -> Loaded:
    """A network and what its file declares; `multiple` stands before the file's.

    Raises WeightsError if the file is missing or holds no such network. Like every file of code, it is to
    come from somebody trusted.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file", "check --weights")
    kind = require_kind(path, Kind.exported, Kind.script, purpose="holds no network that can run")
    net, declared, size = open_exported(path) if kind is Kind.exported else open_script(path)
    model = ExportedModel(net, multiple or require_multiple(path, declared), size)
    return Loaded(model, str(declared.get("name", path.stem)), digest(path), declared)


def open_script(path: Path) -> tuple[nn.Module, dict[str, Any], None]:
    """A TorchScript file; WeightsError if it is none."""
    extra = {DECLARATION: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which a user cannot help
            net = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{path}: holds no network that can run ({str(error).strip().splitlines()[0]})",
            "download or export it again",
        ) from error
    return net.eval(), parsed(path, extra[DECLARATION]), None


def open_exported(path: Path) -> tuple[nn.Module, dict[str, Any], tuple[int, int] | None]:
    """A `torch.export` file and the only size it takes, if it is bound to one; WeightsError if it is none."""
    extra = {DECLARATION: ""}
    try:
        with path.open("rb") as file:  # by its name torch would ask for a suffix
            program = torch.export.load(file, extra_files=extra)
    except Exception as error:  # of many kinds, as the file is of another version of torch, or damaged
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{path}: holds no network that can run ({said})",
            f"export it again, with torch {torch.__version__}",
        ) from error
    shape = next(
        node.meta["val"].shape
        for node in program.graph.nodes
        if node.name in program.graph_signature.user_inputs
    )
    bound = all(isinstance(size, int) for size in shape[2:])
    return program.module(), parsed(path, extra[DECLARATION]), tuple(shape[2:]) if bound else None


def parsed(path: Path, text: str | bytes) -> dict[str, Any]:
    """The declaration, {} if there is none; WeightsError if it is no JSON object."""
    if not text:
        return {}
    try:
        declared = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: its {DECLARATION} is no JSON ({error})", "export it again") from error
    if not isinstance(declared, dict):
        raise WeightsError(f"{path}: its {DECLARATION} is no JSON object", "export it again")
    return declared


def require_multiple(path: Path, declared: dict[str, Any]) -> int:
    """The multiple a file declares, or the usual one."""
    multiple = declared.get("multiple", MULTIPLE)
    if not isinstance(multiple, int) or multiple < 1:
        raise WeightsError(
            f"{path}: declares sides that are multiples of {multiple!r}", "give a positive --multiple"
        )
    return multiple


def ceil_to(size: int, multiple: int) -> int:
    """The next multiple that is no smaller."""
    return -(-size // multiple) * multiple


def mirrored_to(image: Tensor, height: int, width: int) -> Tensor:
    """The image with mirrored rows and columns added below and to the right."""
    rows = mirrored(0, height, image.shape[2])
    cols = mirrored(0, width, image.shape[3])
    return image[:, :, rows][:, :, :, cols]
