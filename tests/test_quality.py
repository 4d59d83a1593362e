"""`benchmarks/quality.py`: figures that mean what they say, of inputs that stay the same."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import quality
import torch
import typer
from imagecodecs import png_encode
from quality import BASELINES, evaluate, from_module, subtract_dark_object
from quality_sets import (
    AIRLIGHTS,
    GROUND,
    HELD_OUT,
    IMAGES,
    PER_SOURCE,
    VEILED,
    Case,
    Picture,
    as_bytes,
    even_grounds,
    fingerprint,
    held_out_pictures,
    make_cases,
    set_names,
    smooth_noise,
    spread,
    veils,
    write_pairs,
)
from quality_table import BEST, CLEARLY, INPUT, Row, document, summary

from dehazexl_cli.cli import app
from dehazexl_cli.dataset_pairs import find_pairs
from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.training.data import Scene, source_of, split

SETS = set_names()
HAZED = [name for name in SETS if name != GROUND]  # drawn grounds are large, and the same for every test
FOLDERS = ("train_drone", "train_ortho", "train_satellite")
ROW = Row("thin", "a", "", "mine", 20.0, 22.0, 2.0, 0.9, 1.0, 0.0, 3.0)


def picture(name: str = "town", seed: int = 0, shape: tuple[int, int] = (64, 80)) -> Picture:
    bands = [smooth_noise(shape, f"{name}/{seed}/{band}", max(shape), 2) for band in "rgb"]
    return Picture(name, as_bytes(0.4 + 0.12 * np.stack(bands, axis=-1)))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(make_cases([picture("town"), picture("field")], HAZED))


def hazed(name: str, clear: float, shape: tuple[int, int] = (48, 48)) -> dict[str, np.ndarray]:
    """The variants of a set, of ground that is the same everywhere."""
    return veils(AIRLIGHTS)[name]("flat", np.full((*shape, 3), clear))


def test_what_changes_nothing_gains_nothing(cases: list[Case]) -> None:
    rows = evaluate({"identity": lambda hazy: hazy}, cases)
    assert len(rows) == 2 * len(cases)
    assert all(row.gain == 0 and row.psnr == row.input_psnr for row in rows)
    clear = [row for row in rows if row.set_name == "haze-free"]
    assert all(row.psnr == BEST and row.contrast == 1 and row.brightness == 0 for row in clear)
    assert all(row.psnr < BEST for row in rows if row.set_name != "haze-free")


def test_an_oracle_is_perfect_in_every_figure(cases: list[Case]) -> None:
    truth = {case.hazy.tobytes(): case.clear for case in cases}
    rows = evaluate({"oracle": lambda hazy: truth[hazy.tobytes()]}, cases)
    for row in rows:
        if row.method == "oracle":
            assert (row.psnr, row.contrast, row.brightness, row.shift) == (BEST, 1, 0, 0)
            assert row.ssim == pytest.approx(1)
            assert row.gain == BEST - row.input_psnr


def test_contrast_and_brightness_are_told_apart() -> None:
    clear = picture().clear
    flatter = (clear // 4 + 60).astype(np.uint8)
    brighter = (clear + 7).astype(np.uint8)
    case = Case("s", "i", "", clear, clear)
    flat, bright = (quality.measure("m", case, output) for output in (flatter, brighter))
    assert flat.contrast == pytest.approx(0.25, abs=0.02)
    assert (bright.contrast, bright.brightness, bright.shift) == pytest.approx((1, 7, 7))
    assert bright.psnr == pytest.approx(20 * np.log10(255 / 7))
    assert quality.measure("m", case, (clear - 7).astype(np.uint8)).brightness == pytest.approx(-7)


@pytest.mark.parametrize("wrong", [lambda hazy: hazy[:-1], lambda hazy: hazy / 255])
def test_a_method_that_gives_no_such_picture_is_refused(wrong: Callable[..., np.ndarray]) -> None:
    with pytest.raises(ValueError, match="careless gave"):
        evaluate({"careless": wrong}, [Case("s", "i", "", picture().clear, picture().clear)])


def test_inputs_are_bytes_and_the_truth_is_what_was_hazed(cases: list[Case]) -> None:
    clear = {"town": picture("town").clear, "field": picture("field").clear}
    for case in cases:
        assert case.hazy.dtype == case.clear.dtype == np.uint8
        assert np.array_equal(case.clear, clear[case.image])
    assert {case.set_name for case in cases} == set(HAZED)


def test_even_veils_are_as_their_names_say() -> None:
    for t in (0.4, 0.6):
        found = hazed(f"even t={t}", 0.2)
        assert len(found) == len(AIRLIGHTS)
        for airlight, hazy in zip(AIRLIGHTS, found.values(), strict=True):
            assert hazy == pytest.approx(0.2 * t + airlight * (1 - t))
    assert hazed("even lifted", 0.2)[""] == pytest.approx(0.2 * 0.5 + 0.9 * 0.25)


def test_aerosol_adds_most_to_blue_and_takes_little() -> None:
    black, white = hazed("aerosol", 0.0)[""][0, 0], hazed("aerosol", 1.0)[""][0, 0]
    assert black == pytest.approx([0.12 * (0.55 / 0.65) ** 2, 0.12, 0.12 * (0.55 / 0.46) ** 2])
    ratios = np.array([0.65, 0.55, 0.46]) / 0.55
    assert white - black == pytest.approx(np.exp(-0.15 * ratios**-1.3))


@pytest.mark.parametrize(("name", "mean"), [("white uneven thin", 0.75), ("white uneven moderate", 0.5)])
def test_white_haze_is_white_uneven_and_as_dense_as_said(name: str, mean: float) -> None:
    black = hazed(name, 0.0, (256, 300))[""]
    assert np.array_equal(black[..., 0], black[..., 2])
    transmission = 1 - black[..., 0] / 0.95
    assert transmission.mean() == pytest.approx(mean, abs=0.03)
    assert transmission.std() > 0.08
    steps = np.abs(np.diff(transmission, axis=1)).max()
    assert 0.002 < steps < 0.1  # it has fine features, and no edges


def test_noise_holds_no_waves_outside_its_range() -> None:
    noise = smooth_noise((120, 120), "sky", 60, 12)
    power = np.abs(np.fft.rfft2(noise)) ** 2
    frequency = np.hypot(np.fft.fftfreq(120)[:, None], np.fft.rfftfreq(120))
    inside = (frequency > 0.999 / 60) & (frequency <= 1 / 12)
    assert power[~inside].sum() < 1e-9 * power.sum()
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=1e-9)


def test_inputs_are_the_same_every_time_and_whatever_else_is_measured(cases: list[Case]) -> None:
    again = list(make_cases([picture("town"), picture("field")], HAZED))
    assert fingerprint(again) == fingerprint(cases)
    for name in HAZED:
        alone = list(make_cases([picture("field")], [name]))
        same = [case for case in cases if case.set_name == name and case.image == "field"]
        assert fingerprint(alone) == fingerprint(same)
    assert fingerprint(cases[1:]) != fingerprint(cases)


def test_even_grounds_are_clear_bright_and_dark_and_the_same_every_time() -> None:
    first, second = even_grounds(), even_grounds()
    assert [ground.name for ground in first] == ["lake", "sand", "snow", "steps of grey"]
    assert all(np.array_equal(one.clear, other.clear) for one, other in zip(first, second, strict=True))
    lake, sand, snow, greys = (ground.clear.astype(int) for ground in first)
    assert lake.max() < 120 < sand.mean() < snow.mean() < 245
    assert max(ground.std(axis=(0, 1)).max() for ground in (lake, sand, snow)) < 12
    assert np.ptp(greys, axis=2).max() == 0
    assert len(np.unique(greys[32:256:64, 32:256:64, 0] // 4)) == 16


def test_quick_takes_the_ends_of_the_airlights() -> None:
    found = list(make_cases([picture()], ["even t=0.4"], quick=True))
    assert [case.variant for case in found] == [f"A={AIRLIGHTS[0]}", f"A={AIRLIGHTS[-1]}"]


def test_a_set_is_named_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    assert set_names(tmp_path)[-1] == "real pairs"
    assert set_names(wanted=["even t", "synth L4"]) == ["synth L4", "even t=0.4", "even t=0.6"]
    with pytest.raises(UsageError, match="'fog'"):
        set_names(wanted=["synth", "fog"])


def test_a_veil_over_black_and_bright_ground_is_what_dark_object_subtraction_undoes() -> None:
    clear = np.zeros((40, 40, 3))
    clear[::2] = [0.3, 0.6, 0.9]
    undone = subtract_dark_object(as_bytes(clear * 0.6 + 0.85 * 0.4))
    assert np.abs(undone.astype(int) - as_bytes(clear)).max() <= 2


def test_a_network_in_memory_is_a_method() -> None:
    hazy = picture().clear
    assert np.array_equal(from_module(torch.nn.Identity())(hazy), hazy)
    darker = from_module(lambda shown: shown - 1 / 255)(hazy)
    assert np.array_equal(darker, hazy - 1)


def test_the_dark_channel_prior_removes_an_even_veil() -> None:
    clear = picture(shape=(128, 128)).clear
    clear[::9, ::9] = 0
    clear[60:80, 60:80] = 255  # something as bright as the veil, which the prior takes its airlight from
    case = Case("veil", "i", "", as_bytes(clear / 255 * 0.6 + 0.9 * 0.4), clear)
    _, prior, _ = evaluate(BASELINES, [case])
    assert prior.method == "dark channel prior" and prior.gain > 15


def files(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_images_are_spread_over_sources_and_never_the_first_of_a_flight() -> None:
    many = files(*(f"tiles__{n:02}.png" for n in range(90)), *(f"kite__{n:02}.png" for n in range(9)))
    assert [path.stem for path in spread(many)] == [
        *("kite__01", "kite__04", "kite__07"),
        *("tiles__15", "tiles__45", "tiles__75"),
    ]
    assert spread(many[::-1]) == spread(many)
    nine = files(*(f"{source}__{n}.png" for source in "abcdefghi" for n in range(4)), "i__9.png")
    chosen = spread(nine)
    assert len(chosen) == IMAGES
    assert sum(path.name.startswith("i__") for path in chosen) == PER_SOURCE - 1  # it has most files


def test_held_out_images_are_places_that_no_training_sees(shared: Path) -> None:
    folders = [shared / "data" / name for name in FOLDERS]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("no images to train on")
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    none: object = None
    scenes = [Scene(path.stem, source_of(path), none) for path in paths]  # type: ignore[arg-type]
    training, validation = split(scenes, HELD_OUT)
    measured = {shown.name for shown in held_out_pictures(folders)}
    trained = {scene.name for scene in training}
    assert measured <= {scene.name for scene in validation}
    assert not measured & trained
    assert not any(name.startswith(HELD_OUT) for name in trained)
    assert not any(name.startswith(VEILED) for name in measured)
    assert len(measured) > 20
    assert max(Counter(source_of(Path(name)) for name in measured).values()) <= PER_SOURCE
    # Each beginning still means something, so that a renamed file does not slip into the training.
    assert all(any(scene.name.startswith(prefix) for scene in validation) for prefix in HELD_OUT)
    content = {path.read_bytes() for path in paths if path.stem in measured}
    assert not content & {path.read_bytes() for path in paths if path.stem in trained}
    assert {shown.name for shown in held_out_pictures(folders, quick=True)} < measured


def test_what_is_held_out_can_be_given_to_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["quality.py", "--print-hold-out"])
    quality.main()
    options = capsys.readouterr().out.split()
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    given = train.make_context("train", ["--data", "scenes", "--out", "runs", *options]).params
    assert tuple(given["held_out"]) == HELD_OUT


def test_the_table_names_the_worst_image_and_counts_the_worse() -> None:
    rows = [
        ROW,
        replace(ROW, image="b", psnr=19.8, gain=-0.2),
        replace(ROW, image="c", variant="A=0.45", psnr=17.0, gain=-3.0, contrast=1.3, brightness=-9.0),
        replace(ROW, image="d", brightness=9.0),
    ]
    *means, worst, worse, clearly = summary(rows)
    assert means[0] == "20.20" and means[1] == "+0.20"
    assert means[-1] == "0.0 (4.5)"  # errors that cancel are not hidden
    assert worst == "c, A=0.45 (-3.00)"
    assert (worse, clearly) == ("**2**/4", "**1**/4")
    assert summary([ROW])[-2:] == ["0/1", "0/1"]


def test_what_is_worse_by_exactly_the_limit_is_not_clearly_worse() -> None:
    assert summary([replace(ROW, gain=-CLEARLY)])[-2:] == ["**1**/1", "0/1"]


def test_where_the_input_is_the_truth_nothing_is_counted_as_worse() -> None:
    perfect = replace(ROW, input_psnr=BEST, psnr=40.0, gain=-10.0)
    *_, worst, worse, clearly = summary([perfect])
    assert (worst, worse, clearly) == ("a (-10.00)", "–", "–")


def test_the_document_lists_every_failure_of_the_model_and_no_others() -> None:
    before = replace(ROW, method=INPUT, psnr=20.0, gain=0.0)
    bad = replace(ROW, psnr=15.0, gain=-5.0)
    others = replace(bad, method="theirs", image="zebra")
    text = document([before, bad, others], {"thin": "abcd1234"}, "mine", ["how"])
    listed = text.partition("Clearly worse")[2]
    assert "| thin | a | 20.00 | 15.00 | -5.00 |" in listed and "zebra" not in listed
    assert "abcd1234" in text and "- how" in text
    assert document([before, ROW], {"thin": ""}, "mine", []).rstrip().endswith("None.")


def test_the_sets_can_be_written_for_other_programs(tmp_path: Path) -> None:
    names = ["synth L1", "even t=0.4", "haze-free"]
    written = list(make_cases([picture("town__a_1"), picture("town__a_2")], names))
    write_pairs(written, tmp_path)
    for name, count in zip(("synth-L1", "even-t=0.4", "haze-free"), (2, 10, 2), strict=True):
        pairs = find_pairs(tmp_path / name)
        assert len(pairs) == count and all(pair.hazy.stem.startswith(pair.clear.stem) for pair in pairs)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder of two held-out images and one that is trained on."""
    folder = tmp_path / "places"
    folder.mkdir()
    for name in ("neon__SJER_1", "i-sfm_nadir__1", "town__1"):
        (folder / f"{name}.png").write_bytes(png_encode(picture(name).clear))
    return folder


