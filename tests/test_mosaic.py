"""A VRT and its parts hold what one GeoTIFF would, can be moved, and appear together or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from compare_metadata import said_by
from conftest import Result, names
from metadata_table import POINTS, RPCS, XMP
from rasterio.errors import NotGeoreferencedWarning
from test_signals import in_few, run_words, staying

from dehazexl_cli.batch.sources import Naming, collect
from dehazexl_cli.config import Storage
from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import mosaic, open_reader, open_writer
from dehazexl_cli.raster.base import RasterInfo
from dehazexl_cli.raster.views import WindowedReader, colour_bands

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
HEIGHT, WIDTH = 700, 300
PIXELS = np.random.default_rng(0).integers(1, 250, (4, HEIGHT, WIDTH)).astype(np.uint8)
PLACE = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}
TOPS = ["000.tif", "256.tif", "512.tif"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one row of blocks."""
    monkeypatch.setattr(mosaic, "PART_BYTES", 1)


def with_points(made: Any) -> None:
    made.gcps = (POINTS, "EPSG:4326")


def with_rpcs(made: Any) -> None:
    made.rpcs = RPCS
    made.update_tags(ns="IMD", satId="QB02")


def with_gaps(made: Any) -> None:
    made.nodata = 7
    made.scales, made.units, made.descriptions = (0.1, 1, 1), ("m", "", ""), ("rouge", "", "bleu")


def with_mask(made: Any) -> None:
    made.write_mask(PIXELS[0] > 99)


def with_documents(made: Any) -> None:
    made.update_tags(ns="xml:XMP", **dict([XMP.split("=", 1)]))
    made.update_tags(ns="xml:BROKEN", **{"<a": "1><b></a>"})
    made.update_tags(NOTE="</VRTDataset> & \x01 two\nlines, Müller", AREA_OR_POINT="Point")
    made.update_tags(2, ns="CAL", bias="1")


SAYING: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "place": (lambda made: None, PLACE),
    "points": (with_points, {}),
    "rpcs": (with_rpcs, {}),
    "nodata": (with_gaps, PLACE),
    "mask": (with_mask, PLACE),
    "documents": (with_documents, PLACE),
    "alpha": (lambda made: None, PLACE | {"count": 4, "photometric": "RGB", "alpha": "YES"}),
    "12 bits": (lambda made: None, {"dtype": "uint16", "nbits": 12}),
    "float": (lambda made: None, {"dtype": "float32", "nodata": float("nan")}),
}


def make(path: Path, kind: str = "place") -> Path:
    """A GeoTIFF that says something of a kind."""
    say, profile = SAYING[kind]
    profile = {"count": 3, "height": HEIGHT, "width": WIDTH, "dtype": "uint8"} | profile
    with rasterio.open(path, "w", driver="GTiff", **profile) as made:
        say(made)
        made.write(PIXELS[: made.count].astype(made.dtypes[0]))
    return path


