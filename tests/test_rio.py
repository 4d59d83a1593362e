"""`rio dehaze` as a shell sees it, and that no other command of rio pays for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dehazexl_cli.cli import main_of_rio

RIO = Path(sys.executable).with_name("rio")


def rio(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(RIO), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def test_rio_lists_the_command_and_helps_with_it() -> None:
    assert re.search(r"^  dehaze +Remove haze", rio("--help").stdout, re.MULTILINE), "install anew: make"
    for spelling in ("--help", "-h"):
        help = rio("dehaze", spelling)
        assert (help.returncode, help.stderr) == (0, "")
        assert re.search(r"Usage: rio dehaze \[OPTIONS\] \W*IN\W+OUT", help.stdout)
        assert "--all-bands" in help.stdout


def test_it_does_what_run_does(small_scene: Path, tiny_weights: Path, tmp_path: Path) -> None:
    common = ["--weights", tiny_weights, "--no-provenance", "-b", "3,2,1", "--co", "COMPRESS=LZW"]
    done = rio("dehaze", small_scene, tmp_path / "by_rio.tif", *common)
    assert (done.returncode, done.stdout) == (0, "")
    assert "90 x 70 pixels" in done.stderr
    command = [sys.executable, "-m", "dehazexl_cli", "run", small_scene, tmp_path / "by_run.tif", *common]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "by_rio.tif").read_bytes() == (tmp_path / "by_run.tif").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--no-such-option"], 2, "No such option"),
        ([], 2, "rio dehaze needs IN and OUT"),
        (["gone.tif", "out.tif"], 3, "gone.tif: no such file"),
        (["in.tif", "in.tif"], 4, "--in-place"),
        (["in.tif", "out.tif", "--bands", "red"], 2, "no band numbers"),
        (["in.tif", "out.tif", "--device", "cuda:7"], 6, "not available"),
    ],
)
def test_what_goes_wrong_has_the_exit_code_of_run(
    small_scene: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, word: str
) -> None:
    monkeypatch.chdir(small_scene.parent)
    done = rio("dehaze", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir() == ["in.tif"]


def test_settings_of_run_are_heeded(
    small_scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("[run]\ndry-run = true\nmodel = 'mgbl-s'\n[plan]\nmodel = 'dehazexl-s'")
    monkeypatch.setenv("DEHAZEXL_RUN_MAX_RAM", "3G")
    with pytest.raises(SystemExit) as stop:
        main_of_rio([str(small_scene), str(tmp_path / "out.tif"), "--config", str(settings)])
    said = capfd.readouterr()
    assert (stop.value.code, said.err) == (0, "")
    assert "mgbl-s" in said.out and "3.00 GB allowed" in said.out


def test_other_commands_of_rio_load_nothing_but_the_light_modules_of_ours() -> None:
    code = (
        "import sys\n"
        "from rasterio.rio.main import main_group\n"
        "assert 'dehaze' in main_group.commands, 'install anew: make'\n"
        "heavy = {'torch', 'typer', 'rich', 'tifffile', 'imagecodecs', 'safetensors', 'dehazexl_cli.cli',\n"
        "         'dehazexl_cli.engine', 'dehazexl_cli.models', 'dehazexl_cli.raster'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "ours = {name.partition('.')[2] for name in sys.modules if name.startswith('dehazexl')}\n"
        "light = {'', 'api', 'config', 'errors', 'grid', 'plan', 'processors', 'progress', 'rio', 'text'}\n"
        "assert ours == light, ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
