"""Pairs are found in the folders that datasets come in, and nothing is paired or left out in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dehazexl_cli.dataset_pairs import find_pairs
from dehazexl_cli.errors import InputError


def dataset(root: Path, *names: str) -> Path:
    for name in names:
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root / "data"


def found(folder: Path) -> list[tuple[str, str, str]]:
    return [
        (str(pair.hazy.relative_to(folder)), str(pair.clear.relative_to(folder)), pair.group)
        for pair in find_pairs(folder)
    ]


def test_8kdehaze_gives_a_group_per_density(tmp_path: Path) -> None:
    names = [f"{part}/{name}.png" for part in ("clear", "cloud_L2", "cloud_L1") for name in ("b", "a")]
    assert found(dataset(tmp_path, *names)) == [
        ("cloud_L1/a.png", "clear/a.png", "cloud_L1"),
        ("cloud_L1/b.png", "clear/b.png", "cloud_L1"),
        ("cloud_L2/a.png", "clear/a.png", "cloud_L2"),
        ("cloud_L2/b.png", "clear/b.png", "cloud_L2"),
    ]


@pytest.mark.parametrize(
    ("hazy", "clear"),
    [
        ("hazy/1.png", "clear/1.png"),
        ("hazy/1.png", "gt/1.png"),
        ("hazy/1.png", "GT/1.png"),
        ("Hazy/1.png", "Clear/1.png"),
        ("input/1.png", "target/1.png"),
        ("hazy/1.png", "clear/1.jpg"),
        ("hazy/1.JPG", "clear/1.tif"),
        ("hazy/01_outdoor_hazy.jpg", "GT/01_outdoor_GT.jpg"),
        ("hazy/01_hazy.png", "GT/01_GT.png"),
        ("hazy/01_hazy.png", "clear/01.png"),
        ("hazy/0001_0.8_0.2.png", "clear/0001.png"),
        ("hazy/0001_0.8_0.2.jpg", "clear/0001.png"),
        ("hazy/1400_10.png", "gt/1400.png"),
        ("hazy/a_b_1.png", "gt/a_b.png"),
    ],
)
def test_a_hazy_image_finds_its_clear_one(tmp_path: Path, hazy: str, clear: str) -> None:
    assert found(dataset(tmp_path, hazy, clear)) == [(hazy, clear, "data")]


def test_one_clear_image_may_have_many_hazy_ones(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "hazy/1_0.8.png", "hazy/1_0.9.png", "hazy/10_0.8.png", "gt/1.png", "gt/10.png")
    assert [pair[:2] for pair in found(folder)] == [
        ("hazy/10_0.8.png", "gt/10.png"),
        ("hazy/1_0.8.png", "gt/1.png"),
        ("hazy/1_0.9.png", "gt/1.png"),
    ]


def test_the_longest_clear_name_is_the_partner(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "hazy/1_a_0.8.png", "hazy/1_0.8.png", "gt/1.png", "gt/1_a.png")
    assert dict(pair[:2] for pair in found(folder)) == {
        "hazy/1_a_0.8.png": "gt/1_a.png",
        "hazy/1_0.8.png": "gt/1.png",
    }


def test_a_scene_whose_partner_is_missing_does_not_get_anothers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = dataset(tmp_path, "hazy/1.png", "hazy/1_2.png", "hazy/3.png", "clear/1.png", "clear/3.png")
    assert [pair[0] for pair in found(folder)] == ["hazy/1.png", "hazy/3.png"]
    assert "hazy/1_2.png" in caplog.text


def test_what_has_no_partner_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = dataset(tmp_path, "hazy/1.png", "hazy/2.png", "clear/1.png", "clear/3.png")
    with caplog.at_level(logging.WARNING):
        assert len(found(folder)) == 1
    assert "clear/3.png, hazy/2.png" in caplog.text
    assert "1.png" not in caplog.text


def test_side_files_and_folders_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = dataset(
        tmp_path,
        "hazy/1.tif",
        "hazy/1.tif.aux.xml",
        "hazy/.2.tif",
        "hazy/x.png/y",
        "clear/1.tif",
        "clear/1.tfw",
    )
    assert found(folder) == [("hazy/1.tif", "clear/1.tif", "data")]
    assert not caplog.text


def test_of_two_clear_images_the_one_of_the_same_format_is_taken(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "hazy/1.png", "clear/1.jpg", "clear/1.png")
    assert found(folder) == [("hazy/1.png", "clear/1.png", "data")]


def test_two_clear_images_that_fit_alike_are_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "hazy/1.png", "clear/1.jpg", "clear/1.tif")
    with pytest.raises(InputError, match=r"1\.jpg, 1\.tif") as caught:
        find_pairs(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["a.png"], "no folder of hazy images"),
        (["hazy/1.png"], "no folder of clear images"),
        (["clear/1.png"], "no folder of hazy images"),
        (["hazy/1.png", "clear/2.png"], "no hazy image has a clear partner: clear/2.png, hazy/1.png"),
        (["hazy/1.txt", "clear/1.txt"], "no hazy image has a clear partner"),
    ],
)
def test_a_folder_without_pairs_is_refused_and_layouts_are_named(
    tmp_path: Path, names: list[str], what: str
) -> None:
    with pytest.raises(InputError, match=what) as caught:
        find_pairs(dataset(tmp_path, *names))
    assert all(word in caught.value.hint for word in ("cloud_L1", "hazy/", "GT/", "O-HAZE", "RESIDE"))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is no folder"):
        find_pairs(dataset(tmp_path, "1.png") / "1.png")


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    folder = dataset(tmp_path, *[f"hazy/{number:03}.png" for number in range(30)], "clear/x.png")
    with pytest.raises(InputError, match="and 11 more"):
        find_pairs(folder)
