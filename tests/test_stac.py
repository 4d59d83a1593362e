"""STAC items of results: place, bands, processing, and what they derive from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Result
from rasterio.transform import from_origin

from dehazexl_cli import stac
from dehazexl_cli.errors import InputError
from dehazexl_cli.report import Report

pystac = pytest.importorskip("pystac")
pytest.importorskip("rio_stac")
Command = Callable[..., Result]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "hazy.tif"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(60, 200, (3, 70, 90), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", height=70, width=90, count=3, dtype="uint8", crs="EPSG:32633",
        transform=from_origin(400_000, 5_800_000, 10, 10),
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def item_of(scene: Path) -> Path:
    """A catalogue's item with the scene as an asset."""
    path = scene.with_name("item.json")
    path.write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": "S2",
                "properties": {"datetime": "2020-05-01T10:00:00Z", "platform": "sentinel-2a"},
                "assets": {"visual": {"href": "hazy.tif"}, "lost": {}},
            }
        )
    )
    return path


def test_an_asset_is_named_by_its_item(scene: Path) -> None:
    item = item_of(scene)
    assert stac.find_source(f"{item}#visual") == (str(scene), str(item))
    assert stac.find_source(str(scene)) == (str(scene), None)
    assert stac.find_source("https://host/a.tif#part") == ("https://host/a.tif#part", None)
    for name in ("other", "lost"):
        with pytest.raises(InputError, match="has no asset"):
            stac.find_source(f"{item}#{name}")
    item.write_text("{}")
    with pytest.raises(InputError, match="no STAC item"):
        stac.find_source(f"{item}#visual")
    with pytest.raises(InputError, match="no STAC item"):
        stac.find_source(f"{item.with_name('none.json')}#visual")


def test_a_run_writes_an_item_that_a_catalogue_reads(dehazexl: Command, scene: Path, tmp_path: Path) -> None:
    out, written = tmp_path / "clear.tif", tmp_path / "items" / "clear.json"
    written.parent.mkdir()
    item_of(scene)
    done = dehazexl(
        "run", f"{scene.parent / 'item.json'}#visual", out, "--stac", written, "--model", "mgbl-s"
    )
    assert done.code == 0, done.err
    item = pystac.Item.from_file(str(written))
    assert item.id == "clear" and item.datetime.year == 2020 and item.properties["platform"] == "sentinel-2a"
    properties = json.loads(written.read_text())["properties"]
    assert properties["proj:shape"] == [70, 90] and properties["proj:epsg"] == 32633
    assert item.properties["processing:software"] and stac.PROCESSING in item.stac_extensions
    assert -180 < item.bbox[0] < item.bbox[2] < 180 and item.geometry["type"] == "Polygon"
    asset = item.assets["dehazed"]
    assert (written.parent / asset.href).resolve() == out and asset.roles == ["data"]
    (derived,) = item.get_links("derived_from")
    assert (written.parent / json.loads(written.read_text())["links"][-1]["href"]).resolve() == (
        scene.parent / "item.json"
    )
    assert derived.media_type == "application/geo+json"


def test_what_lies_nowhere_is_refused_before_any_work(dehazexl: Command, tmp_path: Path) -> None:
    path, out = tmp_path / "nowhere.png", tmp_path / "clear.png"
    with rasterio.open(path, "w", driver="PNG", height=40, width=50, count=3, dtype="uint8") as file:
        file.write(np.full((3, 40, 50), 128, np.uint8))
    done = dehazexl("run", path, out, "--stac", tmp_path / "clear.json", "--model", "mgbl-s")
    assert done.code == 3 and "no place on Earth" in done.err
    assert not out.exists() and not (tmp_path / "clear.json").exists()


def test_the_item_of_a_file_derives_from_it_and_is_not_replaced_unasked(
    dehazexl: Command, scene: Path, tmp_path: Path
) -> None:
    out, written = tmp_path / "clear.tif", tmp_path / "clear.json"
    assert dehazexl("run", scene, out, "--stac", written, "--model", "mgbl-s").code == 0
    assert json.loads(written.read_text())["links"][-1] == {"rel": "derived_from", "href": "in/hazy.tif"}
    before = written.read_bytes()
    again = dehazexl("run", scene, tmp_path / "other.tif", "--stac", written, "--model", "mgbl-s")
    assert again.code == 4 and written.read_bytes() == before and not (tmp_path / "other.tif").exists()
    for name in (scene, out):
        assert dehazexl("run", scene, out, "--stac", name, "--overwrite").code == 4


def test_no_key_of_a_server_gets_into_an_item(scene: Path, tmp_path: Path) -> None:
    written = tmp_path / "item.json"
    address = "https://user:secret@host/hazy.tif?sig=secret"
    stac.write_item(written, Report(output=str(scene)), address)
    assert "secret" not in written.read_text() and "https://" in written.read_text()
