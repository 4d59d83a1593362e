"""No secret leaves the command line: not in results, names, records, messages or errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Result

from dehazexl_cli.text import masked, name_of

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://host/a.tif?sv=2021&sig=FAKE", "http://host/a.tif?sv=***&sig=***"),
        ("https://user:FAKE@host:8080/a.tif", "https://***@host:8080/a.tif"),
        ("https://user:FA@KE@host/a.tif", "https://***@host/a.tif"),
        (
            "/vsicurl/https://host/a.tif?X-Amz-Signature=FAKE",
            "/vsicurl/https://host/a.tif?X-Amz-Signature=***",
        ),
        (
            "/vsicurl?url=http://host/a.tif&header.Authorization=Bearer%20FAKE",
            "/vsicurl?url=http://host/a.tif&header.Authorization=***",
        ),
        (
            "/vsicurl?url=http%3A%2F%2Fu%3AFAKE%40host%2Fa.tif%3Fsig%3DFAKE",
            "/vsicurl?url=http://***@host/a.tif?sig=***",
        ),
        ("'https://host/a?FAKE' not recognized", "'https://host/a?***' not recognized"),
        ("https://host/a?t=FAKE: cannot be opened", "https://host/a?t=***: cannot be opened"),
        ("Authorization: Basic FAKE==", "Authorization: ***"),
        ("{'authorization': 'Bearer FAKE'}", "{'authorization': '***'}"),
        ("PG:host=h user=u password='FAKE FAKE' dbname=d", "PG:host=h user=u password=*** dbname=d"),
        ("AWS_SECRET_ACCESS_KEY=FAKE", "AWS_SECRET_ACCESS_KEY=***"),
        ("<GDAL_WMS><UserPwd>u:FAKE</UserPwd>", "<GDAL_WMS><UserPwd>***</UserPwd>"),
        ("download/a.tif?se=1&sig=FAKE", "download/a.tif?se=1&sig=***"),
        ("https://host/a#access_token=FAKE", "https://host/a#access_token=***"),
    ],
)
def test_secrets_are_masked(text: str, left: str) -> None:
    assert masked(text) == left
    assert masked(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "https://host/folder/a.tif",
        "/vsis3/bucket/a.tif",
        "what is this? a.tif",
        "--co COMPRESS=ZSTD --seed 7",
        "see https://host/page#part",
        "C:\\data\\a.tif",
        "12 tokens, 5 keys",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://host/p/a.tif?sig=FAKE", "a.tif"),
        ("/vsicurl?url=http://host/b%20c.tif&header.X=FAKE", "b c.tif"),
        ("GPKG:g.gpkg:june", "g_june.gpkg"),
        ('NETCDF:"/d/x.nc":air', "x_air.nc"),
        ('NETCDF:"https://host/x.nc?sig=FAKE":air', "x_air.nc"),
        ('HDF5:"x.h5"://group/band', "x_group_band.h5"),
        ("GTIFF_DIR:2:f.tif", "f_2.tif"),
        ("SENTINEL2_L2A:/d/MTD.xml:10m:EPSG_32632", "MTD_10m_EPSG_32632.xml"),
        ("/vsizip/{a.zip}/in/b.tif", "b.tif"),
        ("a.tif?sv=1&sig=FAKE", "a.tif"),
        ("folder/scene.TIF", "scene.TIF"),
    ],
)
def test_results_are_named_after_what_is_read(source: str, name: str) -> None:
    assert name_of(source) == name


SERVE = """
import http.server, pathlib, sys

class Serve(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        data = pathlib.Path(sys.argv[1]).read_bytes()
        if not self.path.partition("?")[0].endswith("/a.tif"):
            self.send_error(404)
            return
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : min(int(last or len(data)), len(data) - 1) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serve)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(small_scene: Path) -> Iterator[str]:
    """The address of a server that has the small scene as a.tif, whatever the query says.

    A process of its own, as GDAL may read from it while nothing else of Python runs in this one.
    """
    command = [sys.executable, "-c", SERVE, str(small_scene)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def test_no_secret_leaves_a_run(
    dehazexl: Command, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fast = ("--model", "mgbl-s", "--overwrite")
    said = []
    for source in (
        f"http://{server}/a.tif?sv=1&sig=FAKE",
        f"http://user:FAKE@{server}/a.tif",
        f"/vsicurl?url=http://{server}/a.tif&header.Authorization=Bearer%20FAKE",
    ):
        run = dehazexl("run", source, "out.tif", "--report", "r.json", "--json", *fast)
        assert run.code == 0
        Path("list.txt").write_text(source + "\n")
        batch = dehazexl("batch", "--from-file", "list.txt", "many", "--progress", "json", "--json", *fast)
        assert batch.code == 0
        Path("list.txt").unlink()
        commands = [("info", source, "--json"), ("plan", source), ("batch", source, "x", "--dry-run")]
        commands += [
            ("run", source, "x.tif", "--window", "0,0,9999,1"),
            ("preview", source, "p.png", *fast[:2]),
        ]
        said += [run, batch, *(dehazexl(*command) for command in commands)]
    assert "FAKE" not in "".join(each.out + each.err for each in said)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"out.tif", "r.json", "a.tif", "a.tif.json", "log.ndjson"} <= {path.name for path in written}
    assert [path for path in written if b"FAKE" in path.read_bytes() or "FAKE" in path.name] == []


@pytest.mark.parametrize(
    "line",
    [
        ("run", "https://h/a?sig=FAKE", "out.tif"),
        ("run", "a.tif", "out.tif", "--window", "https://h/a?sig=FAKE"),
        ("run", "a.tif", "out.tif", "--precision", "https://h/a?sig=FAKE"),
        ("--debug", "run", "https://127.0.0.1:1/a?sig=FAKE", "out.tif"),
        ("https://h/a?sig=FAKE",),
    ],
)
def test_no_secret_is_in_an_error(dehazexl: Command, line: tuple[str, ...]) -> None:
    result = dehazexl(*line)
    assert result.code != 0
    assert "FAKE" not in result.out + result.err


def test_a_result_of_a_signed_url_is_kept_though_the_signature_changes(
    dehazexl: Command, server: str, tmp_path: Path
) -> None:
    options = ("--model", "mgbl-s", "--mask", f"http://{server}/a.tif?sig=ONE", "--skip-existing", "--json")
    batch = ("batch", f"http://{server}/a.tif?sig=ONE", tmp_path / "out")
    assert json.loads(dehazexl(*batch, *options).out)["done"] == 1
    again = [str(each).replace("ONE", "TWO") for each in (*batch, *options)]
    assert json.loads(dehazexl(*again).out)["skipped"] == 1
