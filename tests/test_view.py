"""Tiles of rasters at every zoom, what the server of `view` gives and refuses, and how the command ends."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
from conftest import as_from_a_terminal, names
from rasterio.enums import Resampling

from dehazexl_cli.cli.output import ProgressKind
from dehazexl_cli.cli.view import open_layers, prepare
from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.viewer.server import ViewServer

ROOT = Path(__file__).resolve().parents[1]
PLACE = rasterio.Affine(2, 0, 5e5, 0, -2, 4e6)
Pixels = np.ndarray[Any, np.dtype[Any]]


def write(path: Path, pixels: Pixels, **profile: Any) -> Path:
    """A GeoTIFF of pixels [bands, height, width]."""
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, **shape, **profile) as file:
        file.write(pixels)
    return path


def noise(height: int, width: int, count: int = 3, low: int = 0, high: int = 256, seed: int = 0) -> Pixels:
    """Random pixels, of bytes if they find room in them."""
    dtype = np.uint8 if high <= 256 else np.uint16
    return np.random.default_rng(seed).integers(low, high, (count, height, width), dtype=dtype)


@contextmanager
def serving(*paths: Path, given: tuple[float, float] | None = None) -> Iterator[ViewServer]:
    """A server in this process."""
    with ExitStack() as stack:
        layers = open_layers(stack, [str(path) for path in paths], None, given, False)
        prepare(layers, None, ProgressKind.never, True)
        server = stack.enter_context(ViewServer(layers))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: ViewServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and content of a path, which goes to the server as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def tile(server: ViewServer, layer: int, factor: int, row: int = 0, col: int = 0) -> Pixels:
    """Colours, and alpha where something is transparent, [3 or 4, height, width]."""
    status, headers, content = ask(server, f"{server.root}tiles/{layer}/{factor}/{row}/{col}.png")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    return np.moveaxis(imagecodecs.png_decode(content), 2, 0)


def means(pixels: Pixels, size: int) -> Pixels:
    """Rounded means of the squares that lie wholly inside."""
    count, height, width = (side // step for side, step in zip(pixels.shape, (1, size, size), strict=True))
    whole = pixels[:, : height * size, : width * size].astype(float)
    return whole.reshape(count, height, size, width, size).mean(axis=(2, 4)).round()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene that is 1:16 before it fits a tile, of a size that no power of two divides."""
    return write(tmp_path_factory.mktemp("long") / "long.tif", noise(333, 4217))


