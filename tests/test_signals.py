"""Processes that are asked to end, or killed, in every phase: what they say, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Result, as_from_a_terminal, names

from dehazexl_cli.atomic import ProcessId
from dehazexl_cli.engine.threads import BackgroundWriter
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.gdal import GdalReader

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
PHASES = ("load", "encode", "bottleneck", "decode", "finish", "rename")
# A real command that says when it is in a phase and stays there.
DRIVER = """
import os, sys, time
import dehazexl_cli
from dehazexl_cli.cli import main, output

phase = sys.argv.pop(1)

def stay():
    print("there", flush=True)
    time.sleep(60)

def load(*arguments):
    stay()

def replace(source, target):
    # The last renaming is that of the result; its side files have their names by then.
    if str(target).endswith(("out.tif", "out.vrt")):
        stay()
    rename(source, target)

show, rename = output.Progress.__call__, os.replace

def progress(self, now, done, total):
    show(self, now, done, total)
    if now == phase and (done > 3 or total == 1):
        stay()

if phase == "load":
    import dehazexl_cli.models.loading
    dehazexl_cli.models.loading.load_model = load
elif phase == "rename":
    os.replace = replace
else:
    output.Progress.__call__ = progress
main()
"""


Command = Callable[..., Result]


def in_few(*values: object) -> Any:
    """A case that is tried with the slow tests only."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene of several patches, with a tag that makes a side file."""
    path = tmp_path / "in.tif"
    shape = {"count": 3, "height": 200, "width": 210, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(
        path, "w", driver="GTiff", transform=rasterio.Affine(2, 0, 5e5, 0, -2, 4e6), **shape
    ) as f:
        f.write(np.random.default_rng(0).integers(50, 200, (3, 200, 210), dtype=np.uint8))
        f.update_tags(ns="IMD", satId="QB02")
    return path


@contextmanager
def staying(
    phase: str, *arguments: object, start: Callable[[], None] = as_from_a_terminal
) -> Iterator[subprocess.Popen[str]]:
    """A command that stays in a phase."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, phase, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=start,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def run_words(scene: Path, weights: Path, out: str = "out.tif") -> list[object]:
    return ["run", scene, scene.with_name(out), "--weights", weights, "--progress", "never"]


# Each takes seconds, so only some of all pairs are tried every time.
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        (phase, number)
        if index % len(SIGNALS) == PHASES.index(phase) % len(SIGNALS)
        else in_few(phase, number)
        for phase in PHASES
        for index, number in enumerate(SIGNALS)
    ],
)
def test_a_signal_in_any_phase_is_one_message_and_leaves_nothing(
    scene: Path, tiny_weights: Path, phase: str, number: signal.Signals
) -> None:
    before = names(scene.parent)
    with staying(phase, *run_words(scene, tiny_weights)) as process:
        if phase != "load":
            assert names(scene.parent) > before  # there is something to be left behind
        process.send_signal(number)
        process.send_signal(number)  # people repeat themselves, and so do schedulers
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.splitlines() == [
        f"error: stopped by {SIGNALS[number]}",
        "  try: nothing half done was left behind; run the same command again",
    ]
    assert names(scene.parent) == before


@pytest.mark.parametrize(
    "phase", [in_few("encode"), in_few("bottleneck"), in_few("finish"), "load", "decode", "rename"]
)
def test_a_killed_run_has_no_output_and_the_next_one_tidies_up(
    dehazexl: Command, scene: Path, tiny_weights: Path, phase: str
) -> None:
    before = names(scene.parent)
    words = run_words(scene, tiny_weights)
    with staying(phase, *words) as process:
        process.kill()
        process.communicate()
    left = names(scene.parent) - before
    assert "out.tif" not in left
    hidden = {name for name in left if name.startswith(".out.dehazexl-")}
    assert left - hidden == ({"out.tif.aux.xml"} if phase == "rename" else set())
    assert bool(hidden) == (phase != "load")
    if phase == "rename":  # nobody can tell whose it is
        assert "out.tif.aux.xml: exists already" in dehazexl(*words, "--quiet").err
        words.append("--overwrite")
    assert dehazexl(*words, "--quiet") == Result(0, "", "")
    assert names(scene.parent) == before | {"out.tif", "out.tif.aux.xml"}


def test_what_a_live_run_has_made_so_far_stays(dehazexl: Command, scene: Path, tiny_weights: Path) -> None:
    words = run_words(scene, tiny_weights)
    with staying("decode", *words) as process:
        other = [scene.with_name("other.tif") if word == words[2] else word for word in words]
        assert dehazexl(*other, "--quiet").code == 0
        (part,) = (name for name in names(scene.parent) if name.startswith(".out.dehazexl-"))
        assert f"-{process.pid}-" in part


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(12))
def test_a_signal_at_any_moment_is_clean(scene: Path, tiny_weights: Path, trial: int) -> None:
    """Whole runs without a stay, stopped at moments spread over all they do."""
    before = names(scene.parent)
    command = [sys.executable, "-m", "dehazexl_cli", *map(str, run_words(scene, tiny_weights)), "-q"]
    began = time.monotonic()
    subprocess.run([*command, "--co", "COMPRESS=LZW"], cwd=ROOT, check=True)
    whole = time.monotonic() - began
    for name in names(scene.parent) - before:
        (scene.parent / name).unlink()
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=as_from_a_terminal
    )
    time.sleep(0.4 + (trial + np.random.default_rng(trial).random()) * (whole - 0.4) / 12)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    after = names(scene.parent) - before
    if process.returncode == 0:  # too late
        assert after == {"out.tif", "out.tif.aux.xml"}
    else:
        assert process.returncode in (143, -signal.SIGTERM)  # the second before there was a handler
        assert len(said.splitlines()) == (2 if process.returncode == 143 else 0), said
        assert after in (set(), {"out.tif", "out.tif.aux.xml"})


def test_what_nohup_ignores_stays_ignored(scene: Path, tiny_weights: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with staying("decode", *run_words(scene, tiny_weights), start=ignore) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.terminate()
        assert process.wait(timeout=30) == 143


def test_ctrl_c_before_anything_is_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "dehazexl_cli", "--help"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        preexec_fn=as_from_a_terminal,
    )
    assert (done.returncode, done.stderr) == (130, "error: stopped by Ctrl-C\n")


SWALLOWED = """
import os, signal, time
from dehazexl_cli.cli import run_guarded

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

def command():
    Deaf()  # Python lets no exception out of __del__
    try:
        time.sleep(30)
    except Exception:
        print("a library took it for a failure")

run_guarded(command)
"""


def test_a_signal_within_what_lets_no_exception_pass_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=20)
    assert done.returncode == 143
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 2), done.stderr


def test_compare_ends_what_it_runs_and_tidies_up_after_it(scene: Path, tiny_weights: Path) -> None:
    out = scene.with_name("compared")
    command = [sys.executable, "-m", "dehazexl_cli", "compare", scene, "--out", out, "--models", tiny_weights]
    larger = scene.with_name("larger.tif")
    with rasterio.open(scene) as small:
        profile = small.profile | {"height": 1600, "width": 1600}
        with rasterio.open(larger, "w", **profile) as made:
            made.write(np.resize(small.read(), (3, 1600, 1600)))
    command[4] = larger
    process = subprocess.Popen(
        [*map(str, command), "--modes", "global"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=as_from_a_terminal,
    )
    try:
        until = time.monotonic() + 60
        parts: list[str] = []
        while not parts:  # the other process has begun to write; before, there was a file to try the folder
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
            parts = [name for name in names(out) if not name.endswith("trial")] if out.is_dir() else []
        (part,) = parts
        other = ProcessId.of(part)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    lines = [line for line in said.splitlines() if line.startswith(("error", "  try"))]
    hint = f"finished outputs stay in {out}, without a report; begin anew with --overwrite"
    assert lines == ["error: stopped by Ctrl-C", f"  try: {hint}"]
    assert names(out) == set()
    assert other is not None and other.is_dead()


HINTS = {
    "synth": (
        ["{scene}", "{out}"],
        "dehazexl_cli.training.synthesis.write_hazy",
        "finished images stay in {out}",
    ),
    "evaluate": (["--data", "{pairs}"], "dehazexl_cli.evaluation.compare", "no results were written"),
    "train": (
        ["--data", "{pairs}", "--out", "{out}"],
        "dehazexl_cli.training.loop.train",
        "the same command goes on from the last checkpoint in {out}",
    ),
    "preview": (["{scene}", "{out}.png"], "dehazexl_cli.engine.run", "nothing half done was left behind"),
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_each_command_says_what_is_right_for_it(
    scene: Path, tiny_weights: Path, tmp_path: Path, name: str
) -> None:
    words, place, hint = HINTS[name]
    pairs = tmp_path / "pairs"
    for folder in ("hazy", "clear"):
        (pairs / folder).mkdir(parents=True)
        os.link(scene, pairs / folder / "in.tif")
    module, _, function = place.rpartition(".")
    driver = (
        "import importlib, sys, time\n"
        "from dehazexl_cli.cli import main\n"
        "def stay(*_, **__):\n    print('there', flush=True)\n    time.sleep(60)\n"
        f"setattr(importlib.import_module({module!r}), {function!r}, stay)\n"
        "main()"
    )
    filled = [word.format(scene=scene, out=tmp_path / "out", pairs=pairs) for word in words]
    weights = ["--weights", str(tiny_weights)] if name in ("evaluate", "preview") else []
    process = subprocess.Popen(
        [sys.executable, "-c", driver, name, *filled, *weights, "--quiet"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=as_from_a_terminal,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n", process.communicate()[1]
        process.terminate()
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143
    assert said.splitlines()[-2] == "error: stopped by SIGTERM"
    assert said.splitlines()[-1].startswith(f"  try: {hint.format(out=tmp_path / 'out')}")
    assert not list(tmp_path.rglob(".*"))


class Alarm(BaseException):
    """What a signal raises in these tests."""


@contextmanager
def alarm_after(seconds: float) -> Iterator[None]:
    """A signal that comes to the main thread, whatever that waits for."""

    def ring(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Slow:
    """A writer that takes its time."""

    def __init__(self) -> None:
        self.begun, self.written = threading.Event(), 0

    def write(self, rows: object) -> None:
        self.begun.set()
        time.sleep(0.4)
        self.written += 1


def test_a_signal_does_not_part_a_writer_from_the_thread_that_writes() -> None:
    writer = Slow()
    with alarm_after(60), pytest.raises(Alarm), BackgroundWriter(writer) as behind:  # type: ignore[arg-type]
        behind.save(np.zeros(1))
        writer.begun.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert writer.written == 1 and not behind._worker.is_alive()


def test_a_file_is_closed_only_when_nobody_reads_it(scene: Path) -> None:
    reader = open_reader(scene)
    assert isinstance(reader, GdalReader)
    reading, states = threading.Event(), []

    def read() -> None:
        with reader._reading("a part"):
            reading.set()
            time.sleep(0.3)
            states.append(reader._dataset.closed)

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait()
    reader.close()
    thread.join()
    assert (states, reader._dataset.closed) == ([False], True)
