"""The documentation can fail: every command is in the README, and what the README shows works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from dehazexl_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GROUP = typer.main.get_command(app)


def examples(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shell_lines() -> list[str]:
    pages = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
    blocks = [block.replace("\\\n", " ") for page in pages for block in examples("sh", page)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("dehazexl ")]


def command_names() -> list[str]:
    return sorted(GROUP.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_a_row_in_the_readme_and_an_example_in_its_help(name: str) -> None:
    assert f"| `dehazexl {name} " in README
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    assert hasattr(command, "commands") or "Example: dehazexl " in (command.help or "")


@pytest.mark.parametrize("line", shell_lines())
def test_every_shell_example_is_understood_by_the_command_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = examples("toml", (ROOT / "docs" / "configuration.md").read_text())
    Path("survey.toml").write_text(shown)
    _, *arguments = shlex.split(line, comments=True)
    command, name = GROUP, "dehazexl"
    context = typer.Context(command, info_name=name)
    while hasattr(command, "commands") and not arguments[0].startswith("-"):
        name, *arguments = arguments
        command = command.commands[name]
        if hasattr(command, "commands"):
            context = typer.Context(command, parent=context, info_name=name)
    if command is GROUP:  # an option that acts at once
        assert arguments[0] in {option for param in GROUP.params for option in param.opts}
    else:
        assert command.make_context(name, arguments, parent=context).params


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled_weights: Path
) -> None:
    import numpy as np
    import rasterio

    monkeypatch.chdir(tmp_path)
    hazy = np.random.default_rng(0).integers(100, 200, (60, 80, 3), dtype=np.uint8)
    profile = {"driver": "GTiff", "height": 60, "width": 80, "count": 3, "dtype": "uint8"}
    with rasterio.open("in.tif", "w", crs="EPSG:32633", **profile) as file:
        file.write(hazy.transpose(2, 0, 1))
    (code,) = examples("python")
    space: dict[str, object] = {"hazy": hazy}
    exec(code, space)
    assert space["clear"].shape == hazy.shape  # type: ignore[attr-defined]
    assert (tmp_path / "out.tif").exists()


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "weights").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
