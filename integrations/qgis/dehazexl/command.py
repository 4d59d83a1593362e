# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the command dehazexl is, and in which environment it runs. Needs no QGIS."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable, Iterator, Mapping

NAME = "dehazexl"
SETTING_PLACE = "Settings > Options > Processing > Providers > DehazeXL"
WINDOWS = os.name == "nt"
_PROGRAM = f"{NAME}.exe" if WINDOWS else NAME
_BIN = "Scripts" if WINDOWS else "bin"  # of an environment of Python

# What QGIS's own Python, GDAL, PROJ and Qt are started with, and would lead another Python astray.
_PREFIXES = ("PYTHON", "PROJ_", "GDAL_", "OGR_", "QT_", "DYLD_", "QGIS_")
_NAMES = frozenset({"LD_LIBRARY_PATH", "GEOTIFF_CSV", "__PYVENV_LAUNCHER__"})
# One line is one message, in UTF-8, whatever the system thinks of pipes.
_FOR_A_PIPE = {"PYTHONUTF8": "1", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "250"}

_CONDA_ROOTS = ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "micromamba", ".local/share/mamba")


class CommandFailed(Exception):
    """Something cannot be done: what is wrong, and on the next line what to do."""

    def __init__(self, message: str, hint: str = "", code: int = 1, text: str = "") -> None:
        super().__init__(f"{message}\nTry: {hint}" if hint else message)
        self.code = code  # the exit code of the command, if it was run
        self.text = text  # what it had written to stdout


def find_command(
    named: str = "", environment: Mapping[str, str] = os.environ, home: Path | None = None
) -> str:
    """Find the program: where `named` says, or on PATH and wherever pip, pipx, uv and conda put it.

    `named` is the program, or the folder of an environment or the like that holds it. Raises CommandFailed if
    it is not there.
    """
    named = named.strip().strip('"')
    if named:
        place = Path(os.path.expanduser(named))
        for program in (place, *(folder / _PROGRAM for folder in (place, place / _BIN))):
            if _is_program(program):
                return str(program)
        raise CommandFailed(
            f"{named} is no program that can be run, but the settings name it as the command {NAME}",
            f"correct it in {SETTING_PLACE}, or clear it there to have the command looked for",
        )
    for folder in _folders(environment, home or Path.home()):
        if _is_program(folder / _PROGRAM):
            return str(folder / _PROGRAM)
    raise CommandFailed(
        f"the command {NAME} was not found on PATH, nor where pip, pipx, uv and conda install programs",
        f"install it as its README says, for instance by `pipx install .` in the folder of its sources, or "
        f"name the program in {SETTING_PLACE}",
    )


def clean_environment(
    program: str, environment: Mapping[str, str] = os.environ, windows: bool = WINDOWS
) -> dict[str, str]:
    """Return the environment without what QGIS set in it for itself."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(_PREFIXES) and name.upper() not in _NAMES
    }
    prefix = Path(program).parent.parent
    if windows and (prefix / "conda-meta").is_dir():
        # An environment of conda that is not activated finds its libraries by PATH only, where QGIS's are.
        own = (prefix, prefix / "Library" / "bin", prefix / "Scripts")
        path = next((name for name in kept if name.upper() == "PATH"), "PATH")
        kept[path] = os.pathsep.join([*map(str, own), kept.get(path, "")])
    return {**kept, **_FOR_A_PIPE}


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _folders(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    """List where programs lie, those that the user sees in a terminal first."""

    def named(*variables: str) -> list[Path]:
        return [Path(environment[name]) for name in variables if environment.get(name)]

    data = [*named("XDG_DATA_HOME"), home / ".local" / "share"]
    roaming, local = named("APPDATA"), named("LOCALAPPDATA")
    yield from map(Path, filter(None, environment.get("PATH", "").split(os.pathsep)))
    yield from named("PIPX_BIN_DIR", "UV_TOOL_BIN_DIR", "XDG_BIN_HOME")
    yield home / ".local" / "bin"
    for folder in (home / "Library" / "Python", *(each / "Python" for each in roaming)):  # pip --user
        yield from sorted(folder.glob(f"*/{_BIN}"), reverse=True)
    mac = home / "Library" / "Application Support"
    pipx = [*named("PIPX_HOME"), *(each / "pipx" for each in (*data, home / ".local", home, mac))]
    yield from (each / "venvs" / NAME / _BIN for each in (*pipx, *(each / "pipx" / "pipx" for each in local)))
    uv = [*named("UV_TOOL_DIR"), *(each / "uv" / "tools" for each in (*data, *roaming))]
    yield from (each / NAME / _BIN for each in uv)
    yield from (each / _BIN for each in _conda_environments(home, named))
    if not WINDOWS:  # programs that are started from a desktop have a short PATH
        yield from (Path("/usr/local/bin"), Path("/opt/homebrew/bin"))


def _conda_environments(home: Path, named: Callable[..., list[Path]]) -> Iterator[Path]:
    yield from named("CONDA_PREFIX")
    try:  # conda and mamba keep a list of what they made
        listed = (home / ".conda" / "environments.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        listed = ""
    yield from map(Path, filter(None, map(str.strip, listed.splitlines())))
    roots = [*named("MAMBA_ROOT_PREFIX", "CONDA_ROOT"), *(home / name for name in _CONDA_ROOTS)]
    if not sys.platform.startswith("win"):
        roots += [Path("/opt") / name for name in ("conda", *_CONDA_ROOTS[:-1])]
    for root in roots:
        yield root
        yield from sorted((root / "envs").glob("*"))
