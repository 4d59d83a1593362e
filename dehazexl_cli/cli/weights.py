"""`dehazexl weights list|show|verify|convert`: what weight files hold, and ours made from others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import InputError, OutputError, WeightsError
from dehazexl_cli.paths import require_writable
from dehazexl_cli.text import decoded, to_json

if TYPE_CHECKING:
    from dehazexl_cli.models.examination import Description

weights = typer.Typer(help="List, show, verify and convert weight files.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="A weight file, or a bundled model.")]
SUFFIX = ".safetensors"


class Stored(StrEnum):
    """How numbers are stored."""

    fp16 = "fp16"
    fp32 = "fp32"


@weights.command("list")
def list_weights(as_json: options.Json = False) -> None:
    """Print the weights that come with dehazexl: name, size, SHA-256, file.

    Example: dehazexl weights list
    """
    from dehazexl_cli.models.checkpoint import all_bundled, digest

    rows: list[dict[str, Any]] = [
        {"name": name, "size_bytes": path.stat().st_size, "sha256": digest(path), "path": str(path)}
        for name, path in all_bundled().items()
    ]
    if as_json:
        output.put(to_json(rows, 2))
        return
    for row in rows:
        output.put(f"{row['name']:14}  {size(row['size_bytes']):>8}  {row['sha256']}  {row['path']}")
    if not rows:
        output.say("no weights come with this installation; name a file with --weights when you run")


@weights.command()
def show(which: Which, as_json: options.Json = False) -> None:
    """Print what a weight file says of itself: model, configuration, training, licence, metrics.

    Example: dehazexl weights show dehazexl-s
    """
    from dehazexl_cli.models.examination import describe

    path = find_file(which)
    description = describe(path)
    if as_json:
        output.put(to_json({"path": str(path)} | dataclasses.asdict(description), 2))
    else:
        output.put("\n".join(sentences(path, description)))


@weights.command()
@shares("model")
def verify(which: Which, *, shared: Shared) -> None:
    """Load weights and dehaze a small image with them; exit code 8 if anything is not a finite number.

    Example: dehazexl weights verify weights.pth
    """
    from dehazexl_cli.models.checkpoint import load
    from dehazexl_cli.models.examination import try_out

    path = find_file(which)
    loaded = load(path, shared.model)
    try_out(loaded)
    output.put(f"OK {path}: {loaded.name}, sha256 {loaded.sha256}")


@weights.command()
@shares("model")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A .pth or .safetensors file, or a trainer's checkpoint.pth.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new file; .safetensors.")],
    *,
    shared: Shared,
    dtype: Annotated[Stored, typer.Option("--dtype", help="How numbers are stored.")] = Stored.fp16,
    about: Annotated[
        Path | None,
        typer.Option("--about", metavar="FILE", help="JSON on training set, licence, metrics to put inside."),
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Write published or trained weights as a file that says what it is.

    Understood are .pth files of both published revisions of DehazeXL and of the published bilateral
    network, and checkpoints of `dehazexl train`, of which the averaged weights are taken.

    Example: dehazexl weights convert DehazeXL.pth dehazexl-paper.safetensors --about card.json
    """
    if target.suffix != SUFFIX:
        raise OutputError(f"{target}: is no {SUFFIX} file", f"call it {target.with_suffix(SUFFIX)}")
    require_writable(target, overwrite, (source, about), streams=False)
    added = {} if about is None else read_about(about)
    import torch

    from dehazexl_cli.models.checkpoint import load, save
    from dehazexl_cli.models.examination import require_representable

    wanted = {Stored.fp16: torch.float16, Stored.fp32: torch.float32}[dtype]
    loaded = load(source, shared.model)
    require_representable(loaded.model, wanted)
    origin = {"converted_from": {"file": source.name, "sha256": loaded.sha256}}
    save(target, loaded.model, loaded.name, loaded.about | origin | added, wanted)
    if not quiet:
        output.say(f"{target}: {loaded.name} in {dtype.value}, {size(target.stat().st_size)}")


def find_file(which: str) -> Path:
    """The file of that path, else the bundled one of that model; WeightsError if there is neither."""
    from dehazexl_cli.models import REGISTRY
    from dehazexl_cli.models.checkpoint import bundled

    if Path(which).exists():
        return Path(which)
    if which in REGISTRY:
        return bundled(which)
    raise WeightsError(
        f"there is no weight file {which}, and no model of that name",
        f"name a file, or one of: {', '.join(REGISTRY)}",
    )


def read_about(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError if there is none."""
    try:
        content = json.loads(decoded(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", "check --about") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})", "check --about") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object", 'write it like {"licence": "Apache-2.0"}')
    return content


def sentences(path: Path, description: Description) -> Iterator[str]:
    """A description for a person."""
    types = ", ".join(description.dtypes)
    yield f"file     {path}"
    yield f"model    {description.model}"
    yield f"format   {description.format}"
    yield f"weights  {description.parameters:,} numbers in {description.tensors} tensors of {types}"
    yield f"size     {size(description.size_bytes)}"
    yield f"sha256   {description.sha256}"
    for title, values in (("config", description.config), ("about", description.about)):
        yield title if values else f"{title}    nothing"
        yield from listing(values)


def listing(values: Mapping[str, Any], indent: int = 2) -> Iterator[str]:
    """A line per value, deeper ones further in."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{' ' * indent}{key}"
            yield from listing(value, indent + 2)
        else:
            yield f"{' ' * indent}{key}: {value if isinstance(value, str) else json.dumps(value)}"


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e6:.1f} MB"
