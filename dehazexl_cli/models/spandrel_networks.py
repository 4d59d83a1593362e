"""Networks of other projects whose weights the package spandrel recognises, such as NAFNet or MixDehazeNet.

A file holds numbers alone here: it is read as such, and the code is that of spandrel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dehazexl_cli.errors import WeightsError
from dehazexl_cli.models.checkpoint import Loaded, digest, read_pickle, reading
from dehazexl_cli.models.exported import ExportedModel
from dehazexl_cli.models.filekind import EXPORT

INSTALL = "install spandrel, which knows networks of other projects: pip install 'dehazexl[spandrel]'"


class SpandrelNetwork(nn.Module):
    """A network of spandrel, which mirrors each image to the size that it takes; float32."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.net = descriptor.model.float()
        self._descriptor = descriptor

    def forward(self, images: Tensor) -> Tensor:
        """Run images [b, 3, height, width] one by one, as not every network there takes several."""
        return torch.cat([self._descriptor(image) for image in images.split(1)])


def load_spandrel(path: Path, multiple: int | None = None) -> Loaded:
    """A network that spandrel recognises; `multiple` stands before what it asks of the sides of images.

    Raises WeightsError if spandrel is not installed, or the network is unknown, damaged, or makes no image
    of the same size and three bands.
    """
    if path.suffix == ".safetensors":
        with reading(path):
            state = load_file(path)
    else:
        _, state = read_pickle(path)
    try:
        import spandrel
    except ModuleNotFoundError as error:
        raise WeightsError(f"{path} holds weights of no network that is known here", INSTALL) from error
    except Exception as error:  # torchvision, which it needs, says RuntimeError where it does not fit torch
        raise WeightsError(
            f"{path} needs spandrel, which cannot be loaded ({one_line(error)})",
            "have torch and torchvision from one index, of versions that go together",
        ) from error
    try:
        descriptor: Any = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except spandrel.UnsupportedModelError as error:
        raise WeightsError(
            f"{path} holds weights of no network that dehazexl or spandrel knows", EXPORT
        ) from error
    except Exception as error:  # of many kinds, as numbers are missing or of another shape
        raise WeightsError(
            f"{path}: spandrel cannot make a network of it ({one_line(error)})", EXPORT
        ) from error
    named = descriptor.architecture.name
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise WeightsError(f"{path}: {named} asks for a mask beside the image", "use one that dehazes")
    if descriptor.scale != 1:
        raise WeightsError(
            f"{path}: this {named} makes images {descriptor.scale} times as large", "use one of scale 1"
        )
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise WeightsError(
            f"{path}: this {named} makes {descriptor.output_channels} bands of {descriptor.input_channels}",
            "use one from three bands to three",
        )
    sides = multiple or descriptor.size_requirements.multiple_of
    model = ExportedModel(SpandrelNetwork(descriptor), sides).eval()
    return Loaded(model, path.stem, digest(path), {"architecture": named, "multiple": sides})


def one_line(error: Exception) -> str:
    """What an error says, in a line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
