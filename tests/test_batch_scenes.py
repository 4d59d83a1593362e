"""Which images a batch is made of, where their results go, and how it is cut into shards."""

from __future__ import annotations

import io
import sys
from pathlib import Path, PurePath

import pytest

from dehazexl_cli.batch.shards import Shard, choose_shard
from dehazexl_cli.batch.sources import Found, Naming, Scene, collect, read_list
from dehazexl_cli.errors import DehazeError, InputError, OutputError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a tree of files that are no images but have their names."""
    monkeypatch.chdir(tmp_path)
    names = ["a.tif", "sub/b.TIFF", "sub/deep/c.png", "sub/d.bmp", "sub/e.vrt", "notes.txt", "a.tif.aux.xml"]
    for name in [*names, ".hidden.tif", ".cache/x.tif"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path


def targets(*sources: str, listed: list[Found] | None = None, naming: Naming | None = None) -> dict[str, str]:
    scenes = collect(sources, listed or [], naming or Naming(Path("out")))
    return {scene.source: str(scene.target) for scene in scenes}


def test_a_folder_is_searched_and_its_tree_made_again(here: Path) -> None:
    assert targets("in") == {
        "in/a.tif": "out/a.tif",
        "in/sub/b.TIFF": "out/sub/b.TIFF",
        "in/sub/d.bmp": "out/sub/d.png",
        "in/sub/e.vrt": "out/sub/e.tif",
        "in/sub/deep/c.png": "out/sub/deep/c.png",
    }


def test_results_inside_the_folder_of_images_are_no_images(here: Path) -> None:
    Path("in/out").mkdir()
    Path("in/out/a.tif").touch()
    assert targets("in", naming=Naming(Path("in/out")))["in/a.tif"] == "in/out/a.tif"
    assert "in/out/a.tif" not in targets("in", naming=Naming(Path("in/out")))


def test_results_beside_the_images_are_no_images_the_next_time(here: Path) -> None:
    naming = Naming(Path("in/sub"), suffix="_clear")
    Path("in/sub/e_clear.tif").touch()
    with pytest.raises(OutputError, match=r"e_clear\.tif: the result of another image"):  # nobody knows whose
        targets("in/sub", naming=naming)
    report = Path("in/sub/.dehazexl/reports/e_clear.tif.json")
    report.parent.mkdir(parents=True)
    report.write_text('{"processing:expression": {}}')
    assert targets("in/sub", naming=naming) == {
        "in/sub/b.TIFF": "in/sub/b_clear.TIFF",
        "in/sub/d.bmp": "in/sub/d_clear.png",
        "in/sub/e.vrt": "in/sub/e_clear.tif",
        "in/sub/deep/c.png": "in/sub/deep/c_clear.png",
    }


def test_a_pattern_keeps_the_tree_below_its_first_wildcard(here: Path) -> None:
    assert targets("in/**/*.[tT]*") == {
        "in/a.tif": "out/a.tif",
        "in/sub/b.TIFF": "out/sub/b.TIFF",
    }
    assert targets("in/*.txt") == {"in/notes.txt": "out/notes.tif"}
    assert targets("in/su*/deep/*") == {"in/sub/deep/c.png": "out/sub/deep/c.png"}


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here: Path) -> None:
    Path("in/[a].tif").touch()
    assert targets("in/[a].tif") == {"in/[a].tif": "out/[a].tif"}


def test_the_format_decides_on_the_ending(here: Path) -> None:
    naming = Naming(Path("out"), format="COG")
    assert list(targets("in/a.tif", "in/sub/b.TIFF", "in/sub/deep/c.png", naming=naming).values()) == [
        "out/a.tif",
        "out/b.TIFF",
        "out/c.tif",
    ]
    with pytest.raises(UsageError, match="xyz"):
        targets("in/a.tif", naming=Naming(Path("out"), format="xyz"))


def test_single_files_have_no_tree_unless_a_base_is_named(here: Path) -> None:
    assert targets("in/sub/deep/c.png") == {"in/sub/deep/c.png": "out/c.png"}
    naming = Naming(Path("out"), base=Path("in"))
    assert targets("in/sub/deep/c.png", naming=naming) == {"in/sub/deep/c.png": "out/sub/deep/c.png"}
    with pytest.raises(UsageError, match="not inside --base"):
        targets("in/a.tif", naming=Naming(Path("out"), base=Path("in/sub")))


def test_gdal_s_own_names_are_taken_as_they_are(here: Path) -> None:
    assert targets("/vsizip/in/x.zip/y.tif") == {"/vsizip/in/x.zip/y.tif": "out/y.tif"}


def test_a_source_named_twice_is_one_scene(here: Path) -> None:
    assert targets("in/a.tif", "./in/a.tif", "in") == targets("in") | {"in/a.tif": "out/a.tif"}


@pytest.mark.parametrize(
    ("sources", "naming", "kind", "word"),
    [
        (["in/x.tif"], Naming(Path("out")), InputError, "no such file"),
        (["in/*.gif"], Naming(Path("out")), InputError, "no file fits"),
        (["empty"], Naming(Path("out")), InputError, "no image in empty"),
        (["in/a.tif", "other/A.tif"], Naming(Path("out")), UsageError, "would both become"),
        (["in"], Naming(Path("in")), OutputError, "take its place"),
    ],
)
def test_what_cannot_be_a_batch_says_why(
    here: Path, sources: list[str], naming: Naming, kind: type[DehazeError], word: str
) -> None:
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/A.tif").touch()
    with pytest.raises(kind, match=word) as caught:
        collect(sources, [], naming)
    assert caught.value.hint


def test_a_list_keeps_the_tree_below_the_current_folder(here: Path, tmp_path: Path) -> None:
    elsewhere = here.parent / "elsewhere.tif"
    Path("list.txt").write_text(f"in/sub/b.TIFF\n\n./in/a.tif\nmissing.tif\n{elsewhere}\n")
    assert targets(listed=read_list("list.txt", nul=False)) == {
        "in/sub/b.TIFF": "out/in/sub/b.TIFF",
        "./in/a.tif": "out/in/a.tif",
        "missing.tif": "out/missing.tif",  # a scene of its own, which fails when its turn comes
        str(elsewhere): "out/elsewhere.tif",
    }


def test_a_list_from_find_may_have_any_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"in/two\nlines.tif\0in/\xff.tif\0")

    monkeypatch.setattr(sys, "stdin", Stdin)
    found = read_list("-", nul=True)
    assert [each.place for each in found] == [PurePath("in/two\nlines.tif"), PurePath("in/\udcff.tif")]


def test_a_csv_may_say_where_results_go(here: Path) -> None:
    Path("list.csv").write_text("id,Input,output\n1,in/a.tif,north/one.tif\n2,in/sub/b.TIFF,\n")
    assert targets(listed=read_list("list.csv", nul=False)) == {
        "in/a.tif": "out/north/one.tif",
        "in/sub/b.TIFF": "out/in/sub/b.TIFF",
    }


@pytest.mark.parametrize(
    ("text", "word"),
    [("id\n1\n", "no column of sources"), ("input,output\na.tif,../b.tif\n", "outside OUT_DIR")],
)
def test_a_csv_that_does_not_say_enough_is_refused(here: Path, text: str, word: str) -> None:
    Path("list.csv").write_text(text)
    with pytest.raises(UsageError, match=word):
        read_list("list.csv", nul=False)


def scenes(sizes: list[int]) -> list[Scene]:
    return [Scene(f"{number}.tif", Path(f"out/{number}.tif"), size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("count", [1, 3, 7, 40])
def test_every_scene_is_in_exactly_one_shard_and_shards_are_about_as_large(count: int) -> None:
    everything = scenes([(37 * number) ** 2 % 1000 + 1 for number in range(100)])
    parts = [Shard(index, count).choose(everything) for index in range(1, count + 1)]
    assert sorted(scene.source for part in parts for scene in part) == sorted(s.source for s in everything)
    loads = [sum(scene.size for scene in part) for part in parts]
    assert max(loads) - min(loads) <= 1000
    assert parts == [Shard(index, count).choose(everything) for index in range(1, count + 1)]
    again = [Shard(index, count).choose(everything[::-1]) for index in range(1, count + 1)]
    assert [set(part) for part in again] == [set(part) for part in parts]
    for part in parts:
        assert part == [scene for scene in everything if scene in part]


def test_scenes_of_unknown_size_are_dealt_out_evenly() -> None:
    parts = [Shard(index, 4).choose(scenes([0] * 10)) for index in range(1, 5)]
    assert sorted(len(part) for part in parts) == [2, 2, 3, 3]


SLURM = {"SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "1"}


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [
        (None, {}, None),
        ("3/8", {}, "3/8"),
        ("1/1", SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, "1/1"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, "3/8"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_MIN": "1"}, "8/8"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_STEP": "2"}, "8/8"),
        (None, {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "10"}, "1/10"),
        ("/8", {"PBS_ARRAY_INDEX": "8"}, "1/8"),
        ("/8", {"PBS_ARRAYID": "7"}, "8/8"),
        ("/4", {"AWS_BATCH_JOB_ARRAY_INDEX": "3", "AWS_BATCH_JOB_ARRAY_SIZE": "4"}, "4/4"),
    ],
)
def test_the_shard_is_named_or_found(text: str | None, environment: dict[str, str], part: str | None) -> None:
    found = choose_shard(text, environment)
    assert (found and str(found)) == part


@pytest.mark.parametrize(
    ("named", "environment", "part"),
    [
        (1, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, None),
        (7, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, None),
        (8, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, "3/8"),
        (0, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, "3/8"),  # folders and patterns
        (1, SLURM | {"SLURM_ARRAY_TASK_ID": "20", "SLURM_ARRAY_TASK_MAX": "20"}, None),  # --array=1,7,20
        (2, SLURM | {"SLURM_ARRAY_TASK_ID": "20", "SLURM_ARRAY_TASK_MAX": "20"}, None),
        (1, {"PBS_ARRAY_INDEX": "3"}, None),
        (3, {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "10"}, None),
    ],
)
def test_scenes_that_an_array_gives_each_task_are_its_own(
    named: int, environment: dict[str, str], part: str | None
) -> None:
    found = choose_shard(None, environment, named)
    assert (found and str(found)) == part
    assert str(choose_shard("2/3", environment, named)) == "2/3"


@pytest.mark.parametrize(
    ("text", "environment", "word"),
    [
        ("0/8", {}, "1 to 8"),
        ("9/8", {}, "1 to 8"),
        ("3", {}, "no part"),
        ("1/0", {}, "no part"),
        ("/8", {}, "no cluster says"),
        (None, {"PBS_ARRAY_INDEX": "3"}, "not say of how many"),
        (None, {"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is 'missing'"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "20", "SLURM_ARRAY_TASK_MAX": "20"}, "not numbered evenly"),
    ],
)
def test_a_shard_that_nobody_can_know_is_refused(text: str, environment: dict[str, str], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        choose_shard(text, environment)
    assert caught.value.hint


def test_all_tasks_of_a_pbs_array_together_do_everything() -> None:
    for first in (0, 1, 5):
        tasks = [choose_shard("/6", {"PBS_ARRAY_INDEX": str(first + number)}) for number in range(6)]
        assert {task.index for task in tasks if task} == set(range(1, 7))
