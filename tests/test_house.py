"""The house rules: who may import whom, and no file too long to read."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "dehazexl_cli"
LONGEST = 400  # lines
EVERYTHING = frozenset({"torch", "numpy", "rasterio", "tifffile", "imagecodecs", "safetensors"})


@dataclass(frozen=True)
class Layer:
    """A row of the table: "models" admits the package and all below it, "plan:Footprint" that name only."""

    ours: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()
    late: bool = False  # may import only the light layers when it is loaded itself, the rest inside functions


LIGHT = (  # nothing but the standard library
    *("text", "errors", "owner", "paths", "grid", "plan", "report", "processors", "streams"),
)
BELOW = (*LIGHT, "provenance", "documents", "raster", "models", "engine")
ALL = (*BELOW, "dataset_pairs", "files", "batch", "training", "evaluation", "attribution", "viewer")
TABLE = {
    "text": Layer(),
    "streams": Layer(),
    "errors": Layer(("text",)),
    "owner": Layer(),
    "paths": Layer(("errors", "owner")),
    "processors": Layer((), frozenset({"torch"}), late=True),
    "options": Layer((*BELOW, "files"), late=True),
    "arrays": Layer(("errors", "raster.base", "raster.memory"), frozenset({"numpy"})),
    "api": Layer((*ALL, "options", "arrays"), frozenset({"numpy"}), late=True),
    "grid": Layer(("errors",)),
    "plan": Layer(("errors", "grid")),
    "dataset_pairs": Layer(("errors",)),
    "report": Layer(("errors", "grid", "plan")),
    "provenance": Layer(LIGHT),
    "documents": Layer(("text", "errors", "owner", "paths")),
    "raster": Layer(
        ("text", "errors", "grid", "owner", "paths"),
        frozenset({"numpy", "rasterio", "tifffile", "imagecodecs"}),
    ),
    "models": Layer(
        ("errors", "grid", "paths", "plan:Footprint"), frozenset({"torch", "safetensors", "numpy"})
    ),
    "engine": Layer(
        (*LIGHT, "raster.base", "raster.bands", "raster.views", "models.base"), frozenset({"torch", "numpy"})
    ),
    "training": Layer(
        ("models", "raster", "grid", "paths", "errors", "dataset_pairs"),
        frozenset({"torch", "numpy", "threadpoolctl"}),
    ),
    "attribution": Layer(("models.base", "grid", "errors"), frozenset({"torch"})),
    "evaluation": Layer(("raster.base", "grid", "errors"), frozenset({"numpy"})),
    "viewer": Layer(
        ("text", "errors", "grid", "raster.base", "raster.pixels"), frozenset({"numpy", "imagecodecs"})
    ),
    "files": Layer((*BELOW, ""), frozenset({"numpy"})),
    "batch": Layer((*BELOW, "files", ""), frozenset({"torch", "rasterio", "distributed"}), late=True),
    "cli": Layer((*ALL, ""), EVERYTHING | {"typer", "rich"}, late=True),
    "rio": Layer(("cli",), frozenset({"click"}), late=True),
    "__main__": Layer((*ALL, "cli", "streams", ""), late=True),
    "": Layer((*ALL, "api", "options"), EVERYTHING, late=True),  # the package's own __init__
}
EARLY = {
    "batch": frozenset({"batch", "provenance", "documents"}),
    "cli": frozenset({"typer", "rich", "cli", "documents", ""}),
    "rio": frozenset({"click"}),
    "__main__": frozenset({"cli", ""}),
    "": frozenset({"api", "options"}),
    "api": frozenset({"options"}),
    "options": frozenset(),
    "processors": frozenset(),
}


class Import(NamedTuple):
    """One imported thing: `module` in full, and `name` if only that was taken from it."""

    line: int
    module: str
    name: str
    loading: bool  # happens when the importing module is loaded

    def __str__(self) -> str:
        return f"from {self.module} import {self.name}" if self.name else f"import {self.module}"


def imports(path: Path, package: str) -> Iterator[Import]:
    """Every import of a file whose relative imports start at `package`."""

    def walk(node: ast.AST, loading: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, "", loading)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                yield Import(node.lineno, module, alias.name, loading)
        elif isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            # The table counts these too; they only never happen, so they cannot slow down a start.
            for guarded in node.body:
                yield from walk(guarded, False)
            for otherwise in node.orelse:
                yield from walk(otherwise, loading)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, loading and not inside)

    return walk(ast.parse(path.read_text(encoding="utf-8"), str(path)), True)


def target(root: Path, found: Import) -> str:
    """What is imported, below our package: "" is the package itself; a name may be a module of its own."""
    below = found.module.removeprefix(PACKAGE).lstrip(".")
    inner = ".".join(filter(None, [below, found.name]))
    place = root / PACKAGE / inner.replace(".", "/")
    return inner if found.name and (place.is_dir() or place.with_suffix(".py").is_file()) else below


def admits(spec: str, wanted: str, name: str) -> bool:
    """Whether an entry of the table allows taking `name` from our module `wanted`."""
    module, _, only = spec.partition(":")
    if only:
        return wanted == module and name == only
    return wanted == module or (module != "" and wanted.startswith(module + "."))


def objection(root: Path, layer: str, found: Import) -> str | None:
    """Why this import is forbidden to a layer, or None."""
    row, top, who = TABLE[layer], found.module.partition(".")[0], layer or "__init__"
    if top in sys.stdlib_module_names:
        return None
    if top != PACKAGE:
        if top not in row.others:
            return f"{who} may use {', '.join(sorted(row.others)) or 'the standard library only'}"
        if row.late and found.loading and top not in EARLY[layer]:
            return f"{top} is slow to load: import it inside the function that needs it"
        return None
    wanted = target(root, found)
    if not any(admits(spec, wanted, found.name) for spec in (*row.ours, *([layer] if layer else []))):
        return f"{who} may import {', '.join(filter(None, row.ours)) or 'nothing of ours'}"
    if row.late and found.loading and wanted.partition(".")[0] not in EARLY[layer].union(LIGHT):
        return f"{wanted} is slow to load: import it inside the function that needs it"
    return None


def violations(root: Path) -> list[str]:
    """Every forbidden import of the package below `root`: file, line, import, reason."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        layer = "" if parts == ("__init__",) else parts[0]
        where = path.relative_to(root)
        if layer not in TABLE:
            found.append(f"{where}: {layer} has no row in the table of tests/test_house.py: give it one")
            continue
        package = ".".join([PACKAGE, *parts[:-1]])
        for each in imports(path, package):
            reason = objection(root, layer, each)
            if reason:
                found.append(f"{where}:{each.line}: {each}: {reason}")
    return found


