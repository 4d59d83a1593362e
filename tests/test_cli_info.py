"""`dehazexl info`: what it says of a raster is what the raster holds, and what a run then does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import Result
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def make(path: Path, pixels: np.ndarray[Any, Any], **profile: Any) -> Path:
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver=profile.pop("driver", "GTiff"), **shape, **profile) as file:
        file.write(pixels)
    return path


def seen(dehazexl: Command, *arguments: object) -> dict[str, Any]:
    result = dehazexl("info", "--json", *arguments)
    assert result.code == 0, result.err
    (facts,) = json.loads(result.out)
    return dict(facts)


@pytest.fixture
def multispectral(tmp_path: Path) -> Path:
    """Four bands of 12 bits with names, units and scales, half of them nodata."""
    pixels = np.random.default_rng(0).integers(1, 4000, (4, 300, 400), dtype=np.uint16)
    pixels[:, :, 200:] = 0
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 0.5, 0.25), "nodata": 0}
    path = make(
        tmp_path / "in.tif", pixels, tiled=True, blockxsize=128, blockysize=64, compress="lzw", **place
    )
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
        file.set_band_description(4, "B8A")
        file.scales, file.offsets, file.units = (1e-4,) * 4, (-0.1,) * 4, ("reflectance",) * 4
        file.build_overviews([2, 4])
    return path


def test_what_is_said_is_what_the_file_holds(dehazexl: Command, multispectral: Path) -> None:
    facts = seen(dehazexl, multispectral)
    assert [facts[key] for key in ("height", "width", "count", "dtype")] == [300, 400, 4, "uint16"]
    place, storage = facts["place"], facts["storage"]
    assert (place["crs"], place["crs_name"]) == ("EPSG:32633", "WGS 84 / UTM zone 33N")
    assert (place["pixel"], place["unit"], place["rotated"]) == ([0.25, 0.5], "metre", False)
    assert place["bounds"] == [4e5, 5e6 - 75, 4e5 + 200, 5e6]
    assert (storage["block"], storage["overviews"], storage["compression"]) == ([64, 128], [2, 4], "LZW")
    assert storage["size_bytes"] == multispectral.stat().st_size
    assert [band["meaning"] for band in facts["bands"]] == ["blue", "green", "red", ""]
    last = facts["bands"][3]
    assert (last["description"], last["unit"], last["scale"], last["offset"]) == (
        "B8A",
        "reflectance",
        1e-4,
        -0.1,
    )
    with rasterio.open(multispectral) as file:
        pixels = file.read()[:, :, :200]
    assert (facts["nodata"], facts["valid_share"]) == ([0] * 4, 0.5)
    for band, values in zip(facts["bands"], pixels, strict=True):
        # All 300 rows and 400 columns are looked at, so nothing is missed.
        assert (band["low"], band["high"]) == (values.min(), values.max())


def test_what_it_would_do_is_what_plan_says(dehazexl: Command, multispectral: Path) -> None:
    overrides = ["--bands", "3,2,1", "--all-bands", "--model", "mgbl-s", "--max-ram", "4G"]
    facts = seen(dehazexl, multispectral, *overrides)
    planned = json.loads(dehazexl("plan", multispectral, *overrides, "--json").out)
    assert facts["run"].pop("ground") == {"top": 0, "left": 0, "height": 300, "width": 200}
    for name in ("plan", "smallest"):  # they count the memory of this process, which grows a little
        ours, theirs = facts["run"].pop(name), planned.pop(name)
        assert ours["host_bytes"] == pytest.approx(theirs["host_bytes"], rel=0.1)
        assert all(ours[key] == theirs[key] for key in ("skips", "batch", "seed"))
    assert facts["run"] == planned
    assert [group["bands"] for group in planned["groups"]] == [[3, 2, 1], [4]]


def test_people_get_it_in_lines(dehazexl: Command, multispectral: Path) -> None:
    result = dehazexl("info", multispectral)
    assert result.err == ""
    for line in (
        f"file       {multispectral}",
        "scene      400 x 300 pixels, 4 bands of uint16",
        "place      EPSG:32633 (WGS 84 / UTM zone 33N), pixels of 0.5 x 0.25 metre, "
        "bounds 400000,4999925,400200,5000000",
        "ground     50.0% of the pixels looked at; nodata 0; all within columns 0 to 199, rows 0 to 299",
    ):
        assert line in result.out.splitlines()
    assert '4  "B8A", ' in result.out and "stands for 0.0001 * number + -0.1 reflectance" in result.out
    assert "model      dehazexl-s on " in result.out


def test_masks_alpha_palettes_and_points_are_named(dehazexl: Command, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    masked = make(tmp_path / "masked.tif", pixels)
    with rasterio.open(masked, "r+") as file:
        mask = np.full((40, 50), 255, np.uint8)
        mask[:20] = 0
        file.write_mask(mask)
        file.gcps = ([GroundControlPoint(r, c, c, r) for r, c in ((0, 0), (0, 9), (9, 0))], "EPSG:4326")
    facts = seen(dehazexl, masked)
    assert (facts["mask"], facts["alpha"], facts["valid_share"]) == (True, None, 0.5)
    assert (facts["place"]["control_points"], facts["place"]["crs"]) == (3, "EPSG:4326")
    clear = make(tmp_path / "clear.png", np.concatenate([pixels, pixels[:1] * 0 + 255]), driver="PNG")
    assert seen(dehazexl, clear)["alpha"] == 4
    numbered = make(tmp_path / "numbered.tif", pixels[:1], photometric="palette")
    with rasterio.open(numbered, "r+") as file:
        file.write_colormap(1, {number: (number, 0, 255, 255) for number in range(256)})
    facts = seen(dehazexl, numbered)
    assert (facts["palette"], facts["count"], len(facts["bands"])) == ("red, green and blue", 3, 3)
    assert [band["high"] for band in facts["bands"]] == [pixels[0].max(), 0, 255]
    assert "expanded" in facts["run"]["notes"][0]


def test_a_file_that_gdal_cannot_decode_is_seen_too(dehazexl: Command, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (64, 96, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", pixels, compression="jpegxl", tile=(32, 32), photometric="rgb")
    facts = seen(dehazexl, tmp_path / "in.tif")
    assert (facts["storage"]["decoder"], facts["storage"]["compression"]) == ("tifffile", None)
    assert facts["storage"]["size_bytes"] == (tmp_path / "in.tif").stat().st_size
    assert [band["high"] for band in facts["bands"]] == pixels.max((0, 1)).tolist()


def test_a_nodata_of_nan_and_a_scene_without_ground_are_valid_json(dehazexl: Command, tmp_path: Path) -> None:
    empty = make(tmp_path / "in.tif", np.full((1, 30, 30), np.nan, np.float32), nodata=float("nan"))
    facts = seen(dehazexl, empty)
    assert (facts["nodata"], facts["valid_share"]) == (["nan"], 0.0)
    assert (facts["bands"][0]["low"], facts["bands"][0]["high"]) == (None, None)
    assert "no ground" in dehazexl("info", empty).out


def test_what_would_prevent_a_run_is_said_and_is_no_failure(dehazexl: Command, multispectral: Path) -> None:
    result = dehazexl("info", multispectral, "--max-ram", "100M")
    assert result.code == 0
    assert "run        impossible: this scene needs" in result.out
    facts = seen(dehazexl, multispectral, "--bands", "1,2,9")
    assert facts["run"]["error"]["exit_code"] == 2


def test_one_bad_file_of_several_is_told_and_exit_7(
    dehazexl: Command, multispectral: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.tif").write_text("this is no image")
    result = dehazexl("info", tmp_path / "gone.tif", multispectral, tmp_path / "text.tif")
    assert result.code == 7
    assert result.err.count("error: ") == result.err.count("  try: ") == 2
    assert result.out.count("scene  ") == 1
    result = dehazexl("info", "--json", tmp_path / "gone.tif", multispectral)
    first, second = json.loads(result.out)
    assert (result.code, first["error"]["exit_code"], second["count"]) == (7, 3, 4)
    assert dehazexl("info", tmp_path / "gone.tif").code == 3
