"""The documentation can fail: what it shows works, what it says is so, and its site builds."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml
from conftest import Result

from dehazexl_cli import __version__
from dehazexl_cli.cli import app
from dehazexl_cli.report import Report

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "weights").glob("*.md"))]
GROUP = typer.main.get_command(app)


def examples(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands_in(text: str) -> list[str]:
    """The command lines that a page shows, without their comments."""
    blocks = [block.replace("\\\n", " ") for block in examples("sh", text)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("dehazexl ")]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of a page's tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def command_names() -> list[str]:
    return sorted(GROUP.commands)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder demo/ as `make demo` draws it, but small."""
    folder = tmp_path_factory.mktemp("drawn") / "demo"
    script, size = ROOT / "examples" / "make_scene.py", ("--height", "208", "--width", "264")
    subprocess.run([sys.executable, script, folder, *size], check=True, capture_output=True)
    return folder


@pytest.fixture
def demo(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with demo/ and in.tif in it."""
    shutil.copytree(drawn, tmp_path / "demo")
    shutil.copy(drawn / "hazy.tif", tmp_path / "in.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_takes_a_minute_and_names_both_commands_of_make() -> None:
    assert 600 <= len(README.split()) <= 700
    assert "`make demo`" in README and "`make test`" in README


@pytest.mark.parametrize("name", command_names())
def test_every_command_is_in_the_readme_has_a_row_and_an_example_in_its_help(name: str) -> None:
    assert f"`{name}`" in README or f"dehazexl {name} " in README
    assert f"| `dehazexl {name} " in (DOCS / "reference" / "commands.md").read_text()
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    assert hasattr(command, "commands") or "Example: dehazexl " in (command.help or "")


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in commands_in(page.read_text())}))
def test_every_shell_example_is_understood_by_the_command_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = examples("toml", (DOCS / "configuration.md").read_text())
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


@pytest.mark.parametrize("line", commands_in(README))
def test_every_command_of_the_readme_runs_on_the_example(
    line: str, demo: Path, dehazexl: Callable[..., Result]
) -> None:
    _, *arguments = shlex.split(line, comments=True)
    before = set(demo.rglob("*"))
    result = dehazexl(*arguments)
    assert result.code == 0, result.err
    assert result.out or set(demo.rglob("*")) - before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tutorials/gis-analyst", "howto/own-network"])
def test_a_page_of_commands_runs_from_top_to_bottom(
    name: str, demo: Path, dehazexl: Callable[..., Result]
) -> None:
    text = (DOCS / f"{name}.md").read_text()
    for code in examples("python", text):
        exec(code, {})
    for line in commands_in(text):
        if "--data pairs" not in line:
            result = dehazexl(*shlex.split(line, comments=True)[1:])
            assert result.code == 0, f"{line}\n{result.err}"


@pytest.mark.parametrize("name", ["README.md", "docs/reference/python.md", "docs/tutorials/python-user.md"])
def test_the_python_examples_run(name: str, demo: Path) -> None:
    import rasterio

    with rasterio.open("in.tif") as source:
        space: dict[str, object] = {"hazy": source.read()}
    found = examples("python", (ROOT / name).read_text())
    assert found
    for code in found:
        exec(code, space)
    assert "clear" in space and "report" in space


def test_times_and_memory_in_the_readme_are_those_that_were_measured() -> None:
    measured = {row[0]: row for row in rows((DOCS / "performance.md").read_text()) if len(row) == 6}
    shown = [row for row in rows(README) if re.fullmatch(r"\d+ × \d+", row[0])]
    assert len(shown) == 4
    for pixels, seconds, memory in shown[:3]:
        row = measured[pixels.split()[0]]
        assert (seconds, memory) == (row[1], row[5])


@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s"])
def test_figures_of_models_in_the_readme_are_in_their_cards(name: str) -> None:
    (row,) = (row for row in rows(README) if row[0].startswith(f"`{name}`"))
    card = (ROOT / "weights" / f"{name}.md").read_text()
    figures = re.findall(r"\d+\.\d+", " ".join(row))
    assert len(figures) == 7
    assert [figure for figure in figures if figure not in card] == []


def test_every_key_of_a_report_is_explained() -> None:
    page = (DOCS / "reference" / "report.md").read_text()
    explained = {name for row in rows(page) for name in re.findall(r"`([\w:]+)`", row[0])}
    keys = set(Report().to_dict())
    assert {name for name in explained if ":" not in name} == keys


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--conf-dir", DOCS]
    done = subprocess.run(
        [*command, ROOT, tmp_path / "site", "-d", tmp_path / "doctrees"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    options = (tmp_path / "site" / "docs" / "reference" / "options.html").read_text()
    assert "--max-vram" in options and "--levels" in options


def test_what_describes_the_package_agrees_on_its_version_and_needs() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    recipe = yaml.safe_load((ROOT / "packaging" / "recipe.yaml").read_text())
    assert cited["version"] == recipe["context"]["version"] == __version__
    needed = {need.replace("torch", "pytorch") for need in project["dependencies"]}
    assert {need.replace(" ", "") for need in recipe["requirements"]["run"][1:]} == needed
    pins = (ROOT / "constraints.txt").read_text()
    names = {re.split(r"[><=]", need)[0] for need in project["optional-dependencies"]["docs"]}
    assert [name for name in names if f"\n{name}==" not in pins] == []


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=str)
def test_an_issue_form_asks_for_something(form: Path) -> None:
    shown = yaml.safe_load(form.read_text())
    assert shown["name"] and shown["description"]
    assert any(field.get("validations", {}).get("required") for field in shown["body"])