def python_files(root: Path) -> Iterator[Path]:
    """The project's own Python files: not those of environments, caches and builds."""
    skipped = {"build", "dist", "data", "runs", "demo", "__pycache__"}
    for path in sorted(root.iterdir()):
        if (
            path.is_dir()
            and not path.is_symlink()
            and not path.name.startswith(".")
            and path.name not in skipped
        ):
            yield from path.rglob("*.py")
        elif path.suffix == ".py":
            yield path


def test_every_import_is_in_the_table() -> None:
    found = violations(ROOT)
    assert not found, "imports that the design forbids:\n" + "\n".join(found)


def test_the_check_looks_at_the_whole_package() -> None:
    seen = {path.relative_to(ROOT).parts[1] for path in (ROOT / PACKAGE).rglob("*.py")}
    assert {"__init__.py", "errors.py", "grid.py", "plan.py", "raster", "models", "training"} <= seen


@pytest.mark.parametrize("path", list(python_files(ROOT)), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_enough_to_read(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST, f"{path.relative_to(ROOT)} has {lines} lines; fewer than {LONGEST} are allowed"


def plant(root: Path, place: str, source: str) -> None:
    """A small package with one given module among modules to import."""
    others = ("plan.py", "raster/base.py", "raster/gdal.py", "models/base.py", "models/dehazexl.py")
    for name in (*others, place):
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source if name == place else "", encoding="utf-8")


ALLOWED = [
    ("errors.py", "from __future__ import annotations\nimport os.path"),
    ("report.py", "from dehazexl_cli.plan import Plan"),
    ("raster/tiff.py", "import rasterio.windows\nfrom .base import RasterReader\nfrom . import gdal"),
    ("models/base.py", "from dehazexl_cli.plan import Footprint\nfrom ..grid import Box\nimport torch"),
    ("engine/pipeline.py", "from dehazexl_cli.raster import base\nfrom . import store"),
    ("engine/__init__.py", "from .pipeline import run\nfrom dehazexl_cli.models.base import DehazeModel"),
    ("cli/run.py", "import typer\nfrom dehazexl_cli.errors import UsageError\nfrom .options import Device"),
    ("cli/run.py", "from dehazexl_cli import __version__"),
    ("cli/run.py", "def run():\n    import torch\n    from dehazexl_cli.engine import run"),
    ("cli/run.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
    ("__init__.py", "def dehaze():\n    from dehazexl_cli.raster import open_reader"),
    ("__main__.py", "from dehazexl_cli.cli import main"),
    ("rio.py", "import click\ndef dehaze():\n    from dehazexl_cli.cli import main"),
]
FORBIDDEN = [
    ("errors.py", "from dehazexl_cli.grid import Box", "from dehazexl_cli.grid import Box"),
    ("grid.py", "import numpy", "import numpy"),
    ("plan.py", "from dehazexl_cli.report import Report", "report"),
    ("raster/gdal.py", "import torch", "import torch"),
    ("raster/gdal.py", "def f():\n    import torch.nn", "import torch.nn"),
    ("raster/base.py", "from ..models.base import Batch", "from dehazexl_cli.models.base import Batch"),
    ("raster/base.py", "from dehazexl_cli.plan import Plan", "plan"),
    ("models/base.py", "from dehazexl_cli.plan import Plan", "import Plan"),
    ("models/base.py", "from dehazexl_cli import plan", "import plan"),
    ("models/base.py", "import dehazexl_cli.plan", "import dehazexl_cli.plan"),
    ("models/base.py", "if True:\n    import timm", "import timm"),
    ("models/base.py", "if TYPE_CHECKING:\n    from dehazexl_cli.raster import base", "import base"),
    ("engine/pipeline.py", "from dehazexl_cli.raster.gdal import open", "raster.gdal"),
    ("engine/pipeline.py", "from dehazexl_cli.raster import gdal", "import gdal"),
    ("engine/pipeline.py", "from dehazexl_cli.raster import open_reader", "import open_reader"),
    ("engine/pipeline.py", "from ..models import dehazexl", "import dehazexl"),
    ("engine/pipeline.py", "from dehazexl_cli import __version__", "__version__"),
    ("training/loop.py", "from dehazexl_cli.engine import run", "engine"),
    ("training/loop.py", "from dehazexl_cli.cli import main", "cli"),
    ("evaluation.py", "import torch", "import torch"),
    ("attribution.py", "import numpy", "import numpy"),
    ("attribution/paths.py", "from ..models.dehazexl import DehazeXL", "import DehazeXL"),
    ("cli/run.py", "import torch", "slow to load"),
    ("cli/run.py", "if not TYPE_CHECKING:\n    import torch", "slow to load"),
    ("cli/run.py", "try:\n    import rasterio\nexcept ImportError:\n    pass", "slow to load"),
    ("cli/run.py", "class Run:\n    from dehazexl_cli import models", "slow to load"),
    ("cli/run.py", "from dehazexl_cli.raster.base import RasterInfo", "slow to load"),
    ("cli/run.py", "def run():\n    import click", "import click"),
    ("__init__.py", "from dehazexl_cli.engine import run", "slow to load"),
    ("__init__.py", "import numpy as np", "slow to load"),
    ("__init__.py", "def main():\n    from dehazexl_cli.cli import main", "cli"),
    ("__main__.py", "import torch", "import torch"),
    ("rio.py", "from dehazexl_cli.cli import main", "slow to load"),
    ("rio.py", "import rasterio", "import rasterio"),
    ("helpers.py", "import os", "no row in the table"),
]


@pytest.mark.parametrize(("place", "source"), ALLOWED)
def test_the_check_accepts(tmp_path: Path, place: str, source: str) -> None:
    plant(tmp_path, place, source)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(("place", "source", "told"), FORBIDDEN)
def test_the_check_catches(tmp_path: Path, place: str, source: str, told: str) -> None:
    plant(tmp_path, place, source)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{PACKAGE}/{place}:")
    assert told in found


# Words that were coined here, where rasterio, PyTorch or the papers have a name; they are not to come back.
COINED = (
    "BeyondGdal|Canvas|Careful|Conveyor|Course|Crew|Dehazer|Errand|Framed|Holder|Joints|Journal|Lane|Ledger"
    "|MixerBlock|OnePass|Radiometry|Rungs|Shelf|SpatialBilateral|Station"
)


def test_no_coined_name_is_left() -> None:
    texts = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "CONTRIBUTING.md"]
    texts += [*ROOT.glob("*.md"), *(path for path in ROOT.glob("docs/*.md") if path.stem != "training-log")]
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        if path != Path(__file__).resolve()
        for name in re.findall(rf"\b(?:{COINED})\b", path.read_text())
    ]
    assert not found
