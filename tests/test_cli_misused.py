"""Commands that are mistyped, or cannot be: what was meant is said at once, without heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

Command = Callable[..., Result]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hazy.tif", "clear.tif"), "try: dehazexl run hazy.tif clear.tif"),
        (("hazy.tif", "--model", "mgbl-s"), "try: dehazexl run hazy.tif --model mgbl-s"),
        (("a b.tif",), "try: dehazexl run 'a b.tif' OUT.tif"),
        (("/vsizip/a.zip/b.tif", "c.tif"), "try: dehazexl run /vsizip/a.zip/b.tif c.tif"),
        (("help", "run"), "try: dehazexl run --help"),
        (("help",), "try: dehazexl --help"),
        (("rnu", "a", "b"), "Did you mean 'run'?"),
        (("run", "one.tif"), "dehazexl run needs IN and OUT"),
        (("weights", "show"), "try: dehazexl weights show FILE_OR_NAME"),
    ],
)
def test_what_was_meant_is_said(dehazexl: Command, arguments: tuple[str, ...], words: str) -> None:
    result = dehazexl(*arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err


def test_what_needs_no_network_is_refused_before_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "here.tif").write_bytes(b"II*")
    commands = [
        (3, "run gone.tif out.tif"),
        (3, "run gone.tif out.tif --dask local"),
        *((3, f"{name} gone.tif") for name in ("plan", "info", "haze", "preview")),
        (3, "batch gone.tif out"),
        (4, "run README.md here.tif"),
        (2, "run here.tif out.tif --model nope"),
        (2, "plan here.tif --mode nope"),
        (2, "run here.tif out.tif --window 1,2"),
    ]
    (tmp_path / "README.md").touch()
    code = (
        "import sys\n"
        "from dehazexl_cli.cli import main\n"
        f"for code, line in {commands!r}:\n"
        "    sys.argv = ['dehazexl', *line.split()]\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert stop.code == code, (line, stop.code)\n"
        "    assert not {'torch', 'rasterio'} & sys.modules.keys(), line"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(commands)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "here.tif"]
