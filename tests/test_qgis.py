"""The plugin for QGIS, without QGIS: what it is made of, and how it finds, runs and ends the command."""

from __future__ import annotations

import ast
import configparser
import json
import os
import signal
import sys
import threading
import zipfile
from pathlib import Path

import pack_plugin
import pytest
from dehazexl import command, runner, sources
from dehazexl.command import CommandFailed
from helpers.programs import make_program

import dehazexl_cli

PLUGIN = pack_plugin.PLUGIN
WITHOUT_QGIS = ("command.py", "runner.py", "sources.py")


class Feedback:
    """What Processing shows of a run; cancelled by hand."""

    def __init__(self) -> None:
        self.percents: list[float] = []
        self.phases: list[str] = []
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.cancelled = threading.Event()
        self.setProgress = self.percents.append
        self.setProgressText = self.phases.append
        self.pushInfo = self.infos.append
        self.pushWarning = self.warnings.append
        self.isCanceled = self.cancelled.is_set


@pytest.fixture
def feedback() -> Feedback:
    return Feedback()


def event(phase: str, fraction: float) -> str:
    return json.dumps({"event": "progress", "phase": phase, "fraction": fraction})


# The plugin as QGIS and its repository want it


def test_the_metadata_say_what_qgis_asks_for() -> None:
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(PLUGIN / "metadata.txt")
    said = metadata["general"]
    assert said["hasProcessingProvider"] == "yes"
    assert (said["qgisMinimumVersion"], said["qgisMaximumVersion"]) == ("3.22", "4.99")
    assert said["version"] == dehazexl_cli.__version__
    assert said["name"] and said["description"] and said["about"] and said["author"]
    assert (PLUGIN / said["icon"]).is_file()
    assert said["license"] == "GPL-2.0-or-later"
    assert "GNU GENERAL PUBLIC LICENSE" in (PLUGIN / "LICENSE").read_text()


def test_the_zip_holds_the_plugin_in_one_folder_and_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = pack_plugin.pack(tmp_path / "a"), pack_plugin.pack(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert first.name == f"dehazexl-qgis-{dehazexl_cli.__version__}.zip"
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"dehazexl"}
    assert {"dehazexl/metadata.txt", "dehazexl/LICENSE", "dehazexl/__init__.py"} < set(names)
    assert {Path(name).suffix for name in names} == {".py", ".txt", ".svg", ""}


@pytest.mark.parametrize("path", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.name)
def test_modules_import_only_what_every_qgis_has(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, *(() if path.name in WITHOUT_QGIS else ("qgis", "processing"))}
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        assert {module.partition(".")[0] for module in modules} <= allowed
    assert path.read_text().startswith("# SPDX-License-Identifier: GPL-2.0-or-later\n")


# Where the command is


