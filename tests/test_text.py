"""Text of the world: names, lists, sheets, settings and tags as others write them, JSON for all parsers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from conftest import Result

from dehazexl_cli.batch.sources import Naming, collect, expand, read_list
from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.refusals import why_not_opened
from dehazexl_cli.raster.staging import Staging
from dehazexl_cli.text import decoded, to_json

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_a_signed_url_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("https://host/a.tif?sig=[x]", "/vsicurl/https://host/a.tif?b=*"):
        (found,) = expand(url, tmp_path)
        assert (found.source, str(found.place)) == (url, "a.tif")
    (tmp_path / "scan:1.tif").touch()
    assert [each.source for each in expand("scan:*.tif", tmp_path)] == ["scan:1.tif"]
    with pytest.raises(InputError, match="no file fits"):
        list(expand("none*.tif", tmp_path))


def test_json_is_read_by_every_parser() -> None:
    value = {"a": float("nan"), "b": [float("inf"), -float("inf"), 1.5], "c": "lat\udce9.tif", "d": (1, None)}

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = to_json(value)
    assert json.loads(text, parse_constant=refuse) == {
        "a": "nan",
        "b": ["inf", "-inf", 1.5],
        "c": "lat\\xe9.tif",
        "d": [1, None],
    }
    text.encode("utf-8")


SHEET = "input;output\r\nä b.tif;x.tif\r\n\r\nc,d.tif;\r\n"


@pytest.mark.parametrize("content", [SHEET.encode("utf-8-sig"), SHEET.encode("utf-16"), SHEET.encode()])
@pytest.mark.parametrize("preface", ["", "sep=;\r\n"])
def test_a_sheet_is_read_as_spreadsheets_write_it(tmp_path: Path, content: bytes, preface: str) -> None:
    if preface and not content.startswith(SHEET[:2].encode()):
        return
    path = tmp_path / "LIST.CSV"
    path.write_bytes(preface.encode() + content)
    found = read_list(str(path), False)
    assert [each.source for each in found] == ["ä b.tif", "c,d.tif"]
    assert [each.target and str(each.target) for each in found] == ["x.tif", None]


@pytest.mark.parametrize(
    ("content", "sources"),
    [
        (b"Input , output\na.tif , b.tif\n", ["a.tif"]),
        (b"path\tnote\na.tif\tx,y,z\n", ["a.tif"]),
        (b'source\n"a\nb.tif"\n', ["a\nb.tif"]),
        (b"input,output\na.tif\n", ["a.tif"]),
    ],
)
def test_sheets_differ_in_small_ways(tmp_path: Path, content: bytes, sources: list[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    assert [each.source for each in read_list(str(path), False)] == sources


@pytest.mark.parametrize("content", [b"", b"name\na.tif\n", b'input\n"' + b"a" * 200_000 + b'"\n'])
def test_what_is_no_sheet_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_list(str(path), False)


@pytest.mark.parametrize(
    "content",
    [
        b"a.tif\r\nb.tif\r\n",
        b"\xef\xbb\xbfa.tif\nb.tif",
        "a.tif\r\nb.tif\r\n".encode("utf-16"),
        b'"a.tif"\n"b.tif"\n',
        b"a.tif\rb.tif\r",
    ],
)
def test_a_list_is_read_as_windows_writes_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    assert [each.source for each in read_list(str(path), False)] == ["a.tif", "b.tif"]


def test_names_in_a_list_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"lat\xe9.tif\nline\xe2\x80\xa8break.tif\n")
    sources = [each.source for each in read_list(str(path), False)]
    assert list(map(os.fsencode, sources)) == [b"lat\xe9.tif", b"line\xe2\x80\xa8break.tif"]


def test_a_settings_file_is_read_as_windows_writes_it(
    dehazexl: Command, small_scene: Path, tmp_path: Path
) -> None:
    for content in ("strength = 0.25\r\n".encode("utf-8-sig"), "strength = 0.25\r\n".encode("utf-16")):
        (tmp_path / "s.toml").write_bytes(content)
        shown = dehazexl("config", "show", "--json", "run", "--config", tmp_path / "s.toml")
        assert (shown.code, json.loads(shown.out)["run"]["strength"]["value"]) == (0, 0.25)
    for path in (r"C:\net.pt", r"C:\data\x.pt", r"C:\Users\me"):
        (tmp_path / "s.toml").write_text(f'[run]\nweights = "{path}"\n')
        refused = dehazexl("config", "show", "run", "--config", tmp_path / "s.toml")
        assert refused.code == 3
        assert "single quotes" in refused.err


def test_marks_tell_the_encoding() -> None:
    assert decoded("ä".encode("utf-16-be")) != decoded(b"\xfe\xff" + "ä".encode("utf-16-be")) == "ä"


def test_tags_that_are_not_utf8_are_carried_and_named(dehazexl: Command, tmp_path: Path) -> None:
    copyright = (33432, 2, 0, b"\xa9 2020 M\xfcller\0", True)
    source, out = tmp_path / "a.tif", tmp_path / "b.tif"
    picture = np.full((40, 50, 3), 120, np.uint8)
    tifffile.imwrite(source, picture, photometric="rgb", metadata=None, extratags=[copyright])
    result = dehazexl("run", source, out, "--model", "mgbl-s", "--json")
    with rasterio.open(out) as made:
        assert made.tags()["TIFFTAG_COPYRIGHT"] == "© 2020 Müller"
    assert any("TIFFTAG_COPYRIGHT" in each for each in json.loads(result.out)["warnings"])
    assert "Failed to decode" not in result.err


def test_labels_of_bands_that_are_not_utf8_are_named_as_left_out(dehazexl: Command, tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "a.tif", "w", width=50, height=40, count=1, dtype="uint8") as file:
        file.write(np.full((1, 40, 50), 120, np.uint8))
    (tmp_path / "v.vrt").write_bytes(
        b'<VRTDataset rasterXSize="50" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1">'
        b"<Description>gr\xfcn</Description><UnitType>\xb5m</UnitType><SimpleSource><SourceFilename "
        b'relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        b"</VRTRasterBand></VRTDataset>"
    )
    result = dehazexl("run", tmp_path / "v.vrt", tmp_path / "b.tif", "--model", "mgbl-s")
    assert result.code == 0
    assert "so left out: the descriptions of the bands" in result.err
    assert dehazexl("info", tmp_path / "v.vrt").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_refused(tmp_path: Path, small_scene: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/lat\xe9.tif")
    os.link(small_scene, name)
    with pytest.raises(InputError, match="not in UTF-8"):
        open_reader(name)
    with pytest.raises(OutputError, match="not in UTF-8"):
        Staging(name, overwrite=True)


@pytest.mark.skipif(sys.platform != "linux", reason="locales of Linux")
def test_names_are_utf8_whatever_the_locale_says(tmp_path: Path, small_scene: Path) -> None:
    os.link(small_scene, tmp_path / "ü.tif")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    plain["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", "dehazexl_cli", "info", "ü.tif", "--json"]
    told = subprocess.run(command, capture_output=True, env=plain, cwd=tmp_path, check=True).stdout
    assert json.loads(told)[0]["input"] == "ü.tif"


@pytest.mark.parametrize("length", [247, 248, 255, 300])
def test_a_name_too_long_is_refused_before_work(tmp_path: Path, length: int) -> None:
    target = str(tmp_path / ("ä" * 10 + "o" * (length - 24) + ".tif"))
    assert len(os.fsencode(os.path.basename(target))) == length
    if length <= 247:
        Staging(target, overwrite=False).discard()
        return
    with pytest.raises(OutputError, match="too long"):
        Staging(target, overwrite=False)
    with pytest.raises(InputError):
        open_reader(target)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("HTTP response code: 401", "credentials"),
        ("HTTP response code: 403", "credentials"),
        ("HTTP response code: 404", "check the address"),
        ("HTTP response code: 503", "again later"),
        ("CURL error: Could not resolve host: example.invalid", "network"),
        ("AWS_SECRET_ACCESS_KEY and AWS_NO_SIGN_REQUEST configuration options not defined", "credentials"),
        (
            "Missing AZURE_STORAGE_ACCOUNT+… configuration options or Azure CLI configuration file",
            "credentials",
        ),
        ("does not exist in the file system", "check the name"),
        ("Permission denied", "right"),
    ],
)
def test_what_cannot_be_reached_is_not_called_damaged(said: str, word: str) -> None:
    refused = why_not_opened("/vsicurl/https://host/a.tif", said)
    assert word in refused.hint
    assert "damaged" not in refused.hint


def test_outlines_are_told_from_a_raster(tmp_path: Path) -> None:
    (tmp_path / "field.geojson").write_text('{"type": "Point", "coordinates": [13, 52]}')
    with pytest.raises(InputError, match="outlines") as refused:
        open_reader(tmp_path / "field.geojson")
    assert "gdal_rasterize" in refused.value.hint


def test_an_archive_is_told_from_a_raster(tmp_path: Path, small_scene: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as packed:
        packed.write(small_scene, "in/a.tif")
    with pytest.raises(InputError, match="archive") as refused:
        open_reader(tmp_path / "s.zip")
    _, _, name = refused.value.hint.partition(": ")
    assert open_reader(name).info.count == 3
    for name in ("b.tar", "b.gz", "b.tgz"):
        (tmp_path / name).write_bytes(b"no archive at all")
        with pytest.raises(InputError, match=r"archive|packed"):
            open_reader(tmp_path / name)


def test_subdatasets_of_one_file_become_several(tmp_path: Path) -> None:
    scenes = collect(["GPKG:g.gpkg:june", "GPKG:g.gpkg:july"], [], Naming(tmp_path))
    assert [scene.target.name for scene in scenes] == ["g_june.tif", "g_july.tif"]


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """What a shell makes of a line with the command in it."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = script.replace("dehazexl", f"{sys.executable} -m dehazexl_cli")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("dehazexl info small.tif --json > /dev/full", 4),
        ("dehazexl info small.tif >&-", 4),
        ("dehazexl --help > /dev/full", 4),
        ("dehazexl info small.tif --json | true", 4),
        ("dehazexl info nothing.tif 2> /dev/full", 3),
        ("dehazexl info nothing.tif 2>&-", 3),
        ("dehazexl run small.tif out.tif --model mgbl-s --overwrite 2> /dev/full", 0),
        ("dehazexl run small.tif out.tif --model mgbl-s --overwrite --progress always 2> /dev/full", 0),
        ("dehazexl run small.tif out.tif --model mgbl-s --overwrite >&- 2>&- <&-", 0),
    ],
)
def test_streams_that_are_closed_or_full(script: str, code: int, small_scene: Path) -> None:
    small_scene.rename(small_scene.with_name("small.tif"))
    ended = shell(script, small_scene.parent)
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    if code == 0:
        assert (small_scene.parent / "out.tif").exists()


@pytest.mark.parametrize("words", ["run --help", "", "--version"])
def test_help_that_nobody_reads_to_its_end_ends_as_other_data_does(words: str, tmp_path: Path) -> None:
    ended = shell(f"dehazexl {words} | true", tmp_path)
    assert ended.returncode == 4
    assert (ended.stderr == b"") == (words != "--version")
