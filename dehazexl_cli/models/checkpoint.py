"""Weight files: our safetensors, which say what they are, the published `.pth` files, which do not, and the
checkpoints of our trainer.

Keys and shapes of foreign files are recognised and renamed here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dehazexl_cli.atomic import replacing
from dehazexl_cli.errors import DehazeError, DeviceError, OutputError, WeightsError
from dehazexl_cli.models import REGISTRY, Preset, find
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.models.dehazexl import DehazeXLConfig
from dehazexl_cli.models.filekind import AGAIN, SAVE_NUMBERS, Kind, require_kind

FORMAT = "dehazexl/1"
TRAINING_FORMAT = "dehazexl training checkpoint"
NUMBERS_AT_ONCE = 1 << 23  # read of a file before it is closed and opened anew
State = dict[str, Tensor]
T = TypeVar("T")

# Published name -> ours, in this order.
RENAMES = [
    (r"^module\.", ""),
    (r"^encoder\.model\.patch_embed\.proj\.", "encoder.stem."),
    (r"^encoder\.model\.patch_embed\.norm\.", "encoder.norm."),
    (r"^encoder\.model\.layers_(\d)\.blocks\.", r"encoder.stages.\1."),
    (r"^encoder\.model\.layers_1\.downsample\.", "encoder.merges.0."),
    (r"^encoder\.model\.layers_2\.downsample\.", "encoder.merges.1."),
    (r"^encoder\.model\.layers_3\.downsample\.", "encoder.merges.2."),
    (r"^bottleneck\.(layers\.\d)\.(?:attn|mlp)\.", r"mixer.\1."),
    (r"^bottleneck\.(input_proj|layers)\.", r"mixer.\1."),
    (r"^decoder\.layers_up\.3\.upsample\.", "decoder.ending.first."),
    (r"^decoder\.layers_up\.(\d)\.", r"decoder.stages.\1."),
    (r"^decoder\.up_x2\.", "decoder.ending.up."),
    (r"^decoder\.output\.", "decoder.ending.output."),
    (r"^u_net\.", "grid_net."),
    (r"^u_net_mini\.", "colour_net."),
    (r"_net\.inc\.double_conv\.", "_net.down.0."),
    (r"_net\.down(\d)\.maxpool_conv\.1\.double_conv\.", r"_net.down.\1."),
    (r"_net\.up1\.conv\.double_conv\.", "_net.up.0."),
    (r"_net\.up2\.conv\.double_conv\.", "_net.up.1."),
    (r"_net\.up3\.conv\.double_conv\.", "_net.up.2."),
    (r"_net\.up4\.conv\.double_conv\.", "_net.up.3."),
    (r"_net\.pre\.", "_net.last."),
    (r"^guide_([rgb])\.conv1\.", r"guides.\1.first."),
    (r"^guide_([rgb])\.conv2\.", r"guides.\1.second."),
    (r"^guide_([rgb])\.conv3\.conv\.", r"guides.\1.last."),
    (r"^(guides\.[rgb]\.\w+)\.conv\.", r"\1.0."),
    (r"^(guides\.[rgb]\.\w+)\.bn\.", r"\1.1."),
    (r"^(guides\.[rgb]\.\w+)\.activation\.", r"\1.2."),
    (r"^([rgb])_point\.", r"tints.\1."),
    (r"^fusion\.", "fuse."),
    (r"^x_r_fusion\.", "gain."),
    (r"^p\.", "bend."),
]
# What we compute ourselves, what only counts, and a slope the published bilateral network never uses.
DROPPED = re.compile(
    r"(attn_mask|relative_position_index|relative_coords_table|num_batches_tracked|^smooth\.weight)$"
)
# A tensor that tells a published network from the others.
MARKS = {"dehazexl-paper": "mixer.input_proj.weight", "mgbl-paper": "grid_net.last.weight"}

UNDERSTOOD = (
    "both published revisions of DehazeXL, the published bilateral network, and files written by "
    "dehazexl are understood"
)
TRAINING_KEYS = {"name", "step", "average"}  # that only a trainer's checkpoint has together
SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Loaded:
    """A model ready to run and what its file says of it."""

    model: DehazeModel
    name: str
    sha256: str
    about: dict[str, Any]  # training set, licence, metrics: whatever the header holds


class UnknownNetwork(WeightsError):
    """A file of weights is of none of the networks here."""


class Outline(NamedTuple):
    """A tensor of a file without its numbers."""

    shape: tuple[int, ...]
    dtype: str


def save(path: Path, model: DehazeModel, name: str, about: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write weights with config and provenance in the header; OutputError, and no file, if that fails."""
    state = {key: value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()}
    config = dataclasses.asdict(model.config)  # type: ignore[call-overload]
    header = {
        "format": FORMAT,
        "model": name,
        "config": json.dumps(config),
        "about": json.dumps(dict(about)),
    }
    try:
        with replacing(path) as part:
            save_file(state, part, metadata=header)
            part.chmod(0o644)  # safetensors makes it readable by its owner alone
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path}: cannot be written ({error})", "free some space or choose another folder"
        ) from error


