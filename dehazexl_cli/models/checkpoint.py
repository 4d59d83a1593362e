"""Weight files: our safetensors, which say what they are, and the published `.pth` files, which do not.

Keys and shapes of foreign files are recognised and renamed here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dehazexl_cli.errors import DehazeError, WeightsError
from dehazexl_cli.models import Preset, find
from dehazexl_cli.models.base import Dehazer
from dehazexl_cli.models.dehazexl import XLConfig

FORMAT = "dehazexl/1"
State = dict[str, Tensor]

# Published name -> ours, in this order. Buffers that we compute ourselves are dropped.
RENAMES = [
    (r"^module\.", ""),
    (r"^encoder\.model\.patch_embed\.proj\.", "encoder.stem."),
    (r"^encoder\.model\.patch_embed\.norm\.", "encoder.norm."),
    (r"^encoder\.model\.layers_(\d)\.blocks\.", r"encoder.stages.\1."),
    (r"^encoder\.model\.layers_1\.downsample\.", "encoder.merges.0."),
    (r"^encoder\.model\.layers_2\.downsample\.", "encoder.merges.1."),
    (r"^encoder\.model\.layers_3\.downsample\.", "encoder.merges.2."),
    (r"^bottleneck\.(layers\.\d)\.(?:attn|mlp)\.", r"mixer.\1."),
    (r"^bottleneck\.", "mixer."),
    (r"^decoder\.layers_up\.(\d)\.", r"decoder.stages.\1."),
    (r"^decoder\.up_x2\.", "decoder.ending.up."),
    (r"^decoder\.output\.", "decoder.ending.output."),
]
COMPUTED = re.compile(r"(attn_mask|relative_position_index|relative_coords_table)$")


@dataclass(frozen=True)
class Loaded:
    """A model ready to run and what its file says of it."""

    model: Dehazer
    name: str
    sha256: str
    about: dict[str, Any]  # training set, licence, metrics: whatever the header holds


def save(path: Path, model: Dehazer, name: str, about: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write weights with config and provenance in the header."""
    state = {key: value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()}
    config = dataclasses.asdict(model.config)  # type: ignore[call-overload]
    header = {
        "format": FORMAT,
        "model": name,
        "config": json.dumps(config),
        "about": json.dumps(dict(about)),
    }
    temporary = path.with_name(f".{path.name}.part")
    save_file(state, temporary, metadata=header)
    temporary.replace(path)


def load(path: Path, name: str | None = None) -> Loaded:
    """Read a weight file of ours or a published one; float32 weights, evaluation mode.

    `name` is the model asked for, if any. Raises WeightsError if the file is missing, damaged, of another
    model, or does not fit its network.
    """
    if name is not None:
        find(name)
    if not path.is_file():
        raise WeightsError(f"there is no weight file {path}", "check --weights, or leave it out")
    header, state = read_state(path)
    if header.get("format") == FORMAT:
        preset, named, about = described(path, header)
    else:
        preset, named, about = recognised(path, state, name)
    if name is not None and name != named:
        raise WeightsError(f"{path} holds weights of {named}, not of {name}", f"run it with --model {named}")
    model = preset.network(preset.config)
    load_exactly(model, state, path)
    return Loaded(model.eval(), named, hashlib.sha256(path.read_bytes()).hexdigest(), about)


def bundled(name: str) -> Path:
    """The weight file that comes with the package; WeightsError if this model has none."""
    find(name)
    package = Path(__file__).resolve().parents[1]
    # In a wheel the weights lie inside the package, in a source tree beside it.
    for folder in (package / "weights", package.parent / "weights"):
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    raise WeightsError(f"no weights of {name} come with dehazexl", "name a file with --weights")


def read_state(path: Path) -> tuple[dict[str, str], State]:
    """Header and tensors of a `.safetensors` or `.pth` file, under our key names."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                return file.metadata() or {}, renamed({name: file.get_tensor(name) for name in names})
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is no readable weight file: {reason}", "download or copy it again"
        ) from error
    for key in ("state_dict", "model", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no table of weights", "pass a state dict saved by torch.save")
    return {}, renamed(content)


def renamed(state: Mapping[str, Tensor]) -> State:
    """The state under our names; what we compute ourselves is left out."""
    result: State = {}
    for key, value in state.items():
        ours = key
        for pattern, name in RENAMES:
            ours = re.sub(pattern, name, ours)
        if not COMPUTED.search(ours):
            result[ours] = value.float()
    return result


def described(path: Path, header: Mapping[str, str]) -> tuple[Preset, str, dict[str, Any]]:
    """Network, name and provenance as our own header tells them."""
    try:
        preset = find(header["model"])
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()
        }
        return (
            Preset(preset.network, type(preset.config)(**values)),
            header["model"],
            json.loads(header["about"]),
        )
    except (KeyError, TypeError, ValueError, DehazeError) as error:
        raise WeightsError(
            f"{path} has a header this version cannot read: {error}",
            "update dehazexl, or convert the file again",
        ) from error


def recognised(path: Path, state: State, name: str | None) -> tuple[Preset, str, dict[str, Any]]:
    """Which of our networks a file without our header belongs to, from its keys alone."""
    named = name or "dehazexl-paper"
    preset = find(named)
    config: XLConfig = preset.config
    if "decoder.ending.up.norm.weight" in state:
        config = dataclasses.replace(config, upsample="linear")
    return Preset(preset.network, config), named, {"source": path.name, "revision": config.upsample}


def load_exactly(model: Dehazer, state: State, path: Path) -> None:
    """Load the state if every key and shape fits; else say in words what does not."""
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    faults = [
        f"{len(found)} {what}: {', '.join(found[:4])}{' …' if len(found) > 4 else ''}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if found
    ]
    if faults:
        raise WeightsError(
            f"the weights in {path} do not fit; {'; '.join(faults)}",
            "both published revisions of DehazeXL and files written by dehazexl are understood",
        )
    model.load_state_dict(state)
