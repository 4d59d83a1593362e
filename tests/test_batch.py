"""`dehazexl batch`: what it makes, keeps, skips, says and leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import NAMES, cut_short, files, log_of, make_image, states
from conftest import Result, dehaze_file

import dehazexl_cli
import dehazexl_cli.files
from dehazexl_cli.atomic import this_host
from dehazexl_cli.batch.locks import LockOwner, Locks

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_a_tree_of_images_becomes_the_same_tree_with_the_bytes_of_single_runs(
    dehazexl: Command, batch: Command, folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    result = batch("--no-provenance")
    assert (result.code, result.out) == (0, "")
    out = tmp_path / "out"
    assert files(out) == set(NAMES)
    for name in NAMES:
        single = tmp_path / f"single{Path(name).suffix}"
        run = ("run", folder / name, single, "--weights", tiny_weights, "--no-provenance", "--overwrite")
        assert dehazexl(*run).code == 0
        assert (out / name).read_bytes() == single.read_bytes()


def test_every_scene_has_a_report_and_a_line_in_the_log(batch: Command, folder: Path, tmp_path: Path) -> None:
    batch()
    records = tmp_path / "out" / ".dehazexl"
    report = json.loads((records / "reports" / "sub" / "b.tif.json").read_text())
    assert (report["input"], report["width"]) == (str(folder / "sub/b.tif"), 90)
    lines = log_of(tmp_path / "out")
    assert [line["input"] for line in lines] == [str(folder / name) for name in NAMES]
    assert {(line["state"], line["pid"], line["model"]) for line in lines} == {
        ("done", os.getpid(), "dehazexl-s")
    }
    assert {path.name for path in records.iterdir()} == {"reports", "log.ndjson"}  # no lock is left


def test_log_and_reports_may_be_elsewhere(batch: Command, tmp_path: Path) -> None:
    log, reports = tmp_path / "logs" / "log.ndjson", tmp_path / "reports"
    assert batch("--log", log, "--reports", reports).code == 0
    assert len(log.read_text().splitlines()) == 3
    assert files(reports) == {f"{name}.json" for name in NAMES}
    assert not (tmp_path / "out" / ".dehazexl" / "reports").exists()


def test_a_scene_that_fails_stops_no_other_and_is_named_at_the_end(
    batch: Command, folder: Path, tmp_path: Path
) -> None:
    cut_short(folder / "a.tif")
    make_image(folder / "sub" / "empty.tif").write_bytes(b"")
    result = batch()
    assert result.code == 7
    assert files(tmp_path / "out") == {"sub/b.tif", "sub/deep/c.png"}
    assert sorted(states(tmp_path / "out")) == ["done", "done", "failed", "failed"]
    failed = {
        Path(line["input"]).name: line for line in log_of(tmp_path / "out") if line["state"] == "failed"
    }
    assert "cannot be read" in failed["a.tif"]["why"] and failed["a.tif"]["hint"]
    table = result.err[result.err.index("megapixels") :]
    assert str(folder / "a.tif") in table and "the file is empty" in table
    assert "2 of 4 scenes failed" in result.err.splitlines()[-1]


def test_the_first_failure_may_stop_the_batch(batch: Command, folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        make_image(folder / f"z{number}.tif")
    cut_short(folder / "a.tif")
    result = batch("--on-error", "stop", "--json")
    facts = json.loads(result.out)
    assert result.code == 7
    assert facts["failed"] == 1 and facts["untried"] >= 5
    assert facts["total"] == 9 == facts["done"] + facts["failed"] + facts["untried"]


def test_results_that_are_there_are_refused_before_any_work(batch: Command, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "sub" / "b.tif"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    result = batch("-q")
    assert (result.code, len(result.err.splitlines())) == (4, 2)
    assert "--skip-existing" in result.err
    assert precious.read_bytes() == b"precious" and files(tmp_path / "out") == {"sub/b.tif"}
    assert batch("--overwrite").code == 0
    assert precious.read_bytes() != b"precious"


def written(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in NAMES}


def test_results_made_the_same_way_are_skipped(batch: Command, tmp_path: Path) -> None:
    batch()
    before = written(tmp_path / "out")
    (tmp_path / "out" / "a.tif").unlink()
    assert batch("--skip-existing", "--max-ram", "8G").code == 0
    assert states(tmp_path / "out")[3:] == ["skipped", "skipped", "done"]
    after = written(tmp_path / "out")
    assert after["a.tif"] > before["a.tif"] and after["sub/b.tif"] == before["sub/b.tif"]


def test_a_tiff_says_itself_how_it_was_made_and_a_png_does_not(
    batch: Command, folder: Path, tmp_path: Path
) -> None:
    batch()
    shutil.rmtree(tmp_path / "out" / ".dehazexl")
    result = batch("--skip-existing")
    assert result.code == 7
    assert sorted(states(tmp_path / "out")) == ["failed", "skipped", "skipped"]
    assert "nothing says what it was made with" in result.err and "--redo-changed" in result.err
    assert batch("--redo-changed").code == 0
    assert sorted(states(tmp_path / "out")[3:]) == ["done", "skipped", "skipped"]


@pytest.mark.parametrize("change", ["options", "weights", "source", "cut"])
def test_results_made_in_another_way_are_made_again_on_request_only(
    batch: Command, folder: Path, tmp_path: Path, change: str
) -> None:
    batch()
    out = tmp_path / "out" / "a.tif"
    before = out.read_bytes()
    arguments: list[object] = ["--strength", "0.5"] if change == "options" else []
    if change == "weights":
        arguments = ["--weights", dehazexl_cli.models.checkpoint.bundled("dehazexl-s")]
    elif change == "source":
        make_image(folder / "a.tif", seed=9)
    elif change == "cut":
        out.write_bytes(before[:-1500])
    result = batch("--skip-existing", *arguments)
    word = {"options": "(strength)", "weights": "other weights", "source": "newer", "cut": "nothing says"}
    assert result.code == 7 and word[change] in result.err
    assert change == "cut" or out.read_bytes() == before
    assert batch("--redo-changed", *arguments).code == 0
    assert out.read_bytes() != before or change == "cut"
    assert batch("--skip-existing", *arguments).code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--co", "COMPRESS=LZW"), "creation"), (("--overviews",), "overviews"), (("-f", "COG"), "format")],
)
@pytest.mark.parametrize("known_from", ["report", "tags"])
def test_results_stored_in_another_way_are_made_in_another_way(
    batch: Command, folder: Path, tmp_path: Path, arguments: tuple[str, ...], word: str, known_from: str
) -> None:
    image = (folder / "a.tif",)
    assert batch(sources=image).code == 0
    if known_from == "tags":
        shutil.rmtree(tmp_path / "out" / ".dehazexl" / "reports")
    result = batch("--skip-existing", *arguments, sources=image)
    assert result.code == 7 and f"other options ({word})" in result.err
    assert batch("--redo-changed", *arguments, sources=image).code == 0
    assert states(tmp_path / "out")[-1] == "done"
    assert batch("--skip-existing", *arguments, "--tmp-dir", tmp_path, sources=image).code == 0
    assert states(tmp_path / "out")[-1] == "skipped"


def test_a_scene_that_another_batch_is_at_is_left_to_it(batch: Command, tmp_path: Path) -> None:
    with Locks(tmp_path / "out" / ".dehazexl" / "locks") as other:
        assert other.take("sub/b.tif") is None
        result = batch()
    assert result.code == 0
    assert files(tmp_path / "out") == {"a.tif", "sub/deep/c.png"}
    (line,) = [line for line in log_of(tmp_path / "out") if line["state"] == "elsewhere"]
    assert line["why"] == f"process {os.getpid()} on {this_host().rpartition('-')[0]} is at it"


def test_a_scene_whose_batch_was_killed_is_done(batch: Command, tmp_path: Path) -> None:
    locks = tmp_path / "out" / ".dehazexl" / "locks"
    with Locks(locks) as other:
        other.take("sub/b.tif")
        (lock,) = locks.iterdir()
        lock.write_text(json.dumps(LockOwner(this_host(), 2**22 + 1, 1, "x")._asdict()))
        assert batch().code == 0
    assert files(tmp_path / "out") == set(NAMES)


def test_a_result_that_another_batch_has_made_meanwhile_is_not_made_again(
    batch: Command, dehazexl: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes the last scene while this one computes the first."""
    compute, others = dehazexl_cli.files.compute, list[str]()

    def also(opened: Any, target: str, loaded: Any, recipe: Any, *rest: Any, **options: Any) -> Any:
        if not others:
            others.append(target)
            there = tmp_path / "out" / "sub" / "deep" / "c.png"
            there.parent.mkdir(parents=True)
            source = folder / "sub" / "deep" / "c.png"
            made = dehaze_file(source, there, loaded, recipe.options)
            report = made.to_dict() | {"file": [there.stat().st_size, there.stat().st_mtime_ns]}
            record = tmp_path / "out" / ".dehazexl" / "reports" / "sub" / "deep" / "c.png.json"
            record.parent.mkdir(parents=True)
            record.write_text(json.dumps(report))
        return compute(opened, target, loaded, recipe, *rest, **options)

    monkeypatch.setattr(dehazexl_cli.files, "compute", also)
    monkeypatch.setattr("dehazexl_cli.batch.executors.AHEAD", 1)
    assert batch().code == 0
    assert sorted(states(tmp_path / "out")) == ["done", "done", "elsewhere"]