PLACES = {
    "path": ("elsewhere/dehazexl", {"PATH": "{home}/nothing:{home}/elsewhere"}),
    "user": (".local/bin/dehazexl", {}),
    "pip on a Mac": ("Library/Python/3.12/bin/dehazexl", {}),
    "pipx": (".local/share/pipx/venvs/dehazexl/bin/dehazexl", {}),
    "old pipx": (".local/pipx/venvs/dehazexl/bin/dehazexl", {}),
    "pipx elsewhere": ("p/venvs/dehazexl/bin/dehazexl", {"PIPX_HOME": "{home}/p"}),
    "pipx's programs": ("b/dehazexl", {"PIPX_BIN_DIR": "{home}/b"}),
    "uv": (".local/share/uv/tools/dehazexl/bin/dehazexl", {}),
    "uv elsewhere": ("u/dehazexl/bin/dehazexl", {"UV_TOOL_DIR": "{home}/u"}),
    "active conda": ("c/bin/dehazexl", {"CONDA_PREFIX": "{home}/c"}),
    "conda": ("miniforge3/envs/haze/bin/dehazexl", {}),
    "base of conda": ("miniconda3/bin/dehazexl", {}),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_command_is_found_where_installers_put_it(place: str, tmp_path: Path) -> None:
    where, variables = PLACES[place]
    program = make_program(tmp_path / where)
    environment = {name: value.format(home=tmp_path) for name, value in variables.items()}
    assert command.find_command("", environment, tmp_path) == str(program)


def test_the_command_is_found_in_environments_that_conda_lists(tmp_path: Path) -> None:
    program = make_program(tmp_path / "far" / "away" / "bin" / "dehazexl")
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda" / "environments.txt").write_text(f"{tmp_path}/gone\n{tmp_path}/far/away\n")
    assert command.find_command("", {}, tmp_path) == str(program)


def test_the_setting_goes_before_and_may_name_the_program_or_its_environment(tmp_path: Path) -> None:
    make_program(tmp_path / ".local/bin/dehazexl")
    program = make_program(tmp_path / "mine/bin/dehazexl")
    for named in (program, tmp_path / "mine", tmp_path / "mine/bin", f'"{program}" '):
        assert command.find_command(str(named), {}, tmp_path) == str(program)
    with pytest.raises(CommandFailed, match=r"the settings name it(.|\n)*Providers > DehazeXL"):
        command.find_command(str(tmp_path / "gone"), {}, tmp_path)


def test_a_command_that_is_nowhere_ends_in_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_PROGRAM", "dehazexl-that-nobody-has")
    (tmp_path / "dehazexl-that-nobody-has").write_text("not a program")
    with pytest.raises(CommandFailed, match=r"was not found(.|\n)*Try: install it .*pipx install"):
        command.find_command("", {"PATH": str(tmp_path)}, tmp_path)


def test_the_command_inherits_nothing_of_qgis(tmp_path: Path) -> None:
    of_qgis = ("PYTHONHOME", "PYTHONPATH", "PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
    of_qgis += ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "QT_PLUGIN_PATH", "QGIS_PREFIX_PATH")
    stays = {"PATH": "/bin", "HOME": "/h", "DEHAZEXL_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "1"}
    found = command.clean_environment("/x/bin/dehazexl", {**stays, **dict.fromkeys(of_qgis, "/qgis")})
    assert not set(of_qgis).intersection(found)
    assert stays.items() <= found.items()


def test_an_environment_of_conda_on_windows_finds_its_own_libraries_first(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    program = str(tmp_path / "Scripts" / "dehazexl.exe")
    found = command.clean_environment(program, {"Path": "C:/QGIS/bin"}, windows=True)
    first, library, *_, last = found["Path"].split(os.pathsep if os.pathsep == ";" else ":")[:4]
    assert (first, library) == (str(tmp_path), str(tmp_path / "Library" / "bin"))
    assert "QGIS" not in last


# What the command says, and how it ends


def test_progress_of_the_command_is_a_percentage_that_never_falls(tmp_path: Path, feedback: Feedback) -> None:
    events = [("encode", 0), ("encode", 0.1), ("encode", 0.2), ("encode", 0.1), ("bottleneck", 0.25)]
    events += [("decode", 0.6), ("decode", 0.95), ("finish", 1)]
    lines = "\n".join([event(*each) for each in events])
    program = make_program(tmp_path / "p", f"sys.stderr.write({lines!r} + '\\n'); print('data')")
    assert runner.run_command(str(program), [], feedback) == "data\n"
    assert feedback.percents == [10, 20, 25, 60, 95, 100]
    assert len(feedback.phases) == 4
    assert not feedback.infos and not feedback.warnings


def test_messages_are_told_as_what_they_are(tmp_path: Path, feedback: Feedback) -> None:
    said = ["note: all is well", "warning: alpha", "WARNING rasterio: odd", '{"no": "event"}', "{nor this"]
    program = make_program(tmp_path / "p", f"sys.stderr.write('\\n'.join({said!r}))")
    runner.run_command(str(program), [], feedback)
    assert feedback.warnings == said[1:3]
    assert feedback.infos == [said[0], *said[3:]]


def test_messages_that_are_events_are_told_in_words(tmp_path: Path, feedback: Feedback) -> None:
    said = [("note", "all is well"), ("warning", "alpha"), ("done", "out.tif: 2 s"), ("error", "full")]
    lines = [json.dumps({"event": each, "message": message, "hint": "free some"}) for each, message in said]
    program = make_program(tmp_path / "p", f"sys.stderr.write('\\n'.join({lines!r})); sys.exit(4)")
    with pytest.raises(runner.CommandFailed) as failed:
        runner.run_command(str(program), [], feedback)
    assert feedback.infos == ["note: all is well", "out.tif: 2 s"]
    assert feedback.warnings == ["warning: alpha"]
    assert "full" in str(failed.value) and "free some" in str(failed.value)


FAILURES = {
    "sys.stderr.write('error: x.tif: damaged\\n  try: copy it\\n'); sys.exit(3)": (
        3,
        "x.tif: damaged\nTry: copy it",
    ),
    "sys.stderr.write('Usage: …\\n╭─ Error ─╮\\n│ No such option  │\\n'); sys.exit(2)": (
        2,
        "No such option$",
    ),
    "sys.exit(1)": (1, "ended with exit code 1"),
    "os.kill(os.getpid(), signal.SIGKILL)": (-9, r"from outside \(SIGKILL\)\nTry: if memory ran out"),
}


@pytest.mark.parametrize("code", FAILURES)
def test_a_failure_is_an_error_in_the_words_of_the_command(
    code: str, tmp_path: Path, feedback: Feedback
) -> None:
    program = make_program(tmp_path / "p", f"print('before'); {code}")
    with pytest.raises(CommandFailed, match=FAILURES[code][1]) as failed:
        runner.run_command(str(program), [], feedback)
    assert (failed.value.code, failed.value.text) == (FAILURES[code][0], "before\n")


def test_a_program_that_cannot_be_started_is_an_error_too(tmp_path: Path, feedback: Feedback) -> None:
    with pytest.raises(CommandFailed, match="cannot be started"):
        runner.run_command(str(tmp_path / "gone"), [], feedback)


@pytest.mark.parametrize("ignored", [[], [signal.SIGINT], [signal.SIGINT, signal.SIGTERM]], ids=str)
def test_cancelling_ends_the_command_and_leaves_nothing(
    ignored: list[int], tmp_path: Path, feedback: Feedback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PATIENCE_SECONDS", 1.0 if ignored else 30.0)
    output, temporary = tmp_path / "out.tif", tmp_path / ".out.dehazexl-host-1-2-3.part.tif"
    other = tmp_path / ".out.dehazexl-host-7-8-9.part.tif"  # of another run, which goes on
    other.touch()
    program = make_program(
        tmp_path / "p",
        f"for each in {[int(each) for each in ignored]}: signal.signal(each, signal.SIG_IGN)\n"
        f"open({str(temporary)!r}, 'w').close()\n"
        "sys.stderr.write(f'pid {os.getpid()}\\n')\n"
        "time.sleep(120)",
    )
    pids: list[int] = []

    def cancel(line: str) -> None:
        pids.append(int(line.split()[1]))
        feedback.cancelled.set()

    feedback.pushInfo = cancel
    with pytest.raises(runner.Cancelled):
        runner.run_command(str(program), [], feedback, [str(output)])
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, "p"])


# What is dehazed


def test_files_that_gdal_opens_by_themselves_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a b.gpkg"
    path.touch()
    for source in (str(path), "/vsizip/x.zip/y.tif", f"GPKG:{path}:june", f'NETCDF:"{path}":red'):
        assert sources.dataset_name("layer", "gdal", source) == source


@pytest.mark.parametrize(
    ("provider", "source", "told"),
    [
        ("wms", "url=https://x", "provider wms"),
        ("gdal", "/vsimem/x.tif", "in the memory of QGIS"),
        ("gdal", "/vsicurl/https://x/y.tif authcfg=abc", "login"),
        ("gdal", __file__ + "|option:X=Y", "with options"),
        ("gdal", "PG:host=x dbname=y", "no file"),
    ],
)
def test_layers_that_only_qgis_can_read_are_refused_with_what_to_do(
    provider: str, source: str, told: str
) -> None:
    with pytest.raises(CommandFailed, match=rf"ortho: .*{told}(.|\n)*Export > Save As"):
        sources.dataset_name("ortho", provider, source)


def test_an_extent_is_a_part_of_the_layer() -> None:
    place = (500000.0, 3999600.0, 500520.0, 4000000.0)
    wanted = (500100.0, 3999500.0, 600000.0, 3999900.5)
    assert sources.part_options(wanted, place, 260, 200) == ["--bbox=500100.0,3999600.0,500520.0,3999900.5"]
    assert sources.part_options((10.5, -120, 110.5, -20), (0, -200, 260, 0), 260, 200) == [
        "--window=10,20,101,100"
    ]
    with pytest.raises(CommandFailed, match="outside of the layer"):
        sources.part_options((0, 0, 1, 1), place, 260, 200)
