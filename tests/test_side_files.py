"""Side files belong to whoever's they are: OUT gets its own, takes no other file's, and is moved by none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.rpc import RPC

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader, open_writer
from dehazexl_cli.raster.views import WindowedReader

PIXELS = np.random.default_rng(0).integers(1, 250, (3, 40, 50), dtype=np.uint8)
HERE = Affine(0.123456789, 0, 392000.1, 0, -0.1, 5820000.7)
ELSEWHERE = "0.5\n0\n0\n-0.5\n100000.25\n4999999.75\n"
GDAL = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
SUFFIXES = [".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".PNG"]
ZEROS = [0.0] * 19
MODEL = RPC(
    *(1.0, 2.0, 3.0, 4.0, [1.0, *ZEROS], [1.0, *ZEROS], 5.0, 6.0, 7.0, 8.0),
    *([1.0, *ZEROS], [1.0, *ZEROS], 9.0, 10.0, None, None),
)


def make(path: Path, transform: Affine | None = None, rpcs: RPC | None = None, **profile: Any) -> Path:
    count, height, width = PIXELS.shape
    shape = {"count": count, "height": height, "width": width, "dtype": "uint8"}
    place = {} if transform is None else {"crs": "EPSG:32633", "transform": transform}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **place, **profile}) as made:
        if rpcs is not None:
            made.rpcs = rpcs
        made.write(PIXELS)
    return path


def save(source: Path, target: Path, overwrite: bool = False, in_place: bool = False, **stored: Any) -> None:
    save_part(source, target, None, overwrite, in_place, **stored)


def save_part(
    source: Path,
    target: Path,
    box: Box | None,
    overwrite: bool = False,
    in_place: bool = False,
    **stored: Any,
) -> None:
    whole = open_reader(source)
    reader = whole if box is None else WindowedReader(whole, box)
    height, width = reader.info.height, reader.info.width
    with open_writer(target, reader, overwrite, Storage(**stored), in_place=in_place) as writer:
        writer.write(reader.read(Box(0, 0, height, width), range(1, reader.info.count + 1)))
        writer.commit()


def place(path: Path) -> Affine:
    with rasterio.open(path) as made:
        return made.transform


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def world_files(suffix: str) -> list[str]:
    short = suffix[:2] + suffix[-1] + "w"
    return [".wld", ".WLD", ".Wld", suffix + "w", short, short.upper()]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_that_is_written_beside_a_result_has_its_whole_name(tmp_path: Path, suffix: str) -> None:
    source = make(tmp_path / "in.tif", HERE, MODEL)
    with rasterio.open(source, "r+") as made:
        made.update_tags(ns="IMD", satId="QB02")
    (tmp_path / "out").mkdir()
    save(source, tmp_path / "out" / f"o{suffix}")
    assert names(tmp_path / "out") <= {f"o{suffix}", f"o{suffix}.aux.xml"}
    with rasterio.open(tmp_path / "out" / f"o{suffix}") as made:
        assert made.transform == HERE and made.rpcs.line_off == 5 and made.tags(ns="IMD") == {"satId": "QB02"}


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize(("suffix", "name"), [(s, s[0] + n[1:]) for s in SUFFIXES for n in world_files(s)])
def test_no_old_world_file_says_where_a_result_lies(
    tmp_path: Path, suffix: str, name: str, placed: bool
) -> None:
    source = make(tmp_path / "in.tif", HERE if placed else None)
    target, old = tmp_path / f"o{suffix}", tmp_path / f"o{name}"
    old.write_text(ELSEWHERE)
    # As GDAL reads such files; with WebP it does so since 3.11.
    moved = suffix.lower() == ".png" or (not placed and (suffix != ".webp" or GDAL >= (3, 11)))
    if moved:
        with pytest.raises(OutputError, match=rf"{old.name}: would be read .*transform"):
            save(source, target)
        assert not target.exists() and old.read_text() == ELSEWHERE
    save(source, target, overwrite=moved)
    assert place(target) == place(source) and old.exists() != moved


def test_a_world_file_of_another_raster_is_neither_heeded_nor_removed(tmp_path: Path) -> None:
    source, scan = make(tmp_path / "in.tif", HERE), make(tmp_path / "scan.tif")
    world = tmp_path / "scan.wld"
    world.write_text(ELSEWHERE)
    before = place(scan)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"scan\.wld"):
            save(source, tmp_path / "scan.png", overwrite)
    assert place(scan) == before and world.read_text() == ELSEWHERE
    # Of the same scan in another format it says what is so.
    save(scan, tmp_path / "scan.png")
    assert place(tmp_path / "scan.png") == before and world.exists()
    with pytest.raises(OutputError, match=r"scan\.wld"):  # but not of a part of it
        save_part(scan, tmp_path / "scan.png", Box(8, 8, 20, 20), overwrite=True)


def test_results_of_one_stem_keep_their_places(tmp_path: Path) -> None:
    west, east = make(tmp_path / "west.tif", HERE), make(tmp_path / "east.tif", Affine(1, 0, 7, 0, -1, 9))
    options = {"creation": (("WORLDFILE", "YES"),)}
    save(west, tmp_path / "s.png", **options)
    save(east, tmp_path / "s.jpg", **options)
    assert {"s.pgw", "s.jgw"} <= names(tmp_path) and "s.wld" not in names(tmp_path)
    assert (place(tmp_path / "s.png"), place(tmp_path / "s.jpg")) == (HERE, Affine(1, 0, 7, 0, -1, 9))
    save(east, tmp_path / "s.png", overwrite=True)
    assert {"s.jgw", "s.jpg"} <= names(tmp_path) and place(tmp_path / "s.png").c == 7
    with pytest.raises(OutputError, match=r"s\.jgw: other rasters"):  # .jpg and .jpeg have one spelling
        save(west, tmp_path / "s.jpeg", creation=(("WORLDFILE", "YES"),))


def test_a_world_file_that_is_asked_for_replaces_none_unless_told(tmp_path: Path) -> None:
    source, options = make(tmp_path / "in.tif", HERE), {"creation": (("TFW", "YES"),)}
    (tmp_path / "o.tfw").write_text(ELSEWHERE)
    with pytest.raises(OutputError, match=r"o\.tfw: exists already"):
        save(source, tmp_path / "o.tif", **options)
    assert (tmp_path / "o.tfw").read_text() == ELSEWHERE
    save(source, tmp_path / "o.tif", overwrite=True, **options)
    numbers = [float(line) for line in (tmp_path / "o.tfw").read_text().split()]
    assert numbers == pytest.approx([HERE.a, 0, 0, HERE.e, *(HERE @ (0.5, 0.5))], rel=1e-15)


def test_settings_that_hide_side_files_from_this_process_hide_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "in.tif", HERE)
    (tmp_path / "o.pgw").write_text(ELSEWHERE)
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    with pytest.raises(OutputError, match=r"o\.pgw"):
        save(source, tmp_path / "o.png")


@pytest.mark.parametrize("suffix", [".msk", ".ovr", ".msk.ovr", ".aux.xml"])
def test_what_is_a_results_alone_is_replaced_with_it_only(tmp_path: Path, suffix: str) -> None:
    source, old = make(tmp_path / "in.tif", HERE), tmp_path / f"o.tif{suffix}"
    old.write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        save(source, tmp_path / "o.tif")
    assert old.read_text() == "old"
    save(source, tmp_path / "o.tif", overwrite=True)
    assert not old.exists()


def test_an_old_sensor_model_is_not_taken_for_the_results(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", None, MODEL, RPB="YES")
    os.rename(tmp_path / "in.RPB", tmp_path / "z.RPB")
    bare = make(tmp_path / "bare.tif")
    with pytest.raises(OutputError, match=r"z\.RPB.*RPCs"):
        save(bare, tmp_path / "z.tif")
    assert (tmp_path / "z.RPB").exists() and not (tmp_path / "z.tif").exists()
    save(bare, tmp_path / "z.tif", overwrite=True)
    assert not (tmp_path / "z.RPB").exists() and source.exists()


LANDSAT = "LC08_L1TP_193023_20200401_20200410_01_T1"
MTL = (
    "GROUP = L1_METADATA_FILE\n  GROUP = PRODUCT_METADATA\n    SPACECRAFT_ID = \"LANDSAT_8\"\n"
    "    DATE_ACQUIRED = 2020-04-01\n    SCENE_CENTER_TIME = \"10:00:00.0Z\"\n"
    "  END_GROUP = PRODUCT_METADATA\nEND_GROUP = L1_METADATA_FILE\nEND\n"
)  # fmt: skip
PLEIADES = "PHR1B_PMS-N_201708210848215_SEN_2471996101-001"
DIM = (
    "<?xml version='1.0'?><Dimap_Document><Metadata_Identification><METADATA_FORMAT version='2.0'>DIMAP"
    "</METADATA_FORMAT></Metadata_Identification></Dimap_Document>"
)
PRODUCTS = {
    "Landsat": ({f"{LANDSAT}_MTL.txt": MTL}, [f"{LANDSAT}_B3.TIF", f"{LANDSAT}_B4.TIF"]),
    "Pleiades": (
        {f"DIM_{PLEIADES}.XML": DIM, f"RPC_{PLEIADES}.XML": "<?xml version='1.0'?><Dimap_Document/>"},
        [f"IMG_{PLEIADES}_R1C1.TIF", f"IMG_{PLEIADES}_R1C2.TIF"],
    ),
    "world file": ({"scan.wld": ELSEWHERE}, ["scan.tif", "scan.png"]),
    "tile": ({"x.IMD": 'version = "AA";\nBEGIN_GROUP = A\nEND_GROUP = A\nEND;\n'}, ["x.tif", "x.ntf"]),
}  # fmt: skip


@pytest.mark.parametrize("product", PRODUCTS)
def test_replacing_one_image_of_a_product_leaves_what_its_others_need(tmp_path: Path, product: str) -> None:
    metadata, images = PRODUCTS[product]
    for name in images:
        make(tmp_path / name)
    for name, text in metadata.items():
        (tmp_path / name).write_text(text)
    target = tmp_path / images[0]
    save(target, target, in_place=True)
    assert {name: (tmp_path / name).read_text() for name in metadata} == metadata
    assert names(tmp_path) <= {*images, *metadata, f"{images[0]}.aux.xml"}
    other = make(tmp_path / "else.tif", HERE)
    with pytest.raises(OutputError):  # an image of another product under the name of this
        save(other, target.with_suffix(".png") if product == "world file" else target, overwrite=True)
    assert {name: (tmp_path / name).read_text() for name in metadata} == metadata


def test_a_shapefile_of_the_stem_keeps_its_coordinate_system(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", HERE)
    for suffix in (".shp", ".dbf", ".prj", ".cpg"):
        (tmp_path / f"o{suffix}").write_text("of the shapefile")
    save(source, tmp_path / "o.tif")
    save(source, tmp_path / "o.tif", overwrite=True)
    assert all((tmp_path / f"o{suffix}").read_text() == "of the shapefile" for suffix in (".shp", ".prj"))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_result_that_replaces_another_keeps_its_mode(tmp_path: Path, suffix: str) -> None:
    source, target = make(tmp_path / "in.tif", HERE), tmp_path / f"o{suffix}"
    save(source, target)
    for path in tmp_path.glob("o.*"):
        path.chmod(0o664)
    mask = os.umask(0o077)
    try:
        save(source, target, overwrite=True)
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("o.*")} == {0o664}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_result_that_replaces_another_keeps_its_owner(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", HERE)
    save(source, tmp_path / "o.tif")
    os.chown(tmp_path / "o.tif", 12345, 54321)
    save(source, tmp_path / "o.tif", overwrite=True)
    facts = (tmp_path / "o.tif").stat()
    assert (facts.st_uid, facts.st_gid) == (12345, 54321)
