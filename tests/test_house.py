"""The house rules: who may import whom, no file too long to read, and no coined words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "dehazexl_cli"
LONGEST = 400  # lines


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


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml for the package below a folder."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)


def test_modules_import_only_what_the_contracts_allow() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "planted"),
    [
        ("grid.py", "from dehazexl_cli.report import Report"),
        ("raster/gdal.py", "def f():\n    import torch.nn"),
        ("engine/pipeline.py", "from dehazexl_cli.raster.gdal import damaged"),
        ("training/loop.py", "if TYPE_CHECKING:\n    from dehazexl_cli.engine import run"),
        ("helpers.py", "import os"),
    ],
)
def test_an_import_that_the_design_forbids_is_found(tmp_path: Path, place: str, planted: str) -> None:
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / PACKAGE / place).open("a") as file:
        file.write(f"\n{planted}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and place.partition(".")[0].replace("/", ".") in done.stdout, done.stdout


@pytest.mark.parametrize("path", list(python_files(ROOT)), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_enough_to_read(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST, f"{path.relative_to(ROOT)} has {lines} lines; fewer than {LONGEST} are allowed"


def budgets() -> dict[str, int]:
    """The files to read in order, and the most lines of each, as docs/architecture.md has them."""
    rows = re.findall(
        r"^\| `([\w/]+\.py)` \| (\d+) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    return {path: int(lines) for path, lines in rows}


def test_the_path_from_command_to_file_stays_short() -> None:
    long = {
        path: lines
        for path, most in budgets().items()
        if (lines := len((ROOT / PACKAGE / path).read_text().splitlines())) > most
    }
    assert len(budgets()) == 12 and not long


# Words that were coined here, where rasterio, PyTorch or the papers have a name; they are not to come back.
COINED = (
    "AffineEnding|BeyondGdal|Canvas|Careful|Conveyor|CosineAttention|Course|Crew|Dehazer|Drafts|Errand|Extremes"
    "|FORM|Foreign|Framed|Holder|ImageEnding|Joints|Journal|Lane|Ledger|Lesson|MixerBlock|Mixer|OnePass"
    "|Opened|Pending|Piece|Radiometry|Rungs|Setup|Shelf|Shell|SpatialBilateral|Station|Survey|TableAttention"
    "|Weather|by_heads|by_queries|crowd|cut_windows|flow_bytes|go_by|hush|join_windows|joints"
    "|lay_out|last_tiles|mix_bytes|mixing_bytes|pitch|sights|telling|thrift|undisturbed|wishes"
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
