"""Parts of a VRT that workers write have the bytes they have from one process, whoever is lost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import names
from test_mosaic import SAYING, TOPS, make

from dehazexl_cli.cluster.parts import ClusterParts, PartSpec, write_part
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import mosaic, open_reader, open_writer

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Killed(Exception):
    """Ends a worker at once."""


@dataclass
class Workers:
    """Write a part only when it is waited for; `lose` may end the first that has one."""

    folder: Path
    lose: Callable[[PartSpec], None] = lambda spec: None
    given: list[PartSpec] = field(default_factory=list)
    abandoned: bool = False

    def submit_part(self, spec: PartSpec) -> Late:
        self.given.append(spec)
        return Late(spec, self.lose)

    def abandon_parts(self) -> None:
        self.abandoned = True


@dataclass
class Late:
    spec: PartSpec
    lose: Callable[[PartSpec], None]

    def done(self) -> bool:
        return False

    def result(self) -> list[str]:
        with suppress(Killed):
            self.lose(self.spec)
        return write_part(self.spec, lambda: None)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one row of blocks."""
    monkeypatch.setattr(mosaic, "PART_BYTES", 1)


def store(source: Path, target: Path, workers: Workers | None, strips: int = 9) -> list[str]:
    """Write a scene, or its first strips; gives the warnings."""
    reader = open_reader(source)
    info, maker = reader.info, None if workers is None else ClusterParts(workers)
    with open_writer(target, reader, maker=maker) as writer:
        for top in range(0, info.height, 100)[:strips]:
            strip = Box(top, 0, min(100, info.height - top), info.width)
            writer.write(reader.read(strip, range(1, info.count + 1)))
        writer.commit()
    return writer.warnings


def made(target: Path) -> dict[str, bytes | str]:
    """A VRT without the random name of its folder, and its parts."""
    text = re.sub(r"/[0-9a-f]{8}/", "/*/", target.read_text())
    found = {path.name: path.read_bytes() for path in target.with_suffix(".parts").glob("*/*")}
    return {"vrt": text.replace(target.stem, "*"), **found}


def in_the_middle(spec: PartSpec) -> None:
    """Is lost between two strips."""
    seen = []

    def watch() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise Killed

    write_part(spec, watch)


def at_the_end(spec: PartSpec) -> None:
    """Is lost when the part has its name, before it is told."""
    write_part(spec, lambda: None)
    raise Killed


@pytest.mark.parametrize("kind", SAYING)
def test_workers_write_the_parts_of_one_process(kind: str, tmp_path: Path) -> None:
    source, workers = make(tmp_path / "in.tif", kind), Workers(tmp_path / "shared")
    workers.folder.mkdir()
    expected = store(source, tmp_path / "plain.vrt", None)
    assert store(source, tmp_path / "out.vrt", workers) == expected
    assert made(tmp_path / "out.vrt") == made(tmp_path / "plain.vrt")
    assert [Path(spec.path).name for spec in workers.given] == TOPS[1:]
    assert not names(tmp_path / "shared")


@pytest.mark.parametrize("lose", [in_the_middle, at_the_end])
def test_the_part_of_a_lost_worker_is_written_by_another(
    lose: Callable[[PartSpec], None], tmp_path: Path
) -> None:
    source = make(tmp_path / "in.tif", "mask")
    store(source, tmp_path / "plain.vrt", None)
    store(source, tmp_path / "out.vrt", Workers(tmp_path, lose))
    assert made(tmp_path / "out.vrt") == made(tmp_path / "plain.vrt")
    assert names(tmp_path) == {"in.tif", "plain.vrt", "plain.parts", "out.vrt", "out.parts"}


def test_what_goes_wrong_with_a_part_names_the_scene_and_leaves_nothing(tmp_path: Path) -> None:
    def full(spec: PartSpec) -> None:
        raise OutputError(f"{spec.path}: cannot be written (disk full)", "free some space")

    source, workers = make(tmp_path / "in.tif"), Workers(tmp_path, full)
    with pytest.raises(OutputError) as told:
        store(source, tmp_path / "out.vrt", workers)
    assert told.value.message == f"{tmp_path / 'out.vrt'}: cannot be written (disk full)"
    assert workers.abandoned and names(tmp_path) == {"in.tif"}


def test_parts_are_left_with_the_scene(tmp_path: Path) -> None:
    source, workers = make(tmp_path / "in.tif"), Workers(tmp_path)
    with pytest.raises(ValueError, match="rows"):
        store(source, tmp_path / "out.vrt", workers, strips=6)
    assert workers.given and workers.abandoned
    assert names(tmp_path) == {"in.tif"}


def test_rows_that_cannot_wait_are_an_error_of_the_output(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif")
    with pytest.raises(OutputError, match="rows cannot wait there") as told:
        store(source, tmp_path / "out.vrt", Workers(tmp_path / "gone"))
    assert "--tmp-dir" in told.value.hint
    with pytest.raises(OutputError, match="ends too early"):
        store(source, tmp_path / "out.vrt", Workers(tmp_path, cut_short))
    assert names(tmp_path) == {"in.tif"}


def cut_short(spec: PartSpec) -> None:
    """Have the rows of a part seen by a worker only in part."""
    os.truncate(spec.rows, 5)