def store(
    source: Path,
    target: Path,
    storage: Storage | None = None,
    overwrite: bool = False,
    in_place: bool = False,
    box: Box | None = None,
) -> list[str]:
    """Write a scene, or a box of it, by strips; gives the warnings."""
    whole = open_reader(source)
    reader = whole if box is None else WindowedReader(whole, box)
    info = reader.info
    with open_writer(target, reader, storage=storage, overwrite=overwrite, in_place=in_place) as writer:
        for top in range(0, info.height, 100):
            strip = Box(top, 0, min(100, info.height - top), info.width)
            writer.write(reader.read(strip, range(1, info.count + 1)))
        writer.commit()
    return writer.warnings


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and masks."""
    with rasterio.open(path) as made:
        return made.read(), made.read_masks()


def parts_of(target: Path) -> list[Path]:
    return sorted(target.with_suffix(".parts").glob("*/*.tif"))


def check_equal(one: Path, other: Path) -> None:
    for a, b in zip(read(one), read(other), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    said = [sorted(map(str, said_by(str(path)).items())) for path in (one, other)]
    assert said[0] == said[1]  # as texts, for NaN is not NaN
    first, second = open_reader(one), open_reader(other)
    same = {"name": "", "driver": "", "cache_bytes": 0}
    assert str(replace(first.info, **same)) == str(replace(second.info, **same))
    ground, again = (
        reader.valid(Box(200, 10, 300, 120), colour_bands(reader.info)) for reader in (first, second)
    )
    assert np.array_equal(ground, again)
    first.close()
    second.close()


def test_nothing_is_said_of_a_scene_without_a_georeference(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", "12 bits")
    with warnings.catch_warnings(action="error", category=NotGeoreferencedWarning):
        store(source, tmp_path / "out.vrt")


@pytest.mark.parametrize("kind", SAYING)
def test_a_vrt_gives_and_says_what_a_geotiff_does(tmp_path: Path, kind: str) -> None:
    source = make(tmp_path / "in.tif", kind)
    assert store(source, tmp_path / "out.vrt") == store(source, tmp_path / "out.tif")
    assert [path.name for path in parts_of(tmp_path / "out.vrt")] == TOPS
    check_equal(tmp_path / "out.tif", tmp_path / "out.vrt")


def test_a_box_of_a_scene_lies_where_it_lies_as_a_geotiff(tmp_path: Path) -> None:
    box = Box(30, 20, 600, 200)
    for kind in ("place", "points", "rpcs", "mask"):
        source = make(tmp_path / f"{kind}.tif", kind)
        store(source, tmp_path / f"{kind}-out.vrt", box=box)
        store(source, tmp_path / f"{kind}-out.tif", box=box)
        check_equal(tmp_path / f"{kind}-out.tif", tmp_path / f"{kind}-out.vrt")


def test_each_part_is_a_georeferenced_geotiff_of_its_rows(tmp_path: Path) -> None:
    store(make(tmp_path / "in.tif", "nodata"), tmp_path / "out.vrt")
    for path, top in zip(parts_of(tmp_path / "out.vrt"), (0, 256, 512), strict=True):
        with rasterio.open(path) as part:
            assert (part.driver, part.crs.to_epsg(), part.nodata) == ("GTiff", 32633, 7)
            assert part.transform == PLACE["transform"] @ Affine.translation(0, top)
            assert part.descriptions == ("rouge", None, "bleu") and part.block_shapes[0] == (256, 256)
            assert np.array_equal(part.read(), PIXELS[:3, top : top + 256])
    store(make(tmp_path / "points.tif", "points"), tmp_path / "points.vrt")
    with rasterio.open(parts_of(tmp_path / "points.vrt")[1]) as part:
        assert [point.row for point in part.gcps[0]] == [point.row - 256 for point in POINTS]


def test_parts_are_stored_as_the_options_for_a_geotiff_say(tmp_path: Path) -> None:
    options = (("COMPRESS", "ZSTD"), ("BLOCKXSIZE", "128"), ("BLOCKYSIZE", "320"))
    source = make(tmp_path / "in.tif")
    store(source, tmp_path / "out.vrt", Storage(creation=options, provenance=(("DEHAZEXL_MODEL", "x"),)))
    assert [path.name for path in parts_of(tmp_path / "out.vrt")] == ["000.tif", "320.tif", "640.tif"]
    for path in parts_of(tmp_path / "out.vrt"):
        with rasterio.open(path) as part:
            assert part.profile["compress"] == "zstd" and part.block_shapes[0] == (320, 128)
            assert part.tags()["DEHAZEXL_MODEL"] == "x"
    assert rasterio.open(tmp_path / "out.vrt").tags()["DEHAZEXL_MODEL"] == "x"
    lossy = Storage(creation=(("COMPRESS", "JPEG"), ("PHOTOMETRIC", "YCBCR")))
    for name in ("lossy.vrt", "lossy.tif"):
        store(source, tmp_path / name, lossy)
    check_equal(tmp_path / "lossy.tif", tmp_path / "lossy.vrt")


@pytest.mark.parametrize(
    ("height", "tops"), [(700, [0]), (1, [0]), (1024, [0, 512]), (1025, [0, 768]), (1800, [0, 768, 1536])]
)
def test_few_large_parts_are_made_evenly(
    monkeypatch: pytest.MonkeyPatch, height: int, tops: list[int]
) -> None:
    monkeypatch.setattr(mosaic, "PART_BYTES", 800 * WIDTH * 3)  # three rows of blocks
    found = mosaic.parts_of(RasterInfo("", "GTiff", height, WIDTH, 3, "uint8"), {})
    assert [part.top for part in found] == tops
    assert [part.bottom for part in found] == [*tops[1:], height]


@pytest.mark.parametrize("name", ["out.vrt", "a&b 'é'.x.vrt"])
def test_a_vrt_can_be_moved_with_its_folder_and_not_without(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    store(make(tmp_path / "in.tif"), target)
    assert names(tmp_path) == {"in.tif", name, f"{target.stem}.parts"}
    (tmp_path / "there").mkdir()
    for each in (target, target.with_suffix(".parts")):
        shutil.move(each, tmp_path / "there")
    assert np.array_equal(read(tmp_path / "there" / name)[0], PIXELS[:3])
    shutil.rmtree(tmp_path / "there" / f"{target.stem}.parts")
    with pytest.raises(InputError, match=r"(?s)cannot be read .*000\.tif"):
        open_reader(tmp_path / "there" / name).read(Box(0, 0, 9, 9), [1])


def test_an_existing_vrt_is_refused_or_replaced_with_its_parts(tmp_path: Path) -> None:
    source, target = make(tmp_path / "in.tif"), tmp_path / "out.vrt"
    store(make(tmp_path / "first.tif", "alpha"), target)
    old = parts_of(target)
    with pytest.raises(OutputError, match="exists already") as caught:
        store(source, target)
    assert "--overwrite" in caught.value.hint and parts_of(target) == old
    store(source, target, overwrite=True)
    assert np.array_equal(read(target)[0], PIXELS[:3])
    assert [path.name for path in parts_of(target)] == TOPS and not set(old) & set(parts_of(target))
    assert names(tmp_path) == {"in.tif", "first.tif", "out.vrt", "out.parts"}


def test_a_mosaic_can_take_the_place_of_its_input(tmp_path: Path) -> None:
    target = tmp_path / "out.vrt"
    store(make(tmp_path / "in.tif", "mask"), target)
    (tmp_path / "in.tif").unlink()
    before = read(target)
    with pytest.raises(OutputError, match="is IN itself"):
        store(target, target, overwrite=True)
    store(target, target, in_place=True)
    assert all(map(np.array_equal, before, read(target))) and len(parts_of(target)) == 3


def test_parts_that_the_input_is_read_from_are_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out.vrt"
    store(make(tmp_path / "in.tif"), target)
    before = parts_of(target)
    for source in (before[0], shutil.copy(target, tmp_path / "copy.vrt")):
        with pytest.raises(OutputError, match="has parts that IN is read from"):
            store(Path(source), target, overwrite=True)
    assert parts_of(target) == before and names(tmp_path) == {"in.tif", "out.vrt", "out.parts", "copy.vrt"}


@pytest.mark.parametrize("tile", ["tile.tif", "out.parts/june/tile.tif"])
def test_what_others_have_put_together_in_a_vrt_stays(tmp_path: Path, tile: str) -> None:
    (tmp_path / tile).parent.mkdir(parents=True, exist_ok=True)
    source = make(tmp_path / tile)
    rasterio.shutil.copy(str(source), str(tmp_path / "out.vrt"), driver="VRT")
    store(source, tmp_path / "out.vrt", overwrite=True)
    assert source.exists() and {*TOPS} <= {path.name for path in parts_of(tmp_path / "out.vrt")}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_in_between_leaves_nothing(tmp_path: Path, there: bool, error: type[BaseException]) -> None:
    source, target = make(tmp_path / "in.tif"), tmp_path / "out.vrt"
    if there:
        store(source, target)
    before, parts = names(tmp_path), parts_of(target)

    def write_half() -> None:
        with open_writer(target, open_reader(source), overwrite=True) as writer:
            writer.write(PIXELS[:3, :600])
            assert len(parts_of(next(tmp_path.glob(".out.*part.vrt"), target))) == len(parts)
            raise error

    with pytest.raises(error):
        write_half()
    assert (names(tmp_path), parts_of(target)) == (before, parts)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("failing", ["out.vrt", "out.parts", "512.tif"])
def test_a_rename_that_fails_leaves_what_was_there(
    tmp_path: Path, there: bool, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = make(tmp_path / "in.tif"), tmp_path / "out.vrt"
    if there:
        store(source, target)
    before, parts = names(tmp_path), parts_of(target)
    rename = os.replace

    def fails(old: Path, new: Path) -> None:
        if failing in (Path(new).name, Path(new).parent.name):
            raise OSError(5, "Input/output error")
        rename(old, new)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="Input/output") as caught:
        patch.setattr(os, "replace", fails)
        store(source, target, overwrite=True)
    assert caught.value.message.startswith(f"{target}: ")
    assert (names(tmp_path), parts_of(target)) == (before, parts)


@pytest.mark.parametrize("kind", ["place", "nodata", "alpha"])
def test_overviews_are_those_of_a_geotiff_and_packed_alike(tmp_path: Path, kind: str) -> None:
    source = make(tmp_path / "in.tif", kind)
    for name in ("out.vrt", "out.tif"):
        store(source, tmp_path / name, Storage(overviews=True))
    assert names(tmp_path) == {"in.tif", "out.tif", "out.vrt", "out.vrt.ovr", "out.parts"}
    for level in range(2):
        found = []
        for name in ("out.tif", "out.vrt"):
            with rasterio.open(tmp_path / name, overview_level=level) as smaller:
                found.append((smaller.read(), smaller.read_masks()))
        assert all(map(np.array_equal, *found))
    with rasterio.open(tmp_path / "out.vrt.ovr") as file:
        assert file.profile["compress"] == "deflate"
    store(source, tmp_path / "out.vrt", overwrite=True)
    assert "out.vrt.ovr" not in names(tmp_path)


def test_what_cannot_be_is_said_before_any_work(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", "mask")
    for storage, what in [
        (Storage(overviews=True), "no overviews beside a mask"),
        (Storage(creation=(("BLOCKYSIZE", "100"),)), "creation options"),
        (Storage("COG"), "no suffix of a COG"),
    ]:
        with pytest.raises(OutputError, match=what) as caught:
            open_writer(tmp_path / "out.vrt", open_reader(source), storage=storage)
        assert caught.value.message.startswith(f"{tmp_path / 'out.vrt'}: ") and caught.value.hint
    (tmp_path / "out.parts").write_text("mine")
    with pytest.raises(OutputError, match="no folder that can be written"):
        open_writer(tmp_path / "out.vrt", open_reader(source))
    assert names(tmp_path) == {"in.tif", "out.parts"}


def test_a_batch_writes_no_mosaics_and_takes_no_parts_for_scenes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    store(make(tmp_path / "in" / "scene.tif"), tmp_path / "in" / "a.vrt")
    shutil.copytree(tmp_path / "in" / "a.parts", tmp_path / "in" / "b.parts")  # of no VRT
    found = collect([str(tmp_path / "in")], [], Naming(tmp_path / "out", suffix="_clear"))
    places = [Path(scene.source).relative_to(tmp_path / "in").parts[0] for scene in found]
    assert sorted(places) == ["a.vrt", *["b.parts"] * 3, "scene.tif"]
    assert {scene.target.suffix for scene in found} == {".tif"}
    with pytest.raises(UsageError, match="for one image") as caught:
        Naming(tmp_path, format="VRT").target(Path("a.tif"))
    assert "dehazexl run" in caught.value.hint


def test_a_run_writes_a_vrt_with_the_pixels_of_a_geotiff(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    source = make(tmp_path / "in.tif", "mask")
    options = ("--weights", tiny_weights, "--no-provenance", "--window", "20,40,150,600", "-q")
    for name in ("out.tif", "out.vrt"):
        done = dehazexl("run", source, tmp_path / name, *options, "--print-paths")
        assert (done.code, done.out, done.err) == (0, f"{tmp_path / name}\n", "")
    check_equal(tmp_path / "out.tif", tmp_path / "out.vrt")
    assert len(parts_of(tmp_path / "out.vrt")) == 3
    again = dehazexl("run", source, source, tmp_path / "more.vrt", *options)
    assert again.code == 2 and "cannot all become" in again.err


@pytest.mark.parametrize("phase", [in_few("decode"), "rename"])
def test_a_signal_leaves_no_parts_of_a_scene(tmp_path: Path, tiny_weights: Path, phase: str) -> None:
    source = make(tmp_path / "in.tif")
    with staying(phase, *run_words(source, tiny_weights, "out.vrt")) as process:
        assert ("out.parts" in names(tmp_path)) == (phase == "rename")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143
    assert names(tmp_path) == {"in.tif"}