def load(path: Path, name: str | None = None) -> Loaded:
    """Read a weight file of ours or a published one; float32 weights, evaluation mode.

    `name` is the model asked for, if any. Raises WeightsError if the file is missing, damaged, of another
    model, or does not fit its network.
    """
    if name is not None:
        find(name)
    header, outlines = read_outlines(path)
    preset, named, about = identified(path, header, outlines.keys(), name)
    if name is not None and name != named:
        raise WeightsError(f"{path} holds weights of {named}, not of {name}", f"run it with --model {named}")
    model = preset.network(preset.config)
    require_fit(model, {key: value.shape for key, value in outlines.items()}, path)
    for part in read_parts(path):
        model.load_state_dict(part, strict=False)
    return Loaded(model.eval(), named, digest(path), about)


def load_bundled(name: str) -> Loaded:
    """The named model with the weights that come with the package.

    Raises UsageError for a name that is none, WeightsError if there are no such weights.
    """
    return load(bundled(name), name)


def bundled(name: str) -> Path:
    """The weight file that comes with the package; WeightsError if this model has none."""
    find(name)
    for folder in weight_folders():
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    raise WeightsError(f"no weights of {name} come with dehazexl", "name a file with --weights")


def all_bundled() -> dict[str, Path]:
    """The weight files that come with the package, by model."""
    found: dict[str, Path] = {}
    for name in REGISTRY:
        with suppress(WeightsError):
            found[name] = bundled(name)
    return found


def expected_digest(path: Path) -> str | None:
    """The SHA-256 that a bundled file had when it was bundled; None if it is not listed beside it."""
    listed_beside = path.with_name("SHA256SUMS")
    if not listed_beside.is_file():
        return None
    lines = (line.split() for line in listed_beside.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in lines}.get(path.name)


def weight_folders() -> tuple[Path, Path]:
    """Where bundled weights may lie: in a wheel inside the package, in a source tree beside it."""
    package = Path(__file__).resolve().parents[1]
    return package / "weights", package.parent / "weights"


def read_state(path: Path) -> tuple[dict[str, str], State]:
    """Header and tensors of a `.safetensors` or `.pth` file, under our key names, in float32."""
    header, _ = read_outlines(path)
    return header, {key: value for part in read_parts(path) for key, value in part.items()}


def read_parts(path: Path) -> Iterator[State]:
    """The tensors of `read_state` in parts, so that a file and a network are not in memory side by side.

    A safetensors file is mapped, and what of it was read counts until it is closed: so it is opened anew for
    each part.
    """
    if path.suffix != ".safetensors":
        yield in_float32(read_pickle(path)[1])
        return
    with reading(path), safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        sizes = {name: math.prod(part.get_shape()) for name, part in slices.items()}
        types = {part.get_dtype() for part in slices.values()}
    # For torch a file is mapped such that all of it counts against a limit on a process's data. For numpy it
    # is not, but numpy has no bfloat16.
    framework = "pt" if "BF16" in types else "np"
    names: list[str] = []
    for name in sizes:
        names.append(name)
        if sum(sizes[each] for each in names) > NUMBERS_AT_ONCE:
            yield read_some(path, framework, names)
            names = []
    yield read_some(path, framework, names)


def read_some(path: Path, framework: str, names: list[str]) -> State:
    """Some tensors of a safetensors file, copied, so that nothing of it stays mapped."""
    with reading(path), safe_open(path, framework=framework) as file:
        return in_float32({name: torch.as_tensor(file.get_tensor(name)).clone() for name in names})


def in_float32(state: State) -> State:
    """The tensors that a network of ours has, under our names."""
    return {key: value.float() for key, value in renamed(state).items()}


def read_outlines(path: Path) -> tuple[dict[str, str], dict[str, Outline]]:
    """As `read_state`, but of a safetensors file without its numbers."""
    if path.suffix == ".safetensors":
        with reading(path), safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            header = file.metadata() or {}
            outlines = {name: outline(s.get_shape(), s.get_dtype()) for name, s in slices.items()}
    else:
        header, state = read_pickle(path)
        outlines = {name: outline(value.shape, str(value.dtype)) for name, value in state.items()}
    return header, renamed(outlines)


def outline(shape: Collection[int], dtype: str) -> Outline:
    """A tensor's outline, its type by torch's name."""
    return Outline(tuple(shape), SAFETENSORS_TYPES.get(dtype, dtype.removeprefix("torch.")))


