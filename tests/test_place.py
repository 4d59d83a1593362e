"""Where pixels lie: kept in every format, found by any longitude, and named where it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from conftest import Identity, dehaze_file
from test_bands import loaded, make, noise
from test_stream import FP32

from dehazexl_cli.config import EngineOptions, Storage
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import find_box, open_reader
from dehazexl_cli.raster.epoch import coordinate_epoch

CPU = EngineOptions(**FP32)  # type: ignore[arg-type]
UNNUMBERED = "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m"
PLACES = {
    "south up": Affine(2, 0, 5e5, 0, 2, 4e6),
    "mirrored": Affine(-2, 0, 5e5, 0, -2, 4e6),
    "turned": Affine(2, 0.5, 5e5, 0.5, -2, 4e6),
    "transposed": Affine(0, 2, 5e5, 2, 0, 4e6),
}


def dehazed(source: Path, name: str, format: str | None = None) -> list[str]:
    target = source.with_name(name)
    report = dehaze_file(
        source, target, model=loaded(Identity()), options=CPU, storage=Storage(format), overwrite=True
    )
    return report.warnings


@pytest.mark.parametrize("crs", ["EPSG:32633", UNNUMBERED])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_every_place_is_kept_in_every_format(tmp_path: Path, place: Affine, crs: str) -> None:
    source = make(tmp_path / "in.tif", noise(3, 40, 50, dtype="uint8", top=250), crs=crs, transform=place)
    for name in ("out.tif", "out.png", "out.jpg", "out.jp2", "out.webp", "out.vrt"):
        assert dehazed(source, name) == []
        with rasterio.open(tmp_path / name) as out:
            assert out.transform.almost_equals(place), name
            assert out.crs == rasterio.CRS.from_user_input(crs), name


def of_an_epoch(path: Path) -> Path:
    """A scene in ITRF2014 as of spring 2021."""
    plain = make(
        path.with_name("plain.tif"),
        noise(3, 40, 50, dtype="uint8", top=250),
        crs="EPSG:9000",
        transform=Affine(0.001, 0, 10, 0, -0.001, 45),
    )
    side = Path(f"{plain}.aux.xml")
    side.write_text(
        '<PAMDataset><SRS dataAxisToSRSAxisMapping="2,1" coordinateEpoch="2021.3">EPSG:9000</SRS>'
        "</PAMDataset>"
    )
    with rasterio.open(plain) as said:  # GDAL then writes it into the file itself
        rasterio.shutil.copy(said, path, driver="GTiff")
    return path


@pytest.mark.parametrize(
    ("name", "format"),
    [("out.tif", None), ("out.tif", "COG"), ("out.png", None), ("out.jp2", None), ("out.vrt", None)],
)
def test_the_epoch_of_coordinates_is_kept(tmp_path: Path, name: str, format: str | None) -> None:
    source = of_an_epoch(tmp_path / "in.tif")
    assert dehazed(source, name, format) == []
    with rasterio.open(tmp_path / name) as out:
        assert coordinate_epoch(out) == "2021.3"
        assert out.crs.to_epsg() == 9000


def test_what_side_files_would_hold_is_named_where_gdal_may_not_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_an_epoch(tmp_path / "in.tif")
    monkeypatch.setenv("GDAL_PAM_ENABLED", "NO")
    (warning,) = dehazed(source, "out.tif")
    assert "coordinate epoch" in warning
    (warning,) = dehazed(source, "out.png")
    assert "CRS" in warning
    assert not list(tmp_path.glob("out*.aux.xml"))


def test_files_beside_are_read_here_whatever_spares_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(3, 40, 50, dtype="uint8", top=250)
    place = {"crs": "EPSG:32633", "transform": PLACES["turned"]}
    make(tmp_path / "in.tif", pixels, **place)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(tmp_path / "in.tif", "r+") as file,
    ):
        mask = np.full((40, 50), 255, np.uint8)
        mask[:10] = 0
        file.write_mask(mask)
    assert (tmp_path / "in.tif.msk").exists()
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    for name in ("out.tif", "out.png"):
        report = dehaze_file(tmp_path / "in.tif", tmp_path / name, model=loaded(Identity()), options=CPU)
        assert report.invalid_pixels == 10 * 50
        assert not [each for each in report.warnings if "transform" in each or "CRS" in each]


def globe(path: Path, west: float, crs: str = "EPSG:4326") -> Any:
    place = Affine(10, 0, west, 0, -10, 90)
    return open_reader(make(path, noise(1, 18, 36), crs=crs, transform=place))


@pytest.mark.parametrize(
    ("west", "bounds", "box"),
    [
        (0, (-100, 0, -80, 20), Box(7, 26, 2, 2)),
        (0, (260, 0, 280, 20), Box(7, 26, 2, 2)),
        (-180, (260, 0, 280, 20), Box(7, 8, 2, 2)),
        (-180, (-100, 0, -80, 20), Box(7, 8, 2, 2)),
        (0, (170, 0, -170, 20), Box(7, 17, 2, 2)),
        (0, (-180, -90, 180, 90), Box(0, 0, 18, 36)),
    ],
)
def test_longitudes_are_found_by_either_way_to_write_them(
    tmp_path: Path, west: float, bounds: tuple[float, float, float, float], box: Box
) -> None:
    assert find_box(globe(tmp_path / "in.tif", west), bounds) == box
    assert find_box(globe(tmp_path / "in.tif", west), bounds, "EPSG:4326") == box


def test_a_place_at_both_ends_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="touches both ends"):
        find_box(globe(tmp_path / "in.tif", 0), (-10, 0, 10, 20))
    with pytest.raises(UsageError, match="touches both ends"):
        find_box(globe(tmp_path / "in.tif", -180), (170, 0, -170, 20))


def test_metres_have_no_turns(tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", noise(1, 18, 36), crs="EPSG:32633", transform=PLACES["mirrored"])
    with pytest.raises(UsageError, match="is empty"):
        find_box(open_reader(source), (10, 0, -10, 20))
    with pytest.raises(UsageError, match="outside"):
        find_box(open_reader(source), (5e5 + 100, 4e6 - 30, 5e5 + 400, 4e6))