def test_only_held_out_images_are_read(places: Path, tmp_path: Path) -> None:
    assert [shown.name for shown in held_out_pictures([places])] == ["i-sfm_nadir__1", "neon__SJER_1"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no held-out image"):
        held_out_pictures([tmp_path / "none"])
    with pytest.raises(InputError, match="no such folder"):
        held_out_pictures([tmp_path / "nowhere"])


def test_the_command_writes_a_table_and_every_figure_and_no_path_of_this_machine(
    places: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = tmp_path / "real" / "pairs"
    for part, seed in (("hazy", 1), ("clear", 2)):
        (real / part).mkdir(parents=True)
        (real / part / "1.png").write_bytes(png_encode(picture(seed=seed).clear))
    sets = ["synth L1", "aerosol", "real"]
    options = ["--data", places, "--real", real.parent, "--weights", tiny_weights, "--out", tmp_path]
    monkeypatch.setattr("sys.argv", ["quality.py", *map(str, options), "--sets", *sets])
    quality.main()
    (table,) = tmp_path.glob("quality-*.md")
    text = table.read_text()
    assert capsys.readouterr().out == text
    assert str(tmp_path) not in text and "SHA-256" in text and "--sets 'synth L1' aerosol real" in text
    with table.with_suffix(".csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["set"] for line in lines} == {"synth L1", "aerosol", "real pairs"}
    assert len(lines) == (2 + 2 + 1) * (2 + len(BASELINES))
    assert {line["method"] for line in lines} == {INPUT, *BASELINES, "dehazexl-s"}


def test_a_mistake_is_a_message_and_not_a_traceback(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["quality.py", "--data", str(places), "--sets", "fog"])
    with pytest.raises(SystemExit, match="no set is named 'fog'"):
        quality.main()