def test_tiles_are_the_pixels_of_the_file_and_their_means_where_there_are_no_overviews(long: Path) -> None:
    with rasterio.open(long) as file:
        pixels = file.read()
    with serving(long, long) as server:
        scene = json.loads(ask(server, f"{server.root}scene.json")[2])
        size = {key: scene["layers"][0][key] for key in ("height", "width", "smallest")}
        assert (scene["tile"], size) == (512, {"height": 333, "width": 4217, "smallest": 16})
        assert np.array_equal(tile(server, 0, 1, 0, 3), pixels[:, :, 1536:2048])
        assert np.array_equal(tile(server, 0, 1, 0, 8), pixels[:, :, 4096:])
        for factor in (2, 4, 8):
            expected = means(pixels, factor)
            height, width = expected.shape[1:]
            first, last = tile(server, 0, factor), tile(server, 0, factor, 0, width // 512)
            assert first.shape[1] == -(-333 // factor) and last.shape[2] == -(-4217 // factor) % 512
            assert np.array_equal(first[:, :height], expected[:, :, :512])
            assert np.array_equal(last[:, :height, : width % 512], expected[:, :, width // 512 * 512 :])
        smallest = tile(server, 0, 16)
        assert smallest.shape == (3, 21, 264)
        # Means of rounded means.
        assert np.abs(smallest[:, :20, :263] - means(pixels, 16)).max() <= 1


def test_tiles_are_made_of_overviews_where_the_file_has_some(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(700, 2600))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.nearest)
    with serving(path, path) as server:
        for level, factor in enumerate((2, 4, 8)):
            with rasterio.open(path, overview_level=level) as smaller:
                assert np.array_equal(tile(server, 0, factor), smaller.read()[:, :512, :512])


def test_all_of_one_type_are_shown_in_the_stretch_of_the_first(tmp_path: Path) -> None:
    hazy, clear = noise(40, 50, 3, 3000, 9000), noise(40, 50, 3, 200, 9000, seed=1)
    before, after = write(tmp_path / "a.tif", hazy), write(tmp_path / "b.tif", clear)
    white = np.percentile(hazy, 99.8)
    with serving(before, after) as server:
        for layer, pixels in enumerate((hazy, clear)):
            expected = (pixels / white).clip(0, 1) * 255
            assert np.abs(tile(server, layer, 1) - expected).max() <= 0.51
    with serving(before, after, given=(1000, 5000)) as server:
        expected = ((clear.astype(float) - 1000) / 4000).clip(0, 1) * 255
        assert np.abs(tile(server, 1, 1) - expected).max() <= 0.51


def test_maps_are_shown_in_their_colours_or_a_stretch_of_their_own(tmp_path: Path) -> None:
    scene, classes = noise(30, 40, 3, 0, 4000), noise(30, 40, 1, 0, 3)
    density = np.linspace(0, 0.5, 1200, dtype=np.float32).reshape(1, 30, 40)
    paths = [write(tmp_path / f"{n}.tif", x) for n, x in enumerate((scene, scene, classes, density))]
    table = np.array([(10, 20, 30), (200, 0, 0), (0, 0, 250)])
    with rasterio.open(paths[2], "r+") as file:
        file.write_colormap(1, {n: (*map(int, colour), 255) for n, colour in enumerate(table)})
    with serving(*paths, given=(0, 100)) as server:
        assert np.array_equal(tile(server, 2, 1), np.moveaxis(table[classes[0]], 2, 0))
        grey = tile(server, 3, 1)
        assert np.abs(grey - (density / np.percentile(density, 99.8)).clip(0, 1) * 255).max() <= 0.51
        layers = json.loads(ask(server, f"{server.root}scene.json")[2])["layers"]
        assert [layer["about"].split(", ")[1][:12] for layer in layers] == [
            *("0 to 100 as ",) * 2,
            "colours of i",
            "0 to 0.499 a",
        ]


def test_nodata_is_transparent_and_does_not_run_into_what_is_beside_it(tmp_path: Path) -> None:
    pixels = np.full((3, 64, 1200), 100, np.uint8)
    pixels[:, :, 601:] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    floats = pixels.astype(np.float32)
    floats[:, :, 601:] = np.nan
    other = write(tmp_path / "b.tif", floats)
    with serving(path, other, given=(0, 255)) as server:
        right = tile(server, 0, 1, 0, 1)
        assert (right[3, :, :89] == 255).all() and (right[3, :, 89:] == 0).all()
        for factor, edge in ((2, 300), (4, 150)):
            small = tile(server, 0, factor, 0, 0)
            assert (small[:3, :, : edge + 1] == 100).all()
            share = 601 / factor - edge
            assert (small[3, :, :edge] == 255).all() and (small[3, :, edge] == round(255 * share)).all()
            assert (small[3, :, edge + 1 :] == 0).all()
        own = tile(server, 1, 4)  # in a stretch of its own, as it has another type
        assert (own[:3, :, :151] == 255).all() and (own[3, :, 151:] == 0).all()


def test_half_as_many_pixels_of_one_place_lie_over_the_scene_and_others_are_refused(tmp_path: Path) -> None:
    place = {"crs": "EPSG:32633", "transform": PLACE}
    full = write(tmp_path / "full.tif", noise(80, 101), **place)
    half = PLACE @ PLACE.scale(101 / 51, 80 / 40)
    others = {
        "half": write(tmp_path / "half.tif", noise(40, 51), crs="EPSG:32633", transform=half),
        "moved": write(
            tmp_path / "moved.tif", noise(40, 51), crs="EPSG:32633", transform=half @ PLACE.translation(3, 0)
        ),
        "zone": write(tmp_path / "zone.tif", noise(40, 51), crs="EPSG:32634", transform=half),
        "flat": write(
            tmp_path / "flat.tif", noise(20, 51), crs="EPSG:32633", transform=half @ PLACE.scale(1, 2)
        ),
        "nowhere": write(tmp_path / "nowhere.tif", noise(40, 51)),
    }
    with serving(full, others.pop("half")) as server:
        sizes = [(layer.pyramid.height, layer.pyramid.width) for layer in server.layers]
        assert sizes == [(80, 101), (40, 51)]
    for other in others.values():
        with (
            ExitStack() as stack,
            pytest.raises(InputError, match=r"51 x .* 101 x 80, .* cover one") as refused,
        ):
            open_layers(stack, [str(full), str(other)], None, None, False)
        assert "gdalwarp" in refused.value.hint and "-ts 101 80" in refused.value.hint


@pytest.fixture(scope="module")
def server(long: Path) -> Iterator[ViewServer]:
    with serving(long, long) as made:
        yield made


def test_only_the_page_and_its_parts_are_served(server: ViewServer) -> None:
    root = server.root
    for name, kind in {
        "": "text/html; charset=utf-8",
        "view.js": "text/javascript",
        "view.css": "text/css",
        "openseadragon.min.js": "text/javascript",
        "openseadragon-LICENSE.txt": "text/plain",
        "tiles/1/16/0/0.png": "image/png",
    }.items():
        status, headers, content = ask(server, root + name)
        assert (status, headers["Content-Type"], bool(content)) == (200, kind, True)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in (
        *("/", "/view.js", "/tiles/0/1/0/0.png", root[:-2], root.rstrip("/"), "/x" + root[2:], "*", "//["),
        *(root + "../pyramid.py", root + "..%2fserver.py", root + "%2e%2e/server.py", root + "assets/"),
        *(root + "/etc/passwd", root + "view.js/", root + "tiles/", root + "tiles/0/1/0/0.png/../../../x"),
        *(root + "tiles/2/1/0/0.png", root + "tiles/0/3/0/0.png", root + "tiles/0/32/0/0.png"),
        *(root + "tiles/0/1/1/0.png", root + "tiles/0/1/0/9.png", root + "tiles/0/1/-1/0.png"),
        *(root + "tiles/0/0/0/0.png", root + "tiles/0/1/0/99999999999.png", root + "%d9%a1"),
    ):
        assert ask(server, path)[0] == 404, path


def test_other_hosts_and_methods_are_refused(server: ViewServer) -> None:
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        status, headers, content = ask(server, server.root, host=host)
        assert status == 403 and b"curtain" not in content
    assert ask(server, server.root, host=f"localhost:{port}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "CONNECT"):
        assert ask(server, server.root, method)[0] == 501
    status, headers, content = ask(server, server.root, "HEAD")
    assert (status, content) == (200, b"") and int(headers["Content-Length"]) > 500
    assert server.server_address[0] == "127.0.0.1"


def test_tiles_are_the_same_for_many_at_once(server: ViewServer) -> None:
    wanted = [(layer, factor, 0, col) for layer in (0, 1) for factor in (1, 2, 4, 8, 16) for col in (0, 1)]
    wanted = [each for each in wanted if each[1] < 16 or each[3] == 0]
    one_by_one = [tile(server, *each) for each in wanted]
    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(
            one_by_one * 2, pool.map(lambda each: tile(server, *each), wanted * 2), strict=True
        ):
            assert np.array_equal(expected, found)


def test_a_file_that_was_damaged_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path / "a.tif", noise(600, 600), compress="deflate")
    bad = write(tmp_path / "b.tif", noise(600, 600), compress="deflate")
    content = bytearray(bad.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    bad.write_bytes(content)
    with serving(good, bad) as server:
        statuses = [
            ask(server, f"{server.root}tiles/1/1/{row}/{col}.png") for row in (0, 1) for col in (0, 1)
        ]
        assert 500 in [status for status, _, _ in statuses]
        assert "b.tif" in caplog.text and "cannot be read" in caplog.text
        assert tile(server, 0, 1).shape == (3, 512, 512)


def test_a_port_that_is_taken_and_a_folder_that_is_not_there_are_refused(
    server: ViewServer, long: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"--port {server.server_port}: cannot be served on"):
        ViewServer([], server.server_port)
    with ExitStack() as stack:
        layers = open_layers(stack, [str(long)] * 2, None, None, False)
        with pytest.raises(OutputError, match="nowhere: cannot hold"):
            prepare(layers, tmp_path / "nowhere", ProgressKind.never, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_nothing_is_left(
    long: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "dehazexl_cli", "view", long, long, "--tmp-dir", tmp_path, "-q"]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=as_from_a_terminal,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline()
        assert address.startswith("http://127.0.0.1:") and address.endswith("/\n")
        port, path = int(address.split(":")[2].split("/")[0]), address.strip().split("/", 3)[3]
        connection = http.client.HTTPConnection("127.0.0.1", port)  # stays open, as a browser's does
        connection.request("GET", f"/{path}tiles/0/16/0/0.png")
        assert connection.getresponse().status == 200
        assert names(tmp_path) == set()  # small copies have no name
        process.send_signal(number)
        said, complained = process.communicate(timeout=60)
        connection.close()
    finally:
        process.kill()
        process.communicate()
    name = "Ctrl-C" if number is signal.SIGINT else "SIGTERM"
    assert (process.returncode, said, complained) == (128 + number, "", f"error: stopped by {name}\n")
    assert names(tmp_path) == set()
