"""Disks that are full, closed, elsewhere or pulled away: a clear error, exit 4, and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import Result

from dehazexl_cli.atomic import remove
from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ROOT = Path(__file__).resolve().parents[1]
NOISE = np.random.default_rng(0).integers(0, 255, (3, 800, 700)).astype(np.uint8)
TARGETS = {
    "GTiff": "out.tif", "COG": "out.tif", "PNG": "out.png", "JPEG": "out.jpg", "JP2OpenJPEG": "out.jp2",
    "WEBP": "out.webp", "VRT": "out.vrt",
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene whose output in any format is larger than a megabyte, and has tags for a side file."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    path = folder / "in.tif"
    shape = {"count": 3, "height": 800, "width": 700, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", driver="GTiff", transform=Affine(2, 0, 5e5, 0, -2, 4e6), **shape) as made:
        made.write(NOISE)
        made.update_tags(ns="IMD", satId="QB02")
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system here")
    folder = memory / f"dehazexl-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def store(source: Path, target: Path, storage: Storage, between: Callable[[], None] = lambda: None) -> None:
    """Rewrite a scene; `between` happens when half of it is written."""
    reader = open_reader(source)
    try:
        with open_writer(target, reader, storage=storage) as writer:
            writer.write(reader.read(Box(0, 0, 400, 700), [1, 2, 3]))
            between()
            writer.write(reader.read(Box(400, 0, 400, 700), [1, 2, 3]))
            writer.commit()
    finally:
        reader.close()


@pytest.mark.parametrize("format", TARGETS)
def test_what_is_made_elsewhere_arrives_whole_with_its_side_files(
    scene: Path, tmp_path: Path, elsewhere: Path, format: str
) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    store(scene, tmp_path / "near" / TARGETS[format], Storage(format))
    store(
        scene,
        tmp_path / "far" / TARGETS[format],
        Storage(format, tmp_dir=str(elsewhere)),
        lambda: pytest.fail("nothing is made there") if not names(elsewhere) else None,
    )
    assert names(tmp_path / "far") == names(tmp_path / "near") and names(elsewhere) == []
    for name in names(tmp_path / "near"):
        assert (tmp_path / "far" / name).stat().st_size == (tmp_path / "near" / name).stat().st_size


def test_a_target_that_is_full_when_the_output_arrives_keeps_nothing(
    scene: Path, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fill)
    (tmp_path / "far").mkdir()
    with pytest.raises(OutputError, match="No space left") as caught:
        store(scene, tmp_path / "far" / "out.png", Storage(tmp_dir=str(elsewhere)))
    assert caught.value.exit_code == 4
    assert names(tmp_path / "far") == names(elsewhere) == []


def test_a_tmp_dir_that_is_none_is_named(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="gone: no such folder"):
        store(scene, tmp_path / "out.tif", Storage(tmp_dir=str(tmp_path / "gone")))
    assert names(tmp_path) == ["scenes"]


@pytest.mark.parametrize("format", ["GTiff", "COG", "PNG", "WEBP", "VRT"])
def test_an_output_deleted_while_it_is_made_is_an_error(scene: Path, tmp_path: Path, format: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def delete() -> None:
        for path in folder.iterdir():
            remove(path)

    with pytest.raises(OutputError, match="cannot be written") as caught:
        store(scene, folder / TARGETS[format], Storage(format), delete)
    assert caught.value.exit_code == 4 and caught.value.hint
    assert names(folder) == []


@pytest.mark.parametrize("format", ["GTiff", "COG", "PNG", "VRT"])
def test_a_folder_deleted_while_it_is_written_to_is_an_error(
    scene: Path, tmp_path: Path, format: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        store(scene, folder / TARGETS[format], Storage(format), lambda: shutil.rmtree(folder))
    assert caught.value.exit_code == 4
    assert not folder.exists()


def test_the_command_moves_its_output_from_tmp_dir(
    dehazexl: Command, scene: Path, tmp_path: Path, elsewhere: Path, tiny_weights: Path
) -> None:
    options = ["--weights", tiny_weights, "-q", "--tmp-dir", elsewhere]
    assert dehazexl("run", scene, tmp_path / "out.tif", *options).code == 0
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.crs.to_epsg() == 32633
    assert names(elsewhere) == []
    gone = dehazexl("run", scene, tmp_path / "b.tif", *options[:-1], tmp_path / "gone")
    assert gone.code == 4 and len(gone.err.splitlines()) == 2


def on_a_disk_of(size: str, after: str, command: list[str], folder: Path) -> tuple[int, list[str], list[str]]:
    """Run a command where `folder` is a disk of its own; its exit code, words, and what it left there."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not here")
    script = (
        'size="$1"; folder="$2"; after="$3"; shift 3; '
        'mount -t tmpfs -o size="$size" none "$folder" && eval "$after" || exit 77; '
        '"$@" >&2; code=$?; ls -A "$folder"; exit $code'
    )
    arguments = ["unshare", "-rm", "sh", "-c", script, "sh", size, str(folder), after, *command]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode in (1, 77) and "dehazexl" not in done.stderr and not done.stdout:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()[:80]}")
    return done.returncode, done.stderr.splitlines(), done.stdout.split()


def command(scene: Path, target: Path, weights: Path, *options: str) -> list[str]:
    base = [sys.executable, "-m", "dehazexl_cli", "run", str(scene), str(target)]
    return [*base, "--weights", str(weights), "-q", *options]


@pytest.mark.slow
@pytest.mark.parametrize("format", TARGETS)
@pytest.mark.parametrize("size", ["1100k", "1600k"])  # full at the first rows, or in the midst of it
def test_a_full_disk_is_exit_4_and_empty_again(
    scene: Path, tmp_path: Path, tiny_weights: Path, format: str, size: str
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    target = folder / TARGETS[format]
    code, lines, left = on_a_disk_of(
        size, "true", command(scene, target, tiny_weights, "--format", format), folder
    )
    assert (code, left) == (4, []), lines
    assert lines[-2].startswith("error: ") and "space" in lines[-1]


@pytest.mark.slow
def test_a_full_target_disk_with_room_in_tmp_dir_is_exit_4_and_empty_again(
    scene: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    folder, roomy = tmp_path / "small", tmp_path / "roomy"
    folder.mkdir()
    roomy.mkdir()
    words = command(scene, folder / "out.tif", tiny_weights, "--tmp-dir", str(roomy))
    code, lines, left = on_a_disk_of("1100k", "true", words, folder)
    assert (code, left, names(roomy)) == (4, [], []), lines
    assert "No space left" in lines[-2]


@pytest.mark.slow
def test_a_disk_that_is_only_for_reading_is_exit_4(scene: Path, tmp_path: Path, tiny_weights: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    words = command(scene, folder / "out.tif", tiny_weights)
    code, lines, left = on_a_disk_of("4m", 'mount -o remount,ro "$folder"', words, folder)
    assert (code, left) == (4, []), lines
    assert "Read-only file system" in lines[-2]
