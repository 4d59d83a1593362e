"""A run that was killed in any phase goes on where it was, and its output is that of one never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import Identity, Result, Toy, save_tiny_weights
from test_stream import FP32, scene

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import InferenceMode, PlanOverrides, Resume, run, run_checkpoint
from dehazexl_cli.engine.run_checkpoint import RunCheckpoint
from dehazexl_cli.errors import DehazeError, OutputError
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.report import Report

Command = Callable[..., Result]
ARRAY = scene(90, 120)
ARRAY[:30, :50] = 0
ARRAY[40:60, 20:90] = 0  # patches without ground, and gaps
WENT_ON, ANEW = "went on with a run that was stopped", "started anew"


class Killed(Exception):
    """Ends a run at once, as SIGKILL ends a process."""


class Mortal(Toy):
    """Is killed at its n-th call of one of its three steps."""

    def __init__(self, phase: str, calls: int, token_reduction: str = "stack") -> None:
        super().__init__(token_reduction=token_reduction)
        self.phase, self.calls = phase, calls
        self.done: list[str] = []

    def step(self, phase: str) -> None:
        if phase == self.phase:
            self.calls -= 1
            if self.calls < 0:
                raise Killed
        self.done.append(phase)

    def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
        self.step("encode")
        return super().encode(batch)

    def apply_bottleneck(self, tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        self.step("bottleneck")
        return super().apply_bottleneck(tokens, *rest)  # type: ignore[arg-type]

    def decode(self, batch: PatchBatch, scene: torch.Tensor, skips: Skips) -> torch.Tensor:
        self.step("decode")
        return super().decode(batch, scene, skips)


def attempt(
    model: DehazeModel, resume: Resume | None, **options: object
) -> tuple[Pixels | None, Report | None]:
    """The result of a run; None of one that was killed."""
    reader = ArrayReader(ARRAY, nodata=0)
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info))
        return writers[-1]

    try:
        chosen = EngineOptions(**(FP32 | {"overrides": PlanOverrides(batch=3)} | options))  # type: ignore[arg-type]
        report = run(reader, make_writer, model, chosen, resume=resume)
    except Killed:
        return None, None
    return writers[-1].array, report


OVERLAP, GREY = {"overlap": 4}, {"bands": (2,), "all_bands": True}
KILLS = [
    *[(phase, calls, "stack", OVERLAP) for phase in ("encode", "decode") for calls in (0, 1, 5, 11)],
    *[(phase, calls, "sum", {}) for phase in ("encode", "decode") for calls in (0, 3, 9)],
    *[("bottleneck", calls, "stack", GREY) for calls in (0, 1)],
    *[("encode", 9, "stack", GREY), ("decode", 13, "stack", GREY)],
    ("decode", 4, "stack", {"mode": InferenceMode("tile", 40)}),
    ("decode", 0, "stack", {"mode": InferenceMode("whole")}),
    ("decode", 0, "stack", {"mode": InferenceMode("downsample", long_side=64)}),
    ("decode", 14, "stack", GREY),
    *[("decode", 6, "stack", OVERLAP | {"overrides": PlanOverrides("recompute", 1)})],
]


@pytest.mark.parametrize(("phase", "calls", "token_reduction", "options"), KILLS)
def test_a_run_goes_on_from_wherever_it_was_killed(
    phase: str, calls: int, token_reduction: str, options: dict[str, object], tmp_path: Path
) -> None:
    expected, plain = attempt(Toy(token_reduction=token_reduction), None, **options)
    resume = Resume(str(tmp_path / "journal"), {"the input": 1})
    whole = Mortal("none", 0, token_reduction)
    attempt(whole, None, **options)
    mortal = Mortal(phase, calls, token_reduction)
    assert attempt(mortal, resume, **options) == (None, None)
    left = (tmp_path / "journal").exists()
    second = Mortal("none", 0, token_reduction)
    output, report = attempt(second, resume, **options)
    assert output is not None and expected is not None and report is not None and plain is not None
    assert np.array_equal(output, expected)
    counted = ("invalid_pixels", "outside_range", "clipped_values", "redone_batches")
    assert [getattr(report, name) for name in counted] == [getattr(plain, name) for name in counted]
    assert (WENT_ON in report.warnings) == left
    if "mode" not in options:  # in other modes each tile mixes
        assert second.done.count("bottleneck") == whole.done.count("bottleneck") - mortal.done.count(
            "bottleneck"
        )
    assert not (tmp_path / "journal").exists()


def test_a_run_may_be_killed_again_and_again(tmp_path: Path) -> None:
    expected, _ = attempt(Toy(), None, **OVERLAP)
    resume, runs = Resume(str(tmp_path / "journal"), {}), 0
    output = None
    while output is None:
        runs += 1
        assert runs < 40
        # Each run may do little more than one row, of encoding and of decoding.
        output, _ = attempt(Mortal(("encode", "decode")[runs % 2], 9), resume, **OVERLAP)
    assert runs > 5
    assert expected is not None and np.array_equal(output, expected)


def test_whatever_makes_a_result_another_one_starts_anew_and_says_so(tmp_path: Path) -> None:
    folder = str(tmp_path / "journal")
    first = Resume(folder, {"the input": "a", "the weights": "b"})
    changes = [
        (Resume(folder, {"the input": "x", "the weights": "b"}), {}, "the input changed"),
        (Resume(folder, {"the input": "a", "the weights": "x"}), {}, "the weights changed"),
        (first, {"strength": 0.5}, "the options changed"),
        (first, {"overrides": PlanOverrides(batch=1)}, "the options and the plan changed"),
        (first, {"threads": torch.get_num_threads() + 1}, "the machine changed"),
    ]
    for resume, options, words in changes:
        attempt(Mortal("decode", 4), first)
        output, report = attempt(Toy(), resume, **options)
        expected, _ = attempt(Toy(), None, **options)
        assert report is not None and np.array_equal(output, expected)  # type: ignore[arg-type]
        (warning,) = report.warnings
        assert warning.startswith(words) and warning.endswith(ANEW)


def test_what_an_older_version_kept_is_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = Resume(str(tmp_path / "journal"), {})
    with monkeypatch.context() as patch:
        patch.setattr(run_checkpoint, "FORMAT_VERSION", run_checkpoint.FORMAT_VERSION - 1)
        attempt(Mortal("decode", 4), resume)
    _, report = attempt(Toy(), resume)
    assert report is not None and report.warnings[0].startswith("what is kept of a scene changed")


def test_where_and_how_fast_do_not_count_as_changes(tmp_path: Path) -> None:
    resume = Resume(str(tmp_path / "journal"), {})
    attempt(Mortal("decode", 4), resume)
    output, report = attempt(Toy(), resume, max_ram=3 << 30, tmp_dir=str(tmp_path))
    assert report is not None and report.warnings == [WENT_ON]
    assert np.array_equal(output, attempt(Toy(), None)[0])  # type: ignore[arg-type]


def test_a_run_goes_on_by_the_plan_it_was_begun_with(tmp_path: Path) -> None:
    class Short(Mortal):
        def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
            if len(batch.ids) > 2:
                raise MemoryError("planned for a test")
            return super().encode(batch)

    resume = Resume(str(tmp_path / "journal"), {})
    attempt(Short("decode", 12), resume, overrides=PlanOverrides())
    output, report = attempt(Toy(), resume, overrides=PlanOverrides())
    assert report is not None and report.plan["batch"] == 2
    assert report.warnings == [WENT_ON]
    assert np.array_equal(output, attempt(Toy(), None)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["log", "tokens-0", "context-0", "rows"])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_what_came_to_harm_is_done_again(tmp_path: Path, name: str, harm: str) -> None:
    resume = Resume(str(tmp_path / "journal"), {})
    attempt(Mortal("decode", 9), resume)
    path = tmp_path / "journal" / name
    content = bytearray(path.read_bytes())
    if harm == "cut":
        del content[-3:]
    else:
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    output, _ = attempt(Toy(), resume)
    assert np.array_equal(output, attempt(Toy(), None)[0])  # type: ignore[arg-type]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    first = RunCheckpoint(folder, {}, {})
    with pytest.raises(OutputError, match="another run is at work"):
        RunCheckpoint(folder, {}, {})
    first.close()
    RunCheckpoint(folder, {}, {}).discard()


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Identity):
        def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
            raise Killed

    attempt(Broken(), Resume(str(tmp_path / "journal"), {}))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be kept"):
        attempt(Toy(), Resume(str(tmp_path / "file" / "journal"), {}))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def hazy(tmp_path: Path) -> Path:
    path = tmp_path / "hazy.tif"
    profile = {"driver": "GTiff", "height": 900, "width": 700, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=128, blockysize=128) as file:
        file.write(scene(900, 700, 3).transpose(2, 0, 1))
    return path


SLOWLY = """
import sys, time
from dehazexl_cli.engine.executor import LocalExecutor
phase, rows, marker = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def wait(of, name):
    real, calls = getattr(of, name), 0
    def slow(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls > rows:
            open(marker, "w").close()
            time.sleep(60)
        return real(*arguments, **named)
    setattr(of, name, slow)

from dehazexl_cli.raster.gdal_writer import GdalWriter
step = {"encode": "_encode", "bottleneck": "apply_bottleneck", "decode": "_decode"}
wait(*(GdalWriter, "commit") if phase == "finish" else (LocalExecutor, step[phase]))
sys.argv = ["dehazexl", *sys.argv[4:]]
from dehazexl_cli.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "rows"), [("encode", 7), ("bottleneck", 0), ("decode", 9), ("finish", 0)])
def test_a_process_killed_in_any_phase_leaves_what_it_did(
    phase: str, rows: int, hazy: Path, weights: Path, tmp_path: Path, dehazexl: Command
) -> None:
    clear, again, store = tmp_path / "clear.tif", tmp_path / "again.tif", tmp_path / "store"
    store.mkdir()
    # As many threads here, where other tests have run, as in a process that has just begun.
    options = ["--weights", weights, "--device", "cpu", "--no-provenance", "--threads", 2]
    resuming = [*options, "--resume", "--tmp-dir", store, "--json"]
    assert dehazexl("run", hazy, clear, *options).code == 0
    marker = tmp_path / "marker"
    command = [sys.executable, "-c", SLOWLY, phase, rows, marker, "run", hazy, again, *resuming]
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not marker.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert marker.exists()
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not again.exists()
    done = dehazexl("run", hazy, again, *resuming)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["warnings"] == [WENT_ON]
    assert again.read_bytes() == clear.read_bytes()
    assert not list(store.glob(".again.tif.resume"))


@pytest.mark.slow
def test_a_command_notices_that_its_input_changed(
    hazy: Path, weights: Path, tmp_path: Path, dehazexl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear, again = tmp_path / "clear.tif", tmp_path / "again.tif"
    options = ["--weights", weights, "--device", "cpu", "--no-provenance"]

    def stopped(*arguments: object) -> None:
        raise DehazeError("planned for a test")

    with monkeypatch.context() as patch:
        patch.setattr("dehazexl_cli.engine.executor.LocalExecutor.apply_bottleneck", stopped)
        assert dehazexl("run", hazy, again, *options, "--resume").code == 1
    assert (tmp_path / ".again.tif.resume").is_dir()
    before = hazy.stat()
    with rasterio.open(hazy, "r+") as file:
        band = file.read(1)
        band[5, 5] ^= 1
        file.write(band, 1)
    os.utime(hazy, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = dehazexl("run", hazy, again, *options, "--resume", "--json")
    assert json.loads(done.out)["warnings"] == [
        "the input changed since the run that was stopped: started anew"
    ]
    assert dehazexl("run", hazy, clear, *options).code == 0
    assert again.read_bytes() == clear.read_bytes()
    assert not (tmp_path / ".again.tif.resume").exists()
