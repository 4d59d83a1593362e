"""A file appears under its name whole, with its side files, or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.io
import rasterio.shutil
from affine import Affine
from rasterio.windows import Window

from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.base import RasterReader
from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.raster.staging import Staging

NOISE = np.random.default_rng(0).integers(0, 255, (3, 600, 300)).astype(np.uint8)
ARRAY = ArrayReader(NOISE, channels_first=True)
SUFFIXES = pytest.mark.parametrize("suffix", [".tif", ".png"])


def make(path: Path, pixels: np.ndarray = NOISE, **profile: Any) -> Path:
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **place, **profile}) as target:
        target.write(pixels)
    return path


def with_side_files(path: Path) -> Path:
    """A GeoTIFF whose IMD tags and statistics lie beside it."""
    with rasterio.open(make(path), "r+") as made:
        made.update_tags(ns="IMD", satId="QB02")
    Path(f"{path}.aux.xml").write_text('<PAMDataset><Metadata><MDI key="OLD">1</MDI></Metadata></PAMDataset>')
    return path


def save(reader: RasterReader, path: Path, overwrite: bool = False) -> None:
    info = reader.info
    with open_writer(path, reader, overwrite=overwrite) as writer:
        writer.write(reader.read(Box(0, 0, info.height, info.width), range(1, info.count + 1)))
        writer.commit()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """To a program, a file that may not grow is a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@SUFFIXES