def read_pickle(path: Path) -> tuple[dict[str, str], State]:
    """Header and tensors of a `.pth` file under its own key names; only a trainer's has a header."""
    with reading(path):
        require_kind(path, Kind.pickled, purpose="is no readable weight file")
        content = torch.load(path, map_location="cpu", weights_only=True)
    header: dict[str, str] = {}
    if isinstance(content, dict) and content.keys() >= TRAINING_KEYS:
        header, content = trained(path, content), content["average"]
    for key in ("state_dict", "model", "params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no table of weights", "pass a state dict saved by torch.save")
    return header, content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every library's way to say that a file cannot be read into WeightsError.

    Where it was for lack of memory, into DeviceError.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weight file {path}", "check the spelling and the folder")
    try:
        yield
    except pickle.UnpicklingError as error:  # torch advises to run what is in it
        raise WeightsError(
            f"{path} holds objects of Python, which are code and are not loaded", SAVE_NUMBERS
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allocate memory" in reason:
            raise DeviceError(
                f"there is no memory for the weights in {path}",
                "close other programs, raise the limit that is set on this one, or use a smaller model",
            ) from error
        if isinstance(error, SafetensorError):  # of a web page, say, which its name hides
            require_kind(path, Kind.safetensors, Kind.pickled, Kind.unknown, purpose="is no weight file")
        raise WeightsError(f"{path} is no readable weight file: {reason}", AGAIN) from error


def renamed(state: Mapping[str, T]) -> dict[str, T]:
    """The entries under our names, without those that no network of ours has."""
    result: dict[str, T] = {}
    for key, value in state.items():
        ours = key
        for pattern, name in RENAMES:
            ours = re.sub(pattern, name, ours)
        if not DROPPED.search(ours):
            result[ours] = value
    return result


def identified(
    path: Path, header: Mapping[str, str], keys: Collection[str], name: str | None
) -> tuple[Preset, str, dict[str, Any]]:
    """Network, name and provenance: from the header if it is ours, else from the tensors' names."""
    if "format" in header and header["format"] in (FORMAT, TRAINING_FORMAT):
        return described(path, header)
    return recognised(path, keys, name)


def trained(path: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """The header that the weights of a trainer's checkpoint would have in a file of ours."""
    name = str(content["name"])
    if name not in REGISTRY:
        raise WeightsError(
            f"{path} is of a training whose model is not known here", "use the version that trained it"
        )
    about = {
        "source": path.name,
        "steps": content["step"],
        "seconds": round(content.get("seconds", 0)),
        "settings": str(content.get("config", "")),
    }
    return {
        "format": TRAINING_FORMAT,
        "model": name,
        "config": json.dumps(dataclasses.asdict(find(name).config)),
        "about": json.dumps(about),
    }


def described(path: Path, header: Mapping[str, str]) -> tuple[Preset, str, dict[str, Any]]:
    """Network, name and provenance as our own header tells them."""
    try:
        preset = find(header["model"])
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()
        }
        config = type(preset.config)(**values)
        return Preset(preset.network, config), header["model"], json.loads(header["about"])
    except (KeyError, TypeError, ValueError, DehazeError) as error:
        raise WeightsError(
            f"{path} has a header this version cannot read: {error}",
            "update dehazexl, or convert the file again",
        ) from error


def recognised(path: Path, keys: Collection[str], name: str | None) -> tuple[Preset, str, dict[str, Any]]:
    """Which of our networks a file without our header belongs to, from its tensors' names alone."""
    published = next((model for model, mark in MARKS.items() if mark in keys), name)
    if published is None:
        raise UnknownNetwork(f"the weights in {path} do not fit any network here", UNDERSTOOD)
    named = name if name is not None and find(name).network is find(published).network else published
    network, config = find(named)
    about = {"source": path.name}
    if isinstance(config, DehazeXLConfig):
        if "decoder.ending.up.norm.weight" in keys:
            config = dataclasses.replace(config, upsample="linear")
        about["revision"] = config.upsample
    return Preset(network, config), named, about


def require_fit(model: DehazeModel, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raises WeightsError, with words for what does not fit, unless every name and shape is the model's."""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = sorted(own.keys() - shapes.keys())
    unexpected = sorted(shapes.keys() - own.keys())
    other = [
        f"{key} is {shapes[key]}, not {own[key]}"
        for key in sorted(own.keys() & shapes.keys())
        if own[key] != shapes[key]
    ]
    faults = [
        f"{len(found)} {what}: {listed(found)}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", other))
        if found
    ]
    if faults:
        raise WeightsError(f"the weights in {path} do not fit; {'; '.join(faults)}", UNDERSTOOD)


def listed(found: Sequence[str]) -> str:
    """The first few, for a message."""
    return f"{', '.join(found[:4])}{' …' if len(found) > 4 else ''}"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
