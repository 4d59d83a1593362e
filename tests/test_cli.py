"""`dehazexl run` and `plan` as a shell sees them: files, streams, exit codes, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import Result, as_from_a_terminal, names
from rasterio.transform import from_origin

from dehazexl_cli import Options, __version__, dehaze, dehaze_file, load_model
from dehazexl_cli.models import REGISTRY

Command = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[1]
# The first process that chooses a precision tries them, and what that takes counts as its own.
FIXED = ("--precision", "fp32", "--max-ram", "8G")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return make_scene(tmp_path / "in.tif", 150, 200)


def make_scene(path: Path, height: int, width: int, dtype: str = "uint8", count: int = 3) -> Path:
    top = 255 if dtype == "uint8" else 4000 if dtype == "uint16" else 1
    values = np.random.default_rng(0).random((count, height, width)) * top
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype=dtype,
        crs="EPSG:32633",
        transform=from_origin(4e5, 5e6, 0.5, 0.5),
    ) as file:
        file.write(values.astype(dtype))
        file.update_tags(MISSION="one")
    return path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in ("run", "plan", "evaluate", "train"))],
)
def test_help_is_quick_and_loads_no_heavy_library(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['dehazexl', *{arguments!r}]\n"
        "from dehazexl_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'rasterio', 'numpy', 'tifffile'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    seconds = []
    for _ in range(3):  # the machine may be busy; the best run tells what the command itself needs
        began = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        ended = os.times()
        seconds.append(
            ended.children_user + ended.children_system - began.children_user - began.children_system
        )
    assert min(seconds) < 0.8  # importing torch alone takes longer


def test_version_is_the_package_s(dehazexl: Command) -> None:
    assert dehazexl("--version").out.strip() == f"dehazexl {__version__}"


def test_a_geotiff_comes_out_changed_with_its_georeference(
    dehazexl: Command, scene: Path, tiny_weights: Path
) -> None:
    out = scene.with_name("out.tif")
    result = dehazexl("run", scene, out, "--weights", tiny_weights)
    assert (result.code, result.out) == (0, "")
    assert "200 x 150 pixels" in result.err
    with rasterio.open(scene) as before, rasterio.open(out) as after:
        assert (after.crs, after.transform, after.shape) == (before.crs, before.transform, before.shape)
        assert after.tags()["MISSION"] == "one"
        assert after.dtypes == before.dtypes
        assert not np.array_equal(after.read(), before.read())
    assert names(scene.parent) == {"in.tif", "out.tif"}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_types_keep_type_and_range(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path, dtype: str
) -> None:
    scene = make_scene(tmp_path / "in.tif", 70, 90, dtype, count=4)
    out = tmp_path / "out.tif"
    result = dehazexl("run", scene, out, "--weights", tiny_weights, "-b", "3,2,1", "--json")
    report = json.loads(result.out)
    assert report["overlap"] == 32
    assert report["range_source"] == "percentiles"
    with rasterio.open(scene) as before, rasterio.open(out) as after:
        assert after.dtypes == before.dtypes
        assert np.array_equal(after.read(4), before.read(4))
        assert not np.array_equal(after.read(1), before.read(1))
        assert 0.2 < after.read(1).mean() / before.read(1).mean() < 5


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_png_comes_out_as_png(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    image = tmp_path / "in.png"
    with rasterio.open(image, "w", driver="PNG", height=50, width=60, count=3, dtype="uint8") as file:
        file.write(np.random.default_rng(0).integers(0, 255, (3, 50, 60), dtype=np.uint8))
    assert dehazexl("run", image, tmp_path / "out.png", "--weights", tiny_weights).code == 0
    with rasterio.open(tmp_path / "out.png") as file:
        assert (file.driver, file.shape, file.count) == ("PNG", (50, 60), 3)


def test_json_on_stdout_is_the_whole_report(
    dehazexl: Command, scene: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    result = dehazexl(
        "run", scene, tmp_path / "out.tif", "--weights", tiny_weights, "--json", "--report", file
    )
    report = json.loads(result.out)
    assert report == json.loads(file.read_text())
    assert (report["height"], report["width"], report["model"]) == (150, 200, "dehazexl-s")
    assert report["plan"]["attention"] == "exact"
    assert set(report["seconds"]) == {"prepare", "encode", "bottleneck", "decode", "finish"}
    assert report["peak_host_bytes"] > 50e6
    assert re.fullmatch("[0-9a-f]{64}", report["weights_sha256"])
    assert report["fallbacks"] == report["warnings"] == []


def test_quiet_says_nothing(dehazexl: Command, scene: Path, tiny_weights: Path) -> None:
    result = dehazexl("run", scene, scene.with_name("o.tif"), "--weights", tiny_weights, "-q")
    assert result == Result(0, "", "")


def test_strength_zero_gives_the_input_back(dehazexl: Command, scene: Path, tiny_weights: Path) -> None:
    out = scene.with_name("o.tif")
    assert dehazexl("run", scene, out, "--weights", tiny_weights, "--strength", "0").code == 0
    with rasterio.open(scene) as before, rasterio.open(out) as after:
        assert np.array_equal(before.read(), after.read())


def printed(*arguments: object) -> str:
    """What a command prints as a process of its own: plans count what the process of tests holds."""
    command = [sys.executable, "-m", "dehazexl_cli", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_plan_and_dry_run_print_the_same_and_write_nothing(scene: Path) -> None:
    planned = printed("plan", scene, *FIXED)
    dry = printed("run", scene, scene.with_name("o.tif"), "--dry-run", *FIXED)
    assert planned == dry
    assert names(scene.parent) == {"in.tif"}
    assert "8.00 GB allowed" in planned
    assert "attention  exact" in planned


def test_a_run_is_planned_as_plan_says(scene: Path) -> None:
    """Plans are made without weights, which take memory to load."""
    planned, done = (
        json.loads(printed(*words, *FIXED, "--json"))["plan"]
        for words in (("plan", scene), ("run", scene, scene.with_name("o.tif"), "-q"))
    )
    near = 0.05 if torch.version.cuda else 0.03  # builds for CUDA load libraries when a network runs
    assert planned["host_bytes"] == pytest.approx(done["host_bytes"], rel=near)


@pytest.mark.parametrize("model", REGISTRY)
def test_planning_does_not_load_a_compiler(model: str) -> None:
    """Networks without numbers need none of it; it takes 80 MB, which plans would count, and a second."""
    code = (
        "import sys\n"
        "from dehazexl_cli.cli.options import Shared\n"
        "from dehazexl_cli.cli.plan import network_for\n"
        f"network_for(Shared(model={model!r}))\n"
        "heavy = {'sympy', 'torch._inductor', 'torch._dynamo'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plan_speaks_of_attention_only_where_there_is_some(dehazexl: Command, scene: Path) -> None:
    summed = dehazexl("plan", scene, "--model", "mgbl-s").out
    assert "attention" not in summed and "features" not in summed
    assert "context    patches add up to a small view of the scene" in summed
    assert "context" not in dehazexl("plan", scene).out


def test_plan_says_what_was_rejected_and_why(tmp_path: Path) -> None:
    def plan(*options: str) -> str:
        return printed("plan", scene, "--model", "dehazexl-paper", "--precision", "fp32", *options)

    scene = tmp_path / "large.tif"
    with rasterio.open(
        scene,
        "w",
        driver="GTiff",
        height=9000,
        width=9000,
        count=3,
        dtype="uint8",
        tiled=True,
        sparse_ok=True,
    ):
        pass
    facts = json.loads(plan("--max-ram", "4G", "--json"))
    rows, cols = facts["patches"]
    assert 0 < facts["plan"]["cached_patches"] < rows * cols  # as many features as there is room for
    assert facts["plan"]["attention"] == "sampled"
    assert {(plan["skips"], plan["cached_patches"]) for plan in facts["rejected"]} == {("host", None)}
    least = f"{(facts['smallest']['host_bytes'] >> 20) + 32}M"
    tight = json.loads(plan("--max-ram", least, "--json"))
    assert tight["plan"]["skips"] == facts["smallest"]["skips"] == "recompute"
    said = plan("--max-ram", "4G")
    assert re.search(r"those of \d+ patches kept in memory", said)


def test_an_existing_output_is_kept_unless_told(dehazexl: Command, scene: Path, tiny_weights: Path) -> None:
    out = scene.with_name("o.tif")
    out.write_bytes(b"precious")
    result = dehazexl("run", scene, out, "--weights", tiny_weights)
    assert result.code == 4
    assert "--overwrite" in result.err
    assert out.read_bytes() == b"precious"
    assert dehazexl("run", scene, out, "--weights", tiny_weights, "--overwrite").code == 0
    assert out.read_bytes() != b"precious"


def spoil(folder: Path, kind: str) -> Path:
    """An input of some unusable kind."""
    path = folder / f"{kind}.tif"
    if kind == "directory":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is no image")
    elif kind == "empty":
        path.touch()
    elif kind == "complex":
        with rasterio.open(path, "w", driver="GTiff", height=9, width=9, count=3, dtype="complex64"):
            pass
    elif kind == "truncated":
        make_scene(path, 300, 300)
        path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["missing", "directory", "text", "empty", "complex", "truncated"])
def test_an_unusable_input_is_two_lines_and_exit_3(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path, kind: str
) -> None:
    path = spoil(tmp_path, kind)
    before = names(tmp_path)
    result = dehazexl("run", path, tmp_path / "o.tif", "--weights", tiny_weights, "-q")
    assert (result.code, result.out) == (3, "")
    lines = result.err.splitlines()
    assert len(lines) == 2, result.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  try: ")
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--bands", "1,2,9"], 2, "no band 9"),
        (["--bands", "red"], 2, "no band numbers"),
        (["--input-range", "9,1"], 2, "empty"),
        (["--input-range", "all"], 2, "no numbers"),
        (["--strength", "3"], 2, "out of range"),
        (["--overlap", "200"], 2, "use 0 to 32"),
        (["--overlap", "some"], 2, "no number of pixels"),
        (["--max-ram", "lots"], 2, "no amount of memory"),
        (["--max-ram", "100M"], 6, "--max-ram "),
        (["--device", "abacus"], 2, "no device"),
        (["--model", "dehazexl-xxl"], 2, "no model named"),
        (["--model", "dehazexl-paper"], 5, "holds weights of dehazexl-s"),
        (["--weights", "nowhere.safetensors"], 5, "nowhere.safetensors"),
        (["--weights", __file__], 5, "no readable weight file"),
        (["--device", "cuda:7"], 6, "not available"),
        (["--precision", "fp16", "--device", "cpu"], 2, "bf16"),
        (["--no-such-option"], 2, "No such option"),
    ],
)
def test_a_wish_that_cannot_be_kept_says_so(
    dehazexl: Command, scene: Path, tiny_weights: Path, arguments: list[str], code: int, word: str
) -> None:
    result = dehazexl("run", scene, scene.with_name("o.tif"), "--weights", tiny_weights, "-q", *arguments)
    assert result.code == code, result.err
    assert word in result.err
    assert "Traceback" not in result.err
    assert names(scene.parent) == {"in.tif"}


def test_an_unwritable_target_is_exit_4(dehazexl: Command, scene: Path, tiny_weights: Path) -> None:
    for target in (scene.parent / "no" / "o.tif", scene.parent / "o.xyz", scene.parent):
        result = dehazexl("run", scene, target, "--weights", tiny_weights, "-q")
        assert result.code == 4, result.err
        assert len(result.err.splitlines()) == 2
    assert names(scene.parent) == {"in.tif"}


def test_an_output_of_a_failed_run_is_gone(
    dehazexl: Command, scene: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("dehazexl_cli.engine.patches.finished_rows", broken)
    result = dehazexl("run", scene, scene.with_name("o.tif"), "--weights", tiny_weights, "-q")
    assert result.code == 1
    assert "ZeroDivisionError: unforeseen" in result.err
    assert "--debug" in result.err
    assert names(scene.parent) == {"in.tif"}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 3 bytes")]
)
def test_memory_that_ends_before_there_is_a_plan_is_no_bug(
    error: Exception, dehazexl: Command, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("dehazexl_cli.models.loading.load_model", broken)
    result = dehazexl("run", scene, scene.with_name("o.tif"), "-q")
    assert result.code == 6
    assert result.err.splitlines()[0] == "error: memory ran out"
    assert "--debug" not in result.err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("phase", ["encode", "decode"])
def test_a_signal_in_any_phase_leaves_one_message_and_no_file(
    tmp_path: Path, tiny_weights: Path, number: int, code: int, phase: str
) -> None:
    scene = make_scene(tmp_path / "in.tif", 1500, 1500)
    options = ["--weights", str(tiny_weights), "--progress", "json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dehazexl_cli", "run", scene, tmp_path / "o.tif", *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=as_from_a_terminal,
    )
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["phase"] == phase and event["done"] > 20:
            break
    os.kill(process.pid, number)
    events = [json.loads(line) for line in process.communicate(timeout=30)[1].splitlines()]
    assert process.returncode == code
    (error,) = [event for event in events if event["event"] == "error"]
    assert error["message"].startswith("stopped by") and error["exit_code"] == code
    assert names(tmp_path) == {"in.tif"}


def test_python_and_the_command_line_give_the_same_pixels(
    dehazexl: Command, scene: Path, tiny_weights: Path
) -> None:
    out = scene.with_name("o.tif")
    assert dehazexl("run", scene, out, "--weights", tiny_weights).code == 0
    model = load_model(weights=tiny_weights)
    with rasterio.open(scene) as before, rasterio.open(out) as after:
        array = before.read().transpose(1, 2, 0)
        expected = after.read().transpose(1, 2, 0)
    assert np.array_equal(dehaze(array, model=model), expected)
    assert np.array_equal(dehaze(scene, model=model), expected)
    grey = dehaze(array[:, :, 0], model=model)
    assert grey.shape == array.shape[:2]
    report = dehaze_file(scene, scene.with_name("p.tif"), model=model, options=Options(strength=0.5))
    assert (report.strength, report.model) == (0.5, "dehazexl-s")