def test_the_file_has_its_name_only_after_commit(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    with open_writer(target, ARRAY) as writer:
        writer.write(NOISE[:, :500])
        writer.write(NOISE[:, 500:])
        assert not target.exists()
        assert all(name.startswith(".out.") for name in names(tmp_path))
        writer.commit()
        assert names(tmp_path) == [target.name]
    assert names(tmp_path) == [target.name]


@SUFFIXES
def test_leaving_without_commit_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    source = with_side_files(tmp_path / "in.tif")
    before = names(tmp_path)
    with open_writer(tmp_path / f"out{suffix}", open_reader(source)) as writer:
        writer.write(NOISE[:, :300])
    assert names(tmp_path) == before


@SUFFIXES
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_between_leaves_nothing(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    def write_half() -> None:
        with open_writer(tmp_path / f"out{suffix}", ARRAY) as writer:
            writer.write(NOISE[:, :300])
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == []


def test_rows_must_fit_and_all_must_come(tmp_path: Path) -> None:
    with open_writer(tmp_path / "out.tif", ARRAY) as writer:
        for wrong in [NOISE[:2, :9], NOISE[:, :9, :9], NOISE[:, :9].astype(np.uint16), NOISE[0]]:
            with pytest.raises(ValueError, match="rows"):
                writer.write(wrong)
        writer.write(NOISE[:, :599])
        with pytest.raises(ValueError, match="only 599 of 600"):
            writer.commit()
        with pytest.raises(ValueError, match="601 rows"):
            writer.write(NOISE[:, :2])
        writer.write(NOISE[:, 599:])
        writer.commit()
        with pytest.raises(ValueError, match="finished"):
            writer.write(NOISE[:, :1])
    assert np.array_equal(open_reader(tmp_path / "out.tif").read(Box(0, 0, 600, 300), [1, 2, 3]), NOISE)


@SUFFIXES
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(
    tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    save(ARRAY, tmp_path / f"whole{suffix}")
    size = (tmp_path / f"whole{suffix}").stat().st_size
    (tmp_path / f"whole{suffix}").unlink()
    with pytest.raises(OutputError) as caught, files_of_at_most(int(size * share)):
        save(ARRAY, tmp_path / f"out{suffix}")
    assert caught.value.exit_code == 4 and "space" in caught.value.hint
    assert names(tmp_path) == []
    capfd.readouterr()  # libtiff itself complains on stderr here, past every handler


def test_a_file_that_is_not_what_was_written_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL's threads lose errors: here a row of blocks gets lost, which then reads as zeros."""
    give = rasterio.io.DatasetWriter.write

    class Forgetful(rasterio.io.DatasetWriter):
        def write(self, rows: np.ndarray, window: Window) -> None:
            if window.row_off != 256:
                give(self, rows, window=window)

    monkeypatch.setattr("rasterio.io.DatasetWriter", Forgetful)
    with open_writer(tmp_path / "out.tif", ARRAY) as writer:
        writer.write(NOISE)
        with pytest.raises(OutputError, match="incomplete"):
            writer.commit()
    assert names(tmp_path) == []


def test_a_nearly_full_disk_stops_the_work_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_writer(tmp_path / "out.tif", ARRAY) as writer:
        monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage())
        with pytest.raises(OutputError, match="disk is full"):
            writer.write(NOISE)
    assert names(tmp_path) == []


class _Usage:
    free = 4096


@SUFFIXES
def test_a_rename_that_fails_leaves_nothing(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_side_files(tmp_path / "in.tif")
    before = names(tmp_path)
    rename = os.replace

    def fails_for_the_result(old: Path, new: Path) -> None:
        if Path(new).name == f"out{suffix}":
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "replace", fails_for_the_result)
    with pytest.raises(OutputError, match="Input/output error"):
        save(open_reader(source), tmp_path / f"out{suffix}")
    assert names(tmp_path) == before


def test_side_files_are_named_after_the_target(tmp_path: Path) -> None:
    source = with_side_files(tmp_path / "in.tif")
    (tmp_path / "results").mkdir()
    save(open_reader(source), tmp_path / "results" / "out.tif")
    save(open_reader(source), tmp_path / "results" / "pic.png")
    assert names(tmp_path / "results") == ["out.tif", "out.tif.aux.xml", "pic.png", "pic.png.aux.xml"]
    for name in ("out.tif", "pic.png"):
        with rasterio.open(tmp_path / "results" / name) as made:
            assert made.crs.to_epsg() == 32633 and made.transform == Affine(2, 0, 5e5, 0, -2, 4e6)
            assert made.tags(ns="IMD") == {"satId": "QB02"}


@SUFFIXES
def test_an_existing_target_is_refused_and_untouched(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError) as caught:
        open_writer(target, ARRAY)
    assert caught.value.exit_code == 4 and "--overwrite" in caught.value.hint
    assert names(tmp_path) == [target.name] and target.read_bytes() == b"precious"


def test_side_files_of_a_vanished_file_would_describe_the_result_and_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out.tif.aux.xml").write_text("<PAMDataset/>")
    with pytest.raises(OutputError, match=r"aux\.xml: exists"):
        open_writer(tmp_path / "out.tif", ARRAY)


def test_a_target_that_appears_meanwhile_is_refused_at_commit(tmp_path: Path) -> None:
    target = tmp_path / "out.tif"
    with open_writer(target, ARRAY) as writer:
        writer.write(NOISE)
        target.write_bytes(b"precious")
        with pytest.raises(OutputError, match="exists"):
            writer.commit()
    assert names(tmp_path) == ["out.tif"] and target.read_bytes() == b"precious"


@SUFFIXES
def test_overwriting_removes_what_belonged_to_the_old_file(tmp_path: Path, suffix: str) -> None:
    target = with_side_files(tmp_path / "out.tif")
    if suffix == ".png":
        rasterio.shutil.copy(str(target), str(tmp_path / "out.png"), driver="PNG", WORLDFILE="YES")
        for name in ["out.tif", "out.tif.aux.xml", "out.IMD"]:
            (tmp_path / name).unlink()
    (tmp_path / "out.txt").write_text("not a side file")
    save(ARRAY, tmp_path / f"out{suffix}", overwrite=True)
    assert names(tmp_path) == sorted(["out.txt", f"out{suffix}"])


def test_overwriting_needs_no_readable_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.tif").write_bytes(b"II*\0 but no more")
    save(ARRAY, tmp_path / "out.tif", overwrite=True)
    assert np.array_equal(open_reader(tmp_path / "out.tif").read(Box(0, 0, 600, 300), [1, 2, 3]), NOISE)


def test_the_input_can_be_replaced_by_the_result(tmp_path: Path) -> None:
    source = with_side_files(tmp_path / "in.tif")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is IN itself") as caught:
            save(open_reader(source), source, overwrite)
        assert "--in-place" in caught.value.hint and "--overwrite" not in caught.value.hint
    reader = open_reader(source)
    with open_writer(source, reader, in_place=True) as writer:
        writer.write(255 - reader.read(Box(0, 0, 600, 300), [1, 2, 3]))
        writer.commit()
    again = open_reader(source)
    assert np.array_equal(again.read(Box(0, 0, 600, 300), [1, 2, 3]), 255 - NOISE)
    assert again.info.georeferenced
    assert names(tmp_path) == ["in.IMD", "in.tif", "in.tif.aux.xml"]
    with rasterio.open(source) as made:
        assert made.tags()["OLD"] == "1" and made.tags(ns="IMD") == {"satId": "QB02"}


def test_a_failed_overwrite_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = with_side_files(tmp_path / "out.tif")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with open_writer(target, ARRAY, overwrite=True) as writer:
        writer.write(NOISE[:, :300])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_side_file_that_cannot_be_renamed_leaves_the_old_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = with_side_files(tmp_path / "in.tif"), with_side_files(tmp_path / "out.tif")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(old: Path, new: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OutputError, match="Input/output error"):
        save(open_reader(source), target, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    make(tmp_path / "disk" / "big.tif", NOISE[:, :9])
    (tmp_path / "out.tif").symlink_to(tmp_path / "disk" / "big.tif")
    save(ARRAY, tmp_path / "out.tif", overwrite=True)
    assert (tmp_path / "out.tif").is_symlink()
    assert open_reader(tmp_path / "disk" / "big.tif").info.height == 600


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "out.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        open_writer(tmp_path / "out.tif", ARRAY, overwrite=True)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder") as caught:
        open_writer(tmp_path / "gone" / "out.tif", ARRAY)
    assert "mkdir" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # Root may write anywhere but into the kernel's own folders.
    if os.access(folder, os.W_OK):
        folder = Path("/proc/self")
        if not folder.exists():
            pytest.skip("no folder here is closed to root")
    with pytest.raises(OutputError, match="cannot be written"):
        open_writer(folder / "out.tif", ARRAY)


def test_a_very_long_name_gets_a_shorter_temporary(tmp_path: Path) -> None:
    target = tmp_path / ("ö" * 120 + ".tif")
    staging = Staging(str(target), overwrite=False)
    assert len(os.fsencode(staging.result.name)) < 255
    save(ARRAY, target)
    assert names(tmp_path) == [target.name]
