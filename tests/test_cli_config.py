"""Options from files and variables: what goes before what, what is refused, and what is shown of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import typer
from conftest import Result

from dehazexl_cli.cli import app
from dehazexl_cli.cli.options import MODELS
from dehazexl_cli.cli.settings import Setting, commands_of, settings_of
from dehazexl_cli.models.loading import GENERIC

Command = Callable[..., Result]
ROOT = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DEHAZEXL_"):
            monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def effects(dehazexl: Command, *words: object) -> dict[str, Any]:
    result = dehazexl("config", "show", "--json", *words)
    assert (result.code, result.err) == (0, ""), result.err
    (shown,) = json.loads(result.out).values()
    return dict(shown)


def all_settings() -> Iterator[tuple[tuple[str, ...], Setting]]:
    for path, command in commands_of(ROOT):
        if not hasattr(command, "commands"):
            for setting in settings_of(path, command):
                yield path, setting


def some_value(setting: Setting) -> bool | str:
    """A value that is not the default."""
    option = setting.option
    if option.is_flag:
        return not option.default
    texts = ["cpu", "77", "0.25"]
    for text in texts:
        try:
            value = option.process_value(typer.Context(ROOT), [text] if option.multiple else text)
        except typer.BadParameter as error:
            texts += [choice for choice in re.findall(r"'([^']+)'", error.message) if choice not in texts]
            continue
        if value != option.default:
            return text
    raise AssertionError(f"no value of --{setting.key} is known; add one")


def test_the_command_line_goes_before_variables_before_a_file_before_defaults(
    dehazexl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strength(*arguments: object) -> tuple[float, str, str | None]:
        found = effects(dehazexl, "run", *arguments)["strength"]
        return found["value"], found["source"], found["where"]

    assert strength() == (1.0, "default", None)
    file = write(tmp_path, "strength = 0.1")
    assert strength("--config", file) == (0.1, "file", str(file))
    write(tmp_path, "strength = 0.1\n[run]\nstrength = 0.2")
    assert strength("--config", file) == (0.2, "file", str(file))
    monkeypatch.setenv("DEHAZEXL_STRENGTH", "0.3")
    assert strength("--config", file) == (0.3, "environment", "DEHAZEXL_STRENGTH")
    monkeypatch.setenv("DEHAZEXL_RUN_STRENGTH", "0.4")
    assert strength("--config", file) == (0.4, "environment", "DEHAZEXL_RUN_STRENGTH")
    assert strength("--config", file, "--strength", "0.5") == (0.5, "command line", None)
    monkeypatch.setenv("DEHAZEXL_RUN_STRENGTH", "")
    assert strength("--config", file) == (0.3, "environment", "DEHAZEXL_STRENGTH")


@pytest.mark.parametrize("place", ["before", "after", "variable"])
def test_a_run_heeds_the_file_wherever_it_is_named(
    dehazexl: Command,
    small_scene: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    out = tmp_path / "out.tif"
    file = write(
        tmp_path,
        f'weights = "{tiny_weights}"\nquiet = true\n'
        '[run]\nstrength = 0\nbands = [3, 2, 1]\nco = ["COMPRESS=ZSTD", "TILED=NO"]\njson = true\n',
    )
    if place == "variable":
        monkeypatch.setenv("DEHAZEXL_CONFIG", str(file))
    before, after = [["--config", file], []] if place == "before" else [[], ["--config", file]]
    result = dehazexl(*before, "run", small_scene, out, *(after if place == "after" else []))
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    assert (report["bands"], report["strength"]) == ([3, 2, 1], 0.0)
    with rasterio.open(small_scene) as given, rasterio.open(out) as made:
        assert np.array_equal(given.read(), made.read())
        assert (made.compression.value, made.profile["tiled"]) == ("ZSTD", False)


def test_variables_turn_on_and_off_and_repeat(dehazexl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEHAZEXL_QUIET", "1")
    monkeypatch.setenv("DEHAZEXL_OVERWRITE", "0")
    monkeypatch.setenv("DEHAZEXL_CLEAR", "no")
    monkeypatch.setenv("DEHAZEXL_CO", "COMPRESS=ZSTD ZLEVEL=9")
    monkeypatch.setenv("DEHAZEXL_WEIGHTS_CONVERT_DTYPE", "fp32")
    run, evaluate = effects(dehazexl, "run"), effects(dehazexl, "evaluate")
    assert [run[key]["value"] for key in ("quiet", "overwrite")] == [True, False]
    assert run["co"]["value"] == ["COMPRESS=ZSTD", "ZLEVEL=9"]
    assert (evaluate["clear"]["value"], evaluate["quiet"]["source"]) == (False, "environment")
    assert effects(dehazexl, "weights", "convert")["dtype"]["value"] == "fp32"


@pytest.mark.parametrize("where", ["file", "environment"])
def test_every_option_of_every_command_can_be_set(
    dehazexl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    tables: dict[str, list[str]] = {}
    for path, setting in all_settings():
        value = some_value(setting)
        tables.setdefault(".".join(path), []).append(f"{setting.key} = {json.dumps(value)}")
        if where == "environment":
            monkeypatch.setenv(setting.variables[0], str(value))
    text = "\n".join(f"[{name}]\n" + "\n".join(lines) for name, lines in tables.items())
    chosen = ["--config", write(tmp_path, text)] if where == "file" else []
    result = dehazexl(*chosen, "config", "show", "--json")
    shown = json.loads(result.out)
    assert len(shown) > 10
    for path, setting in all_settings():
        found = shown[" ".join(path)][setting.key]
        if path != ("config", "show"):  # which was asked to print JSON
            assert found["source"] == where, (path, setting.key)


def test_all_that_is_set_is_listed_for_people(
    dehazexl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEHAZEXL_MODEL", "mgbl-s")
    monkeypatch.setenv("DEHAZEXL_NUMBER_OF_MOONS", "2")
    file = write(tmp_path, '[plan]\nmax-ram = "4G"')
    result = dehazexl("config", "show", "--config", file)
    lines = [line.split() for line in result.out.splitlines()]
    assert ["max-ram", '"4G"', "file", f"({file})"] in lines
    assert ["model", '"mgbl-s"', "environment", "(DEHAZEXL_MODEL)"] in lines
    assert "strength" not in result.out
    assert result.err == "note: the variable DEHAZEXL_NUMBER_OF_MOONS sets nothing\n"
    assert "strength           1.0                      default" in dehazexl("config", "show", "run").out


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ('devise = "cpu"', "devise is not known", "did you mean device?"),
        ("[run]\nmaxram = 3", "[run] maxram is not known", "did you mean max-ram?"),
        ("[runn]\nseed = 3", "runn is not known", "did you mean run?"),
        ("[weights.convertt]\ndtype = 3", "[weights] convertt is not known", "did you mean convert?"),
        ("[plan]\noverwrite = true", "[plan] overwrite is not known", "did you mean"),
        ("run = 3", "run is not known", "did you mean"),
        ("[weights]\nshow = 3", "[weights] show is a command", "below a line [show]"),
        ("config = 'other.toml'", "config is not known", ""),
        ('[run]\nprecision = "fp8"', "[run] precision = 'fp8' is not possible", "dehazexl run --help"),
        ('seed = "many"', "seed = 'many' is not possible", "--help"),
        ('quiet = "yes"', "quiet = 'yes' is not possible", "true or false"),
        ("device = true", "device = True is not possible", "text or a number"),
        ("bands = [[1, 2]]", "bands = [[1, 2]] is not possible", "text or a number"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say_is_refused_before_anything_is_done(
    dehazexl: Command, small_scene: Path, tmp_path: Path, text: str, what: str, remedy: str
) -> None:
    file = write(tmp_path, text)
    result = dehazexl("run", small_scene, tmp_path / "out.tif", "--config", file)
    first, second = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert first.startswith(f"error: {file}: {what}") and remedy in second
    assert not (tmp_path / "out.tif").exists()


def test_a_file_that_is_none_is_exit_3(dehazexl: Command, tmp_path: Path) -> None:
    gone = dehazexl("plan", "x.tif", "--config", tmp_path / "gone.toml")
    assert (gone.code, len(gone.err.splitlines())) == (3, 2)
    broken = dehazexl("plan", "x.tif", "--config", write(tmp_path, "device: cpu"))
    assert broken.code == 3 and "is no TOML" in broken.err and "line 1" in broken.err


def test_a_variable_that_names_no_option_is_mentioned_and_changes_nothing(
    dehazexl: Command, small_scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEHAZEXL_SHARED", "/data")
    monkeypatch.setenv("DEHAZEXL_MAXRAM", "nonsense")
    assert dehazexl("config", "show").err == "note: the variable DEHAZEXL_MAXRAM sets nothing\n"
    assert dehazexl("plan", small_scene).code == 0


def test_a_variable_with_a_wrong_value_is_named(dehazexl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEHAZEXL_SIDE", "big")
    assert dehazexl("plan", "--help").code == 0
    result = dehazexl("preview", "x.tif")
    assert result.code == 2
    assert result.err.startswith("error: the variable DEHAZEXL_SIDE=big is not possible")


def test_config_show_says_what_command_is_meant(dehazexl: Command) -> None:
    result = dehazexl("config", "show", "weights", "shoe")
    assert result.code == 2 and "did you mean weights show?" in result.err
    assert dehazexl("config", "show", "run", "--no-such-option").code == 2
    assert dehazexl("config", "show", "run", "--tile", "x").code == 2


def test_what_compare_runs_heeds_only_what_compare_was_told(
    dehazexl: Command, small_scene: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEHAZEXL_RUN_STRENGTH", "0")
    out = tmp_path / "compared"
    result = dehazexl(
        "compare", small_scene, "--out", out, "--models", tiny_weights, "--modes", "global", "-q"
    )
    assert result.code == 0, result.err
    _, candidate = json.loads((out / "compare.json").read_text())["candidates"]
    assert candidate["report"]["strength"] == 1.0


def test_models_that_are_completed_are_those_that_there_are() -> None:
    from dehazexl_cli.models import REGISTRY

    assert set(MODELS) == {*REGISTRY, GENERIC}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    program = tmp_path / "dehazexl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dehazexl_cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "scene.tif").touch()
    script = """
        eval "$(_DEHAZEXL_COMPLETE=source_bash dehazexl)"
        complete -p dehazexl
        completed() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _dehazexl_completion dehazexl
            echo "${COMPREPLY[@]}"
        }
        completed dehazexl pr
        completed dehazexl weights c
        completed dehazexl run --prec
        completed dehazexl run --precision b
        completed dehazexl run --model mg
        completed dehazexl run sc
    """
    # A file of settings that is gone must not get in the way.
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DEHAZEXL_CONFIG": "gone.toml"}
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    registered, *completed = done.stdout.splitlines()
    # What our function leaves open is completed with names of files.
    assert registered == "complete -o default -F _dehazexl_completion dehazexl"
    assert completed == ["preview", "convert", "--precision", "bf16", "mgbl-s mgbl-paper", ""]
