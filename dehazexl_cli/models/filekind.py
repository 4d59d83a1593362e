"""What a file that is said to hold a network really is, found out without running anything in it."""

from __future__ import annotations

import zipfile
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from dehazexl_cli.errors import WeightsError


class Traits(NamedTuple):
    """What a kind of file is called, and what can be done with it instead."""

    what: str
    hint: str


SAVE_NUMBERS = "have its numbers saved alone: torch.save(model.state_dict(), FILE), or as safetensors"
EXPORT = "have it exported: torch.export.save(torch.export.export(model, …), 'net.pt2')"
AGAIN = "download or copy it again"


class Kind(Enum):
    """Kinds of files that go by the name of weights."""

    script = Traits("a TorchScript network", "run it with --model generic --weights FILE")
    exported = Traits("a torch.export network", "run it with --model generic --weights FILE")
    pickled = Traits("a file of torch.save, which holds numbers and no network", EXPORT)
    safetensors = Traits("a safetensors file", "give it the suffix .safetensors")
    onnx = Traits("an ONNX network", EXPORT)
    keras = Traits("an HDF5 file, as Keras writes", EXPORT)
    page = Traits("a web page", "it was not the file that was downloaded; take the link to the file itself")
    pointer = Traits("a pointer of Git LFS", "fetch what it stands for: git lfs pull")
    unknown = Traits("a damaged file, or of a kind that is not known", AGAIN)


STARTS = {
    b"\x89HDF": Kind.keras,
    b"version https://git-lfs": Kind.pointer,
    b"<!doctype": Kind.page,
    b"<html": Kind.page,
    b"\x80\x02": Kind.pickled,  # as torch.save wrote before 1.6
    b"\x80\x04": Kind.pickled,
}


def kind_of(path: Path) -> Kind:
    """The kind of a file by its first bytes, and of an archive by the names in it."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK"):
        return _kind_of_archive(path)
    found = next((kind for mark, kind in STARTS.items() if start.lower().startswith(mark.lower())), None)
    if found is not None:
        return found
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return Kind.safetensors
    # A protocol buffer whose first field is the version of ONNX, and whose second names what made it.
    return Kind.onnx if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a", b"\x42") else Kind.unknown


def _kind_of_archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return Kind.unknown
    if "archive_format" in names or any(name.startswith("serialized_exported_program") for name in names):
        return Kind.exported
    if any(name.startswith("code/") for name in names) and "constants.pkl" in names:
        return Kind.script
    return Kind.pickled if "data.pkl" in names else Kind.unknown


def require_kind(path: Path, *wanted: Kind, purpose: str) -> Kind:
    """The kind of a file; WeightsError, with what to do, where it is none of those that serve."""
    kind = kind_of(path)
    if kind in wanted:
        return kind
    raise WeightsError(
        f"{path} {purpose}: it is {kind.value.what}", kind.value.hint.replace("FILE", str(path))
    )
