"""`dehazexl evaluate` as a shell sees it: true scores, clean streams, and bad pairs that stop no other."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import TINY, Identity, Result, Toy, dehaze_file

from dehazexl_cli import load_model
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.errors import UsageError
from dehazexl_cli.evaluation import compare
from dehazexl_cli.models.ablation import BottleneckPerPatch
from dehazexl_cli.models.dehazexl import DehazeXL
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.base import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Evaluate = Callable[..., Result]
GROUPS = ("cloud_L1", "cloud_L2")
NAMES = ("a.png", "b.png")


def write(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.moveaxis(pixels, 2, 0)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="PNG", height=height, width=width, count=count, dtype=bands.dtype.name
    ) as file:
        file.write(bands)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset in 8KDehaze's layout."""
    for number, name in enumerate(NAMES):
        clear = np.random.default_rng(number).integers(0, 200, (70, 100, 3), dtype=np.uint8)
        write(tmp_path / "data" / "clear" / name, clear)
        for strength, group in enumerate(GROUPS, 2):
            write(tmp_path / "data" / group / name, clear // strength + np.uint8(60))
    return tmp_path / "data"


@pytest.fixture
def evaluate(dehazexl: Callable[..., Result], data: Path, tiny_weights: Path) -> Evaluate:
    """Runs `dehazexl evaluate` over the dataset on a CPU."""
    fixed = ("--data", data, "--weights", tiny_weights, "--device", "cpu", "--precision", "fp32")
    return lambda *arguments: dehazexl("evaluate", *fixed, *arguments)


def test_scores_are_those_of_the_files_that_run_writes(
    evaluate: Evaluate, data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    result = evaluate("--json")
    assert result.code == 0
    facts = json.loads(result.out)
    assert [(pair["group"], pair["name"]) for pair in facts["pairs"]] == [
        (group, name) for group in GROUPS for name in NAMES
    ]
    loaded, options = load_model(weights=tiny_weights), EngineOptions(device="cpu", precision="fp32")

    def scores(first: Path, second: Path) -> tuple[float, float]:
        found = compare(open_reader(first), open_reader(second))
        return found.psnr, found.ssim

    for pair in facts["pairs"]:
        hazy, clear = data / pair["group"] / pair["name"], data / "clear" / pair["name"]
        for source, name in ((hazy, "out.tif"), (clear, "same.tif")):
            dehaze_file(source, tmp_path / name, model=loaded, options=options, overwrite=True)
        output, untouched = scores(tmp_path / "out.tif", clear), scores(tmp_path / "same.tif", clear)
        assert (pair["hazy_psnr"], pair["hazy_ssim"]) == pytest.approx(scores(hazy, clear), abs=1e-4)
        assert (pair["output_psnr"], pair["output_ssim"]) == pytest.approx(output, abs=1e-4)
        assert pair["clear_psnr"] == pytest.approx(untouched[0], abs=1e-4)
        assert pair["gain_psnr"] == pytest.approx(pair["output_psnr"] - pair["hazy_psnr"], abs=2e-4)
        assert pair["output_psnr"] != pair["hazy_psnr"]


def test_means_are_of_groups_and_of_all(evaluate: Evaluate) -> None:
    facts = json.loads(evaluate("--json").out)
    pairs, groups, overall = facts["pairs"], facts["groups"], facts["overall"]
    assert [(group["group"], group["pairs"]) for group in groups] == [(group, 2) for group in GROUPS]
    for key in ("hazy_psnr", "hazy_ssim", "output_psnr", "output_ssim", "gain_psnr", "clear_psnr"):
        assert overall[key] == pytest.approx(np.mean([pair[key] for pair in pairs]), abs=2e-4)
        first = [pair[key] for pair in pairs if pair["group"] == GROUPS[0]]
        assert groups[0][key] == pytest.approx(np.mean(first), abs=2e-4)
    assert (
        facts["bottleneck"] == "scene"
        and facts["model"] == "dehazexl-s"
        and len(facts["weights_sha256"]) == 64
    )


def test_csv_on_stdout_is_pure_and_equals_the_json(evaluate: Evaluate) -> None:
    result = evaluate("--csv", "-")
    lines = list(csv.DictReader(io.StringIO(result.out)))
    pairs = json.loads(evaluate("--json").out)["pairs"]
    assert [line["name"] for line in lines] == [pair["name"] for pair in pairs]
    for line, pair in zip(lines, pairs, strict=True):
        assert line.pop("error") == ""
        assert {key: line[key] for key in ("name", "group")} == {key: pair[key] for key in ("name", "group")}
        assert {
            key: float(value) if value else None
            for key, value in line.items()
            if key not in ("name", "group")
        } == {key: value for key, value in pair.items() if key not in ("name", "group")}
    assert "4 of 4, cloud_L2/b.png" in result.err


def test_a_csv_file_leaves_stdout_to_json_or_empty(evaluate: Evaluate, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    assert evaluate("--csv", path).out == ""
    assert len(path.read_text().splitlines()) == 5
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    refused = evaluate("--csv", path)
    assert refused.code == 4 and "--overwrite" in refused.err
    replaced = evaluate("--csv", path, "--overwrite", "--json", "--limit", 1)
    assert replaced.code == 0 and len(json.loads(replaced.out)["pairs"]) == 2
    assert len(path.read_text().splitlines()) == 3


def test_without_csv_or_json_a_table_is_the_result(evaluate: Evaluate) -> None:
    result = evaluate("--quiet")
    assert result.err == ""
    first = json.loads(evaluate("--json", "--limit", 1).out)["pairs"][0]
    assert f"{first['output_psnr']:.2f} / {first['output_ssim']:.4f}" in result.out
    for word in ("cloud_L1", "a.png", "output", "PSNR / SSIM", "mean of 2", "mean of 4"):
        assert word in result.out


def test_limit_is_per_group_and_clear_images_can_be_skipped(evaluate: Evaluate) -> None:
    facts = json.loads(evaluate("--json", "--limit", "1", "--no-clear").out)
    assert [(pair["group"], pair["name"]) for pair in facts["pairs"]] == [
        (group, "a.png") for group in GROUPS
    ]
    assert [pair["clear_psnr"] for pair in facts["pairs"]] == [None, None]


def test_one_bad_pair_is_reported_and_the_others_are_measured(evaluate: Evaluate, data: Path) -> None:
    (data / "cloud_L1" / "a.png").write_bytes(b"no image")
    write(data / "cloud_L2" / "b.png", np.zeros((70, 99, 3), np.uint8))
    result = evaluate("--json")
    facts = json.loads(result.out)
    assert result.code == 7
    assert [pair["name"] for pair in facts["pairs"]] == ["b.png", "a.png"]
    assert [(failure["group"], failure["name"]) for failure in facts["failed"]] == [
        ("cloud_L1", "a.png"),
        ("cloud_L2", "b.png"),
    ]
    assert "2 of 4 pairs failed" in result.err and "Traceback" not in result.err
    lines = list(csv.DictReader(io.StringIO(evaluate("--csv", "-", "--quiet").out)))
    assert [bool(line["error"]) for line in lines] == [False, False, True, True]
    assert lines[2]["output_psnr"] == ""


def test_identical_images_are_inf_for_people_and_null_in_json(evaluate: Evaluate, data: Path) -> None:
    (data / "cloud_L1" / "a.png").write_bytes((data / "clear" / "a.png").read_bytes())
    arguments = ("--strength", "0", "--limit", "1")
    facts = json.loads(evaluate("--json", *arguments).out)
    assert facts["pairs"][0] == {
        "name": "a.png",
        "group": "cloud_L1",
        "hazy_psnr": None,
        "hazy_ssim": 1.0,
        "output_psnr": None,
        "output_ssim": 1.0,
        "gain_psnr": 0.0,
        "gain_ssim": 0.0,
        "clear_psnr": None,
        "seam_score": None,  # one patch has no seams
        "seam_broad": None,
        "seam_error": None,
    }
    line = next(csv.DictReader(io.StringIO(evaluate("--csv", "-", *arguments).out)))
    assert math.isinf(float(line["output_psnr"]))


def test_several_devices_share_each_image(evaluate: Evaluate) -> None:
    result = evaluate("--device", "cpu,cpu", "--limit", "1", "--json")
    alone = evaluate("--limit", "1", "--json")
    found, expected = json.loads(result.out), json.loads(alone.out)
    assert (found.pop("device"), expected.pop("device")) == ("cpu,cpu", "cpu")
    assert found == expected


def test_seams_of_tiles_are_measured_where_tiles_meet(evaluate: Evaluate, data: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("clear", "cloud_L1"):
        write(data / folder / "a.png", rng.integers(60, 200, (300, 300, 3), dtype=np.uint8))
    arguments = ("--json", "--limit", "1", "--no-clear", "--mode", "tile", "--tile", "128", "--overlap", "0")
    facts = json.loads(evaluate(*arguments, "--tile-overlap", "0").out)
    assert facts["mode"] == "tile"
    measured = facts["pairs"][0]
    assert measured["seam_score"] > 0 and measured["seam_error"] > 0


def test_the_same_weights_mixed_less_give_other_scores(evaluate: Evaluate) -> None:
    scene, patch = (
        json.loads(evaluate("--json", "--limit", "1", "--no-clear", "--bottleneck", how).out)
        for how in ("scene", "patch")
    )
    assert [facts["bottleneck"] for facts in (scene, patch)] == ["scene", "patch"]
    assert scene["weights_sha256"] == patch["weights_sha256"]
    assert scene["overall"]["hazy_psnr"] == patch["overall"]["hazy_psnr"]
    assert scene["overall"]["output_psnr"] != patch["overall"]["output_psnr"]


def test_progress_as_json_is_an_event_a_line_on_stderr(evaluate: Evaluate) -> None:
    result = evaluate("--csv", "-", "--progress", "json")
    events = [json.loads(line) for line in result.err.splitlines()]
    assert [event["done"] for event in events] == [1, 2, 3, 4]


def test_groups_of_one_name_in_two_folders_are_told_apart(
    evaluate: Evaluate, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for folder in ("clear", "cloud_L1"):
        write(other / folder / "c.png", np.full((20, 20, 3), 9, np.uint8))
    facts = json.loads(evaluate("--json", "--data", other, "--no-clear").out)
    assert [group["group"] for group in facts["groups"]] == [
        f"{data}: cloud_L1",
        "cloud_L2",
        f"{other}: cloud_L1",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--csv", "-", "--json"], 2, "stdout"),
        (["--csv", "nowhere/scores.csv"], 4, "no such folder"),
        (["--input-range", "5,5"], 2, "empty"),
        (["--device", "toaster"], 2, "toaster"),
        (["--model", "nonsense"], 2, "nonsense"),
        (["--model", "dehazexl-paper"], 5, "dehazexl-paper"),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--limit", "0"], 2, "limit"),
    ],
)
def test_what_cannot_work_fails_before_the_first_pair(
    evaluate: Evaluate, arguments: list[str], code: int, told: str
) -> None:
    result = evaluate(*arguments)
    assert (result.code, result.out) == (code, "")
    assert told in result.err
    assert "of 4" not in result.err


def test_a_model_that_mixes_no_scenes_sees_only_the_patch() -> None:
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[..., 32:] = 0
    toy = Toy(halo=0)
    for model, alike in ((toy, False), (BottleneckPerPatch(toy), True)):
        with torch.inference_mode():
            first, second = model(image)[..., :16], model(other)[..., :16]
        assert torch.equal(first, second) == alike


def test_a_scene_of_one_patch_is_mixed_alike_alone() -> None:
    torch.manual_seed(0)
    model = DehazeXL(TINY).eval()
    image = torch.rand(2, 3, TINY.patch, TINY.patch)
    with torch.inference_mode():
        assert torch.equal(BottleneckPerPatch(model)(image), model(image))


def test_patches_mixed_alone_overlap_as_ever() -> None:
    model = Toy()
    model.overlap = 32
    assert BottleneckPerPatch(model).overlap == 32


def test_a_model_without_tokens_of_patches_cannot_mix_them_alone() -> None:
    with pytest.raises(UsageError, match="left by itself"):
        BottleneckPerPatch(Toy(token_reduction="sum"))
    assert BottleneckPerPatch(Identity().eval()).training is False
