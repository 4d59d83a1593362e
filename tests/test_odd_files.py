"""Images of a pixel or a row, mosaics that are mostly not there, and XMP inside a JPEG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from conftest import Identity, Result, dehaze_file
from rasterio.windows import Window
from test_bands import loaded, make, noise, read
from test_stream import FP32

from dehazexl_cli.config import EngineOptions, Selection
from dehazexl_cli.errors import InputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import gdal_info, open_reader
from dehazexl_cli.raster.base import Trust
from dehazexl_cli.raster.pixels import interleaved

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CPU = EngineOptions(**FP32)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 9), (1, 9, 1)])
def test_previews_of_a_pixel_or_a_row_are_pictures(
    dehazexl: Command, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    source = make(tmp_path / "in.tif", noise(*shape, dtype="uint8", top=250))
    result = dehazexl("preview", source, tmp_path / "p.png", "--model", "mgbl-s", "-q")
    assert result.code == 0, result.err
    with rasterio.open(tmp_path / "p.png") as picture:
        assert (picture.count, picture.height) == (3, shape[1])


def test_a_comparison_of_one_pixel_is_made(dehazexl: Command, tmp_path: Path) -> None:
    source = make(tmp_path / "in.tif", noise(3, 1, 1, dtype="uint8", top=250))
    options = ("--modes", "global", "--models", "mgbl-s", "--out", tmp_path / "c", "-q")
    result = dehazexl("compare", source, *options)
    assert result.code == 0, result.err
    assert (tmp_path / "c" / "report.html").exists()


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 7), (3, 7, 1), (3, 5, 7)])
def test_codecs_get_their_own_copy_in_order(shape: tuple[int, ...]) -> None:
    pixels = np.broadcast_to(noise(*shape, dtype="uint8", top=250)[:1], shape)
    made = interleaved(pixels)
    assert made.strides == np.empty(made.shape, np.uint8).strides
    assert np.array_equal(np.moveaxis(made, 2, 0), pixels)


def corridor(path: Path, sparse: bool) -> Path:
    """A mosaic of 2048 x 2048 pixels with one tile of picture; the others are not there, or black."""
    profile = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "nodata": 0}
    shape = {"count": 3, "height": 2048, "width": 2048, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": Affine(2, 0, 5e5, 0, -2, 4e6)}
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=sparse, **shape, **place, **profile) as file:
        if not sparse:
            file.write(np.zeros((3, 2048, 2048), np.uint8))
        picture = (
            noise(3, 256, 256, dtype="uint8", top=250) if sparse else np.full((3, 256, 256), 90, np.uint8)
        )
        file.write(picture, window=Window(512, 768, 256, 256))
    return path


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file of 1 MB of pixels were a large one."""
    monkeypatch.setattr(gdal_info, "_MOST_UNPACKED_BYTES", 1 << 20)
    monkeypatch.setattr(gdal_info, "_MOST_RATIO", 100)


@pytest.mark.usefixtures("strict")
def test_tiles_that_are_not_there_are_no_bomb(tmp_path: Path) -> None:
    assert open_reader(corridor(tmp_path / "sparse.tif", sparse=True)).info.height == 2048


@pytest.mark.usefixtures("strict")
def test_what_is_packed_beyond_belief_is_taken_in_part_or_at_the_users_word(tmp_path: Path) -> None:
    source = corridor(tmp_path / "packed.tif", sparse=False)
    with pytest.raises(InputError, match="empty or an attack") as refused:
        dehaze_file(source, tmp_path / "a.tif", model=loaded(Identity(64)), options=CPU)
    assert "--window" in refused.value.hint and "--any-size" in refused.value.hint
    part = Selection(window=Box(768, 512, 256, 256))
    dehaze_file(source, tmp_path / "b.tif", model=loaded(Identity(64)), options=CPU, selection=part)
    assert (read(tmp_path / "b.tif") == 90).all()
    assert open_reader(source, Trust(size=True)).info.width == 2048
    everything = Selection(any_size=True)
    dehaze_file(source, tmp_path / "c.tif", model=loaded(Identity(64)), options=CPU, selection=everything)
    assert np.array_equal(read(tmp_path / "c.tif"), read(source))


@pytest.mark.usefixtures("strict")
def test_info_looks_at_what_a_run_would_refuse(dehazexl: Command, tmp_path: Path) -> None:
    assert dehazexl("info", corridor(tmp_path / "packed.tif", sparse=False)).code == 0


PACKET = (
    "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about='' "
    "xmlns:d='http://www.dji.com/drone-dji/1.0/' d:RelativeAltitude='+80.10'/></rdf:RDF></x:xmpmeta>"
    "<?xpacket end='w'?>"
)


def drone(path: Path) -> Path:
    """A JPEG with an XMP packet behind its first marker, as cameras write it."""
    plain = make(path.with_name("plain.tif"), noise(3, 40, 50, dtype="uint8", top=250))
    rasterio.shutil.copy(plain, path, driver="JPEG")
    jpeg, part = path.read_bytes(), b"http://ns.adobe.com/xap/1.0/\0" + PACKET.encode()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part + jpeg[2:])
    return path


@pytest.mark.parametrize("name", ["out.jpg", "out.tif", "out.png", "out.webp", "out.jp2"])
def test_xmp_is_kept_and_not_called_lost(tmp_path: Path, name: str) -> None:
    report = dehaze_file(drone(tmp_path / "in.jpg"), tmp_path / name, model=loaded(Identity()), options=CPU)
    assert report.warnings == []
    with rasterio.open(tmp_path / name) as out:
        assert "RelativeAltitude" in out.tags(ns="xml:XMP")["xml:XMP"]


def test_xmp_of_a_jpeg_lies_inside_behind_its_heads(tmp_path: Path) -> None:
    dehaze_file(drone(tmp_path / "in.jpg"), tmp_path / "out.jpg", model=loaded(Identity()), options=CPU)
    made = (tmp_path / "out.jpg").read_bytes()
    assert PACKET.encode() in made
    assert made[2:4] == b"\xff\xe0" and made.index(b"JFIF") < made.index(b"http://ns.adobe.com")
    (tmp_path / "out.jpg.aux.xml").unlink(missing_ok=True)
    with rasterio.open(tmp_path / "out.jpg") as out:
        assert out.tags(ns="xml:XMP")["xml:XMP"] == PACKET