def test_shards_together_give_the_bytes_of_one_batch(batch: Command, folder: Path, tmp_path: Path) -> None:
    for seed in range(4):
        make_image(folder / f"more{seed}.tif", 40 + 10 * seed, 60, seed)
    assert batch("--no-provenance").code == 0
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    shutil.rmtree(tmp_path / "out")
    for index in (1, 2, 3):
        assert batch("--no-provenance", "--shard", f"{index}/3").code == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")} == whole
    assert len(log_of(tmp_path / "out")) == 7


def test_a_task_of_an_array_does_its_part_and_says_so(
    batch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ID", "1"), ("COUNT", "2"), ("MIN", "0"), ("MAX", "1"), ("STEP", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    result = batch()
    assert result.code == 0
    assert "part 2/2 (from SLURM_ARRAY_TASK_ID): 1 of 3 scenes" in result.err
    assert len(files(tmp_path / "out")) == 1


def array(monkeypatch: pytest.MonkeyPatch, task: int, count: int) -> None:
    """This is a task of a SLURM array."""
    values = {"ID": task, "COUNT": count, "MIN": 1, "MAX": count, "STEP": 1}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


@pytest.mark.parametrize("way", ["file", "list", "two"])
def test_a_task_that_names_its_own_images_does_them(
    dehazexl: Command,
    folder: Path,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    array(monkeypatch, 3, 10)
    (tmp_path / "list.txt").write_text(f"{folder / 'a.tif'}\n")
    words = {
        "file": [folder / "a.tif"],
        "list": ["--from-file", tmp_path / "list.txt"],
        "two": [folder / "a.tif", folder / "sub/b.tif"],
    }[way]
    made = dehazexl("batch", *words, tmp_path / "own", "--weights", tiny_weights, "-q", "--json")
    assert (made.code, made.err) == (0, "")
    facts = json.loads(made.out)
    assert (facts["done"], facts["part"]) == (2 if way == "two" else 1, None)


def test_a_part_without_scenes_is_never_passed_over_in_silence(
    batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    array(monkeypatch, 9, 10)
    made = batch("-q", "--json")
    assert made.code == 0 and made.err.startswith("part 9/10 (from SLURM_ARRAY_TASK_ID): 0 of 3 scenes; ")
    assert json.loads(made.out)["part"] == {
        "shard": "9/10", "from": "SLURM_ARRAY_TASK_ID", "scenes": 0, "of": 3
    }  # fmt: skip


def test_a_folder_that_a_task_has_to_itself_is_not_done_in_part_in_silence(
    batch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array(monkeypatch, 1, 2)
    dealt = batch("-q")
    assert (dealt.code, len(files(tmp_path / "out"))) == (0, 2)
    assert "2 of 3 scenes; --shard 1/1 does all" in dealt.err
    assert batch("-q", "--skip-existing", "--shard", "1/2").err == ""
    assert batch("-q", "--skip-existing", "--shard", "1/1").err == "" and len(files(tmp_path / "out")) == 3


@pytest.mark.parametrize("option", ["--log", "--reports"])
def test_log_and_reports_take_the_place_of_nothing_else(
    batch: Command, folder: Path, tmp_path: Path, option: str
) -> None:
    foreign = tmp_path / "else" / "a.tif.json"
    foreign.parent.mkdir()
    foreign.write_text("[1, 2]")
    kept = (folder / "a.tif").read_bytes()
    places = {"--log": [folder / "a.tif", foreign, tmp_path / "out"], "--reports": [foreign.parent]}[option]
    for place in places:
        refused = batch(option, place)
        assert refused.code == 4 and not files(tmp_path / "out"), refused.err
    assert (folder / "a.tif").read_bytes() == kept and foreign.read_text() == "[1, 2]"


def test_a_log_may_be_a_stream(batch: Command) -> None:
    made = batch("--log", "/dev/stdout", "-q")
    assert made.code == 0
    assert [json.loads(line)["state"] for line in made.out.splitlines()] == ["done"] * 3


def test_paths_of_results_are_printed_as_they_are_made(batch: Command, folder: Path, tmp_path: Path) -> None:
    cut_short(folder / "a.tif")
    out = tmp_path / "out"
    assert batch("--print-paths", "-q").out == f"{out / 'sub/b.tif'}\n{out / 'sub/deep/c.png'}\n"
    result = batch("--print-paths", "-0", "--overwrite", "-q")
    assert result.out == f"{out / 'sub/b.tif'}\0{out / 'sub/deep/c.png'}\0"


def test_the_summary_is_there_for_programs_too(batch: Command, folder: Path, tmp_path: Path) -> None:
    cut_short(folder / "a.tif")
    facts = json.loads(batch("--json", "-q").out)
    assert (facts["total"], facts["done"], facts["failed"], facts["untried"]) == (3, 2, 1, 0)
    assert facts["failures"][0]["input"] == str(folder / "a.tif")
    assert facts["log"] == str(tmp_path / "out" / ".dehazexl" / "log.ndjson")


def test_progress_as_json_tells_of_every_scene(batch: Command, folder: Path) -> None:
    cut_short(folder / "a.tif")
    events = [json.loads(line) for line in batch("--progress", "json").err.splitlines()]
    assert events[0] == {"event": "batch", "total": 3}
    told = [event for event in events if event["event"] == "scene"]
    assert [(event["done"], event["state"]) for event in told] == [(1, "failed"), (2, "done"), (3, "done")]
    assert told[0]["why"] and told[1]["output"].endswith("sub/b.tif")
    phases = {(event["input"], event["phase"]) for event in events if event["event"] == "progress"}
    assert (str(folder / "sub/b.tif"), "decode") in phases
    assert events[-1]["event"] == "summary" and events[-1]["failed"] == 1


def test_quiet_says_nothing_unless_something_failed(batch: Command) -> None:
    assert batch("-q") == Result(0, "", "")


def test_a_bar_leaves_room_for_what_failed(batch: Command, folder: Path) -> None:
    cut_short(folder / "a.tif")
    result = batch("--progress", "always")
    assert result.code == 7 and "3 of 3 scenes" in result.err
    assert re.search(rf"^failed: 1 of 3, {re.escape(str(folder / 'a.tif'))}: ", result.err, re.MULTILINE)


def test_a_dry_run_prints_what_becomes_of_what(batch: Command, folder: Path, tmp_path: Path) -> None:
    result = batch("--dry-run", "--suffix", "_clear", "-f", "PNG")
    assert result.out.splitlines()[1] == f"{folder / 'sub/b.tif'}\t{tmp_path / 'out/sub/b_clear.png'}"
    assert not (tmp_path / "out").exists()
    rows = json.loads(batch("--dry-run", "--json").out)
    assert rows[0] == {"input": str(folder / "a.tif"), "output": str(tmp_path / "out/a.tif")}


def test_more_jobs_than_cores_are_warned_of(batch: Command) -> None:
    assert "warning: --jobs 5000: this machine has" in batch("--jobs", 5000, "--dry-run").err
    assert not batch("--jobs", 1, "--dry-run").err


def test_a_list_names_what_a_pipe_found(
    batch: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_bytes(b"in/a.tif\0in/sub/b.tif\0gone.tif\0")
    assert batch("--from-file", "list", "-0", sources=()).code == 7
    assert files(tmp_path / "out") == {"in/a.tif", "in/sub/b.tif"}


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--gpus", "zero"], 2, "no GPUs"),
        (["--gpus", "99"], 6, "not available"),
        (["--gpus", "0", "--device", "cpu"], 2, "both say where"),
        (["--gpus", "0", "--jobs", "2"], 2, "do not go together"),
        (["--jobs", "0"], 2, "jobs"),
        (["--shard", "4/3"], 2, "1 to 3"),
        (["--model", "dehazexl-xxl"], 2, "no model named"),
        (["--device", "cuda:9"], 6, "not available"),
        (["--overlap", "200"], 2, "use 0 to 32"),
        (["--json", "--print-paths"], 2, "both write to stdout"),
        (["--from-file", "nowhere.txt"], 3, "nowhere.txt"),
        (["--format", "ABC"], 2, "ABC"),
    ],
)
def test_what_no_scene_could_be_run_with_ends_the_batch_at_once(
    batch: Command, tmp_path: Path, arguments: list[str], code: int, word: str
) -> None:
    result = batch(*arguments, "-q")
    assert result.code == code, result.err
    assert word in result.err and "Traceback" not in result.err
    assert not (tmp_path / "out").exists() or not files(tmp_path / "out")
