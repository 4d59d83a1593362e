"""One rule for every path that is written: what is no output stays, and is refused before any work."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Result

from dehazexl_cli import dehaze_file, load_model
from dehazexl_cli.atomic import write_atomic
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.paths import (
    descriptor_of,
    file_of,
    keep_rights,
    make_folder,
    require_all_writable,
    require_writable,
)

Command = Callable[..., Result]
FAST = ("--model", "mgbl-s", "-q")
PIXELS = np.random.default_rng(0).integers(1, 250, (3, 40, 50), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(name: str, pixels: np.ndarray = PIXELS) -> Path:
    count, height, width = pixels.shape
    driver = "PNG" if name.endswith(".png") else "GTiff"
    shape = {"count": count, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(name, "w", driver=driver, **shape) as made:
        made.write(pixels)
    return Path(name)


def test_the_rule() -> None:
    Path("there").write_text("old")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    os.symlink("there", "link")
    require_writable("new", False)
    require_writable("there", True)
    require_writable("pipe", False)
    require_writable("/dev/null", False)
    for path, overwrite, word in [
        ("there", False, "exists already"),
        ("link", False, "exists already"),
        ("folder", True, "is a folder"),
        ("loop", True, "cannot be written"),
        ("gone/new", True, "no such folder"),
        ("x" * 300, True, "cannot be written"),
        ("/dev/fd/987", True, "cannot be written"),
    ]:
        with pytest.raises(OutputError, match=word) as caught:
            require_writable(path, overwrite)
        assert caught.value.hint and caught.value.exit_code == 4
    for path in ("s3://bucket/out.tif", "/vsis3/bucket/out.tif", "file:///out.tif"):
        with pytest.raises(OutputError, match="no place on this machine"):
            require_writable(path, True)
        with pytest.raises(OutputError, match="no place on this machine"):
            make_folder(Path(path))
    for path in ("pipe", "/dev/null", "-", "/dev/stdout"):
        with pytest.raises(OutputError, match="is a pipe or a device"):
            require_writable(path, True, streams=False)
    assert sorted(os.listdir()) == ["folder", "link", "loop", "pipe", "there"]


def test_inputs_and_outputs_are_told_apart_by_whatever_name() -> None:
    Path("a.zip").write_text("zip")
    Path("in.tif").write_text("in")
    os.symlink("in.tif", "link.tif")
    for name in ("in.tif", "link.tif", "./in.tif", os.path.abspath("in.tif")):
        with pytest.raises(OutputError, match="another input or output"):
            require_writable(name, True, [None, "in.tif"])
    assert file_of("/vsizip/a.zip/b/c.tif") == "a.zip" == file_of("/vsizip/{a.zip}/c.tif")
    assert file_of(f"/vsizip/{os.path.abspath('a.zip')}/c.tif") == os.path.abspath("a.zip")
    assert file_of('GPKG:"in.tif":table') == "in.tif" and file_of("https://host/x") == "https://host/x"
    with pytest.raises(OutputError, match=r"a\.zip"):
        require_writable("a.zip", True, ["/vsizip/a.zip/c.tif"])
    with pytest.raises(OutputError, match="another input or output"):
        require_all_writable(["new.png", "./new.png"], True)


def test_open_files_of_the_process_are_found_behind_links() -> None:
    os.symlink("/dev/stdout", "out")
    assert [descriptor_of(name) for name in ("-", "/dev/stdout", "out", "/proc/self/fd/7", "/dev/fd/63")] == [
        1, 1, 1, 7, 63,
    ]  # fmt: skip
    assert descriptor_of("/dev/null") is None and descriptor_of("new") is None


def test_a_document_keeps_links_and_mode_and_does_not_wait_for_readers() -> None:
    Path("real").write_text("old")
    Path("real").chmod(0o640)
    os.symlink("real", "link")
    write_atomic(Path("link"), "new", "")
    assert os.path.islink("link") and Path("real").read_text() == "new"
    assert stat.S_IMODE(os.stat("real").st_mode) == 0o640
    os.mkfifo("pipe")
    with pytest.raises(OutputError, match="pipe: cannot be written"):
        write_atomic(Path("pipe"), "new", "")
    write_atomic(Path("/dev/null"), "new", "")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_file_that_is_replaced_hands_on_its_access_list_and_attributes() -> None:
    old, new, nobody = Path("old"), Path("new"), 2**32 - 1
    # Who owns it, user 1234, its group, at most, all others.
    entries = ((1, 6, nobody), (2, 4, 1234), (4, 0, nobody), (16, 4, nobody), (32, 0, nobody))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    old.touch(0o600)
    new.touch(0o644)
    try:
        os.setxattr(old, "user.project", b"survey 7")
        os.setxattr(old, "system.posix_acl_access", acl)
    except (AttributeError, OSError):
        pytest.skip("no such attributes here")
    keep_rights(old, new)
    assert os.getxattr(new, "user.project") == b"survey 7"
    assert os.getxattr(new, "system.posix_acl_access") == acl
    assert stat.S_IMODE(new.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "report", ["in.tif", "link.tif", "mask.tif", "there.json", "gone/r.json", ".", "loop"]
)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_report_takes_no_other_files_place(dehazexl: Command, report: str, overwrite: list[str]) -> None:
    make("in.tif")
    make("mask.tif", PIXELS[:1])
    os.symlink("in.tif", "link.tif")
    os.symlink("loop", "loop")
    Path("there.json").write_text("precious")
    if report == "there.json" and overwrite:
        pytest.skip("that is what --overwrite is for")
    before = {name: Path(name).read_bytes() for name in ("in.tif", "mask.tif", "there.json")}
    options = ("--mask", "mask.tif", "--report", report, *overwrite)
    assert dehazexl("run", "in.tif", "out.tif", *FAST, *options).code == 4
    assert {name: Path(name).read_bytes() for name in before} == before and not Path("out.tif").exists()


@pytest.mark.parametrize("report", ["out.tif", "./out.tif"])
def test_a_report_is_never_what_the_result_is(dehazexl: Command, report: str) -> None:
    make("in.tif")
    assert dehazexl("run", "in.tif", "out.tif", *FAST, "--report", report).code == 4
    with rasterio.open("out.tif") as made:
        assert made.count == 3
    assert dehazexl("run", "in.tif", "o.png", *FAST, "--report", "o.png.aux.xml").code == 4


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "link"])
def test_a_report_goes_to_stdout(dehazexl: Command, name: str) -> None:
    make("in.tif")
    os.symlink("/dev/stdout", "link")
    made = dehazexl("run", "in.tif", "out.tif", *FAST, "--report", name)
    assert made.code == 0 and json.loads(made.out)["output"] == "out.tif" and os.path.islink("link")
    assert dehazexl("run", "in.tif", "o.tif", *FAST, "--report", name, "--json").code == 2


def test_a_report_goes_to_another_command() -> None:
    make("in.tif")
    run = f"'{sys.executable}' -m dehazexl_cli run in.tif out.tif {' '.join(FAST)}"
    command = f"{run} --report >(cat > got; echo > done)"
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        ["bash", "-c", command + "; while [ ! -e done ]; do sleep 0.05; done"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(Path("got").read_text())["output"] == "out.tif"


@pytest.mark.parametrize("kind", ["pipe", "null", "socket"])
def test_a_raster_is_a_file(dehazexl: Command, kind: str) -> None:
    import socket

    make("in.tif")
    target = {"pipe": "p.tif", "null": "/dev/null", "socket": "s.tif"}[kind]
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "pipe":
            os.mkfifo(target)
        if kind == "socket":
            server.bind(target)
        before = stat.S_IFMT(os.stat(target).st_mode)
        made = dehazexl("run", "in.tif", target, *FAST, "-f", "GTiff", "--overwrite")
        assert made.code == 4 and stat.S_IFMT(os.stat(target).st_mode) == before


COMMANDS = {
    "run": ("run", "in.tif", "in.tif", "--overwrite", *FAST),
    "run, a link": ("run", "in.tif", "link.tif", "--overwrite", *FAST),
    "run, the mask": ("run", "in.tif", "mask.tif", "--mask", "mask.tif", "--overwrite", *FAST),
    "run, a part of the mosaic": ("run", "all.vrt", "in.tif", "--overwrite", *FAST),
    "preview": ("preview", "in.png", "in.png", "--overwrite", *FAST),
    "explain": ("explain", "in.tif", "in.tif", "--window", "0,0,8,8", "--overwrite", "-q"),
    "explain's picture": ("explain", "in.png", "in.tiff", "--window", "0,0,8,8", "--overwrite", "-q"),
    "compare": ("compare", "global.tif", "--out", ".", "--modes", "global", "--overwrite", "-q"),
    "evaluate": ("evaluate", "--data", "pairs", "--csv", "pairs/hazy/a.png", "--overwrite", *FAST),
    "synth": ("synth", "made/cloud_L1/a.tif", "made", "--levels", "1", "--overwrite", "-q"),
    "train": ("train", "--data", "pairs", "--out", "runs", "--steps", "1", "-q"),
    "train, its log": ("train", "--data", "pairs", "--out", "sub", "--steps", "1", "-q"),
    "train, a file": ("train", "--data", "pairs", "--out", "in.tif", "--steps", "1", "-q"),
    "weights": ("weights", "convert", "w.safetensors", "w.safetensors", "--overwrite", "-q"),
    "batch": ("batch", "in.tif", ".", "--overwrite", *FAST),
    "batch, another result": ("batch", "a.tif", "a_x.tif", ".", "--suffix", "_x", "--overwrite", *FAST),
    "batch, the mask": ("batch", "in.tif", "sub", "--mask", "sub/in.tif", "--overwrite", *FAST),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_destroys_what_it_reads(dehazexl: Command, tiny_weights: Path, command: str) -> None:
    for folder in ("pairs/hazy", "pairs/clear", "made/cloud_L1", "sub", "runs"):
        Path(folder).mkdir(parents=True)
    for name in ("in.tif", "in.png", "global.tif", "a.tif", "a_x.tif", "made/cloud_L1/a.tif"):
        make(name)
    for name in ("pairs/hazy/a.png", "pairs/clear/a.png", "mask.tif", "sub/in.tif"):
        make(name, PIXELS[:1] if "in" in name or "mask" in name else PIXELS)
    os.symlink("in.tif", "link.tif")
    Path("runs/dehazexl-s.safetensors").write_text("weights of somebody")
    Path("sub/log.csv").write_text("a,b\n1,2\n")
    Path("w.safetensors").write_bytes(tiny_weights.read_bytes())
    rasterio.shutil.copy("in.tif", "all.vrt", driver="VRT")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    refused = dehazexl(*COMMANDS[command])
    assert refused.code == 4, refused.err
    assert {path: path.read_bytes() for path in before} == before


def test_the_original_is_replaced_only_when_that_is_said(dehazexl: Command) -> None:
    make("in.tif")
    before = Path("in.tif").read_bytes()
    for options in ((), ("--overwrite",)):
        refused = dehazexl("run", "in.tif", "in.tif", *FAST, *options)
        assert refused.code == 4 and "--in-place" in refused.err and "--overwrite" not in refused.err
    assert Path("in.tif").read_bytes() == before
    assert dehazexl("run", "in.tif", "in.tif", *FAST, "--in-place").code == 0
    assert Path("in.tif").read_bytes() != before
    assert dehazexl("run", "in.tif", "other.tif", *FAST, "--in-place").code == 2
    assert dehazexl("run", "in.tif", "in.tif", ".", *FAST, "--in-place").code == 2


def test_the_original_is_replaced_in_python_only_when_that_is_said() -> None:
    make("in.tif")
    model = load_model("mgbl-s")
    with pytest.raises(OutputError, match="is IN itself"):
        dehaze_file("in.tif", "in.tif", model=model, overwrite=True)
    with pytest.raises(UsageError):
        dehaze_file("in.tif", "out.tif", model=model, in_place=True)
    assert dehaze_file("in.tif", "in.tif", model=model, in_place=True).output == "in.tif"


@pytest.mark.parametrize("options", [(), ("--no-provenance",)])
@pytest.mark.parametrize("name", ["twice.tif", "twice.png"])
def test_what_was_dehazed_before_is_told_and_nothing_untrue(
    dehazexl: Command, name: str, options: tuple[str, ...]
) -> None:
    make("in.tif")
    first = dehazexl("run", "in.tif", "once.tif", "--model", "mgbl-s")
    assert "dehazed before" not in first.err
    again = dehazexl("run", "once.tif", name, "--model", "mgbl-s", *options)
    assert again.code == 0
    warnings = [line for line in again.err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "dehazed before, by dehazexl 0.1.0" in warnings[0]
    with rasterio.open(name) as made:
        tags = {key: text for key, text in made.tags().items() if key.startswith("DEHAZEXL_")}
    expected = "once.tif" if name.endswith(".tif") and not options else None
    assert tags.get("DEHAZEXL_SOURCE") == expected and bool(tags) == (expected is not None)
