"""`dehazexl synth` as a shell sees it: pairs in folders, repeatable, whole or not there at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Result
from rasterio.transform import from_origin

from dehazexl_cli.dataset_pairs import find_pairs
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_reader
from dehazexl_cli.training.haze_presets import LEVELS
from dehazexl_cli.training.synthesis import Hazing

Command = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def make_image(path: Path, height: int = 90, width: int = 120, count: int = 3, **options: object) -> Path:
    settings = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32633"} | options
    if settings["driver"] == "GTiff":
        settings["transform"] = from_origin(4e5, 5e6, 0.5, 0.5)
    else:
        del settings["crs"]
    top = {"uint8": 255, "uint16": 4000}.get(str(settings["dtype"]), 1)
    values = np.random.default_rng(0).random((count, height, width)) * top
    with rasterio.open(path, "w", height=height, width=width, count=count, **settings) as file:
        file.write(values.astype(str(settings["dtype"])))
        file.update_tags(MISSION="one")
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "in.tif")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


@pytest.mark.parametrize("arguments", [["--help"], ["synth", "--help"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['dehazexl', *{arguments!r}]\n"
        "from dehazexl_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'rasterio', 'numpy', 'tifffile', 'imagecodecs'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_pairs_lie_in_the_layout_that_evaluate_reads(dehazexl: Command, image: Path) -> None:
    out = image.parent / "pairs"
    result = dehazexl("synth", image, out)
    assert (result.code, result.out) == (0, "")
    names = [f"cloud_L{level}/in.tif{suffix}" for level in LEVELS for suffix in ("", ".json")]
    assert set(files(out)) == {"clear/in.tif", *names}
    assert [pair.group for pair in find_pairs(out)] == ["cloud_L1", "cloud_L2", "cloud_L3", "cloud_L4"]
    assert np.array_equal(read(out / "clear" / "in.tif"), read(image))


def test_denser_levels_leave_less_of_the_ground(dehazexl: Command, image: Path) -> None:
    out = image.parent / "pairs"
    dehazexl("synth", image, out)
    shares, contrasts = [], []
    for level in LEVELS:
        path = out / f"cloud_L{level}" / "in.tif"
        shares.append(json.loads(Path(f"{path}.json").read_text())["transmission"])
        contrasts.append(np.diff(read(path).astype(float), axis=1).std())
    assert [share["mean"] for share in shares] == sorted((s["mean"] for s in shares), reverse=True)
    assert contrasts == sorted(contrasts, reverse=True)
    assert all(share["min"] < share["mean"] < share["max"] for share in shares)
    assert shares[-1]["min"] < 0.1


def test_georeference_tags_and_type_are_kept(dehazexl: Command, image: Path) -> None:
    out = image.parent / "pairs"
    dehazexl("synth", image, out, "--levels", "2")
    for path in (out / "clear" / "in.tif", out / "cloud_L2" / "in.tif"):
        with rasterio.open(image) as before, rasterio.open(path) as after:
            assert (after.crs, after.transform, after.dtypes) == (before.crs, before.transform, before.dtypes)
            assert after.tags()["MISSION"] == "one"


def test_equal_seeds_give_equal_bytes_and_others_do_not(dehazexl: Command, image: Path) -> None:
    folders = [image.parent / name for name in "abc"]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        dehazexl("synth", image, folder, "--seed", seed, "--sensor-noise", "0.01", "--jpeg", "80")
    first, again, other = map(files, folders)
    assert first == again
    assert all(first[name] != other[name] for name in first if not name.startswith("clear"))


def test_more_inputs_and_other_levels_change_nothing_for_an_image(dehazexl: Command, image: Path) -> None:
    alone, among = image.parent / "alone", image.parent / "among"
    other = make_image(image.parent / "other.tif", 40, 50)
    dehazexl("synth", image, alone, "--levels", "3")
    dehazexl("synth", other, image, among)
    expected, found = files(alone), files(among)
    assert all(found[name] == content for name, content in expected.items())


def test_the_record_beside_an_image_makes_it_again(dehazexl: Command, tmp_path: Path) -> None:
    image = make_image(tmp_path / "in.tif", count=4)
    out = tmp_path / "pairs"
    of_all = ("-b", "4,2,1", "--not-alpha")  # GDAL takes a fourth band of bytes for alpha
    dehazexl("synth", image, out, "--seed", "3", *of_all, "--sensor-noise", "0.02", "--jpeg", "70")
    for level in LEVELS:
        path = out / f"cloud_L{level}" / "in.tif"
        record = json.loads(Path(f"{path}.json").read_text())
        assert (record["seed"], record["level"], record["jpeg"]) == (3, level, 70)
        reader = open_reader(out / "clear" / "in.tif")
        assert np.array_equal(Hazing.from_dict(record).rows(reader, 0, 90).pixels, read(path))
        reader.close()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_wide_types_are_hazed_within_their_range(dehazexl: Command, tmp_path: Path, dtype: str) -> None:
    image = make_image(tmp_path / "in.tif", dtype=dtype, count=4)
    result = dehazexl("synth", image, tmp_path / "o", "--levels", "1,4", "--input-range", "0,4000", "-q")
    assert result == Result(0, "", "")
    before, after = read(image), read(tmp_path / "o" / "cloud_L1" / "in.tif")
    assert after.dtype == before.dtype
    assert np.array_equal(after[3], before[3])
    assert not np.array_equal(after[0], before[0])
    record = json.loads((tmp_path / "o" / "cloud_L1" / "in.tif.json").read_text())
    assert (record["range"], record["range_source"]) == ([0, 4000], "given")


def test_pictures_become_png_and_pairs_stay_alike(dehazexl: Command, tmp_path: Path) -> None:
    jpeg = make_image(tmp_path / "photo.jpg", driver="JPEG")
    png = make_image(tmp_path / "drawing.png", driver="PNG")
    out = tmp_path / "pairs"
    assert dehazexl("synth", jpeg, png, out, "--levels", "1").code == 0
    assert {name for name in files(out) if name.endswith(".png")} == {
        f"{folder}/{name}.png" for folder in ("clear", "cloud_L1") for name in ("photo", "drawing")
    }
    assert np.array_equal(read(out / "clear" / "photo.png"), read(jpeg))


def test_nodata_stays_untouched(dehazexl: Command, tmp_path: Path) -> None:
    image = make_image(tmp_path / "in.tif", nodata=0)
    with rasterio.open(image, "r+") as file:
        values = file.read().clip(1, 255)
        values[:, :30, :40] = 0
        file.write(values)
    dehazexl("synth", image, tmp_path / "o", "--sensor-noise", "0.1", "--jpeg", "50")
    for level in LEVELS:
        hazy = read(tmp_path / "o" / f"cloud_L{level}" / "in.tif")
        assert np.array_equal((hazy == 0).all(axis=0), (values == 0).all(axis=0))


def test_a_folder_of_clear_images_gets_its_hazy_ones_beside_it(dehazexl: Command, tmp_path: Path) -> None:
    (tmp_path / "clear").mkdir()
    image = make_image(tmp_path / "clear" / "in.tif")
    before = image.read_bytes()
    assert dehazexl("synth", image, tmp_path, "--levels", "1").code == 0
    assert image.read_bytes() == before
    assert len(find_pairs(tmp_path)) == 1


def test_existing_files_are_kept_unless_told(dehazexl: Command, image: Path) -> None:
    out = image.parent / "pairs"
    (out / "cloud_L2").mkdir(parents=True)
    (out / "cloud_L2" / "in.tif").write_bytes(b"precious")
    result = dehazexl("synth", image, out)
    assert result.code == 4
    assert "--overwrite" in result.err
    assert files(out) == {"cloud_L2/in.tif": b"precious"}
    assert dehazexl("synth", image, out, "--overwrite").code == 0
    assert files(out)["cloud_L2/in.tif"] != b"precious"


def test_inputs_that_would_share_a_name_are_refused(dehazexl: Command, image: Path) -> None:
    (image.parent / "more").mkdir()
    for name in ("in.tif", "IN.tif", "in.png"):
        other = make_image(image.parent / "more" / name, driver="PNG" if name[-3:] == "png" else "GTiff")
        result = dehazexl("synth", image, other, image.parent / "pairs")
        assert result.code == 2
        assert "would both become" in result.err
        other.unlink()
    assert not (image.parent / "pairs").exists()


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--levels", "5"], 2, "no levels"),
        (["--levels", ""], 2, "no levels"),
        (["--bands", "1,2"], 2, "not red, green and blue"),
        (["--bands", "2"], 3, "one grey band"),
        (["--sensor-noise", "7"], 2, "out of range"),
        (["--jpeg", "0"], 2, "no quality"),
        (["--seed", "-1"], 2, "seed"),
        (["--input-range", "9,1"], 2, "empty"),
    ],
)
def test_wishes_that_cannot_be_kept_say_so(
    dehazexl: Command, image: Path, options: list[str], code: int, word: str
) -> None:
    result = dehazexl("synth", image, image.parent / "pairs", *options)
    assert result.code == code, result.err
    assert word in result.err
    assert "Traceback" not in result.err
    assert not any(files(image.parent / "pairs"))


def test_unusable_inputs_are_found_before_anything_is_made(dehazexl: Command, image: Path) -> None:
    grey = make_image(image.parent / "grey.tif", count=1)
    deep = make_image(image.parent / "deep.tif", dtype="uint16")
    for bad, options in ((image.parent / "nowhere.tif", []), (grey, []), (deep, ["--jpeg", "90"])):
        result = dehazexl("synth", image, bad, image.parent / "pairs", *options)
        assert result.code == 3, result.err
        assert len(result.err.splitlines()) == 2
        assert not (image.parent / "pairs").exists()
    result = dehazexl("synth", image, image)
    assert result.code == 4
    assert "is no folder" in result.err


def test_a_damaged_image_leaves_nothing_and_does_not_stop_the_others(dehazexl: Command, image: Path) -> None:
    damaged = make_image(image.parent / "damaged.tif", 300, 300, compress="DEFLATE")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100_000] + bytes(1000) + content[101_000:])
    out = image.parent / "pairs"
    result = dehazexl("synth", damaged, image, out, "--levels", "1")
    assert result.code == 7
    assert "1 of 2 images failed" in result.err
    assert set(files(out)) == {"clear/in.tif", "cloud_L1/in.tif", "cloud_L1/in.tif.json"}
    assert dehazexl("synth", damaged, image.parent / "other").code == 3
    assert files(image.parent / "other") == {}


def test_a_failure_on_the_way_leaves_neither_image_nor_record(
    dehazexl: Command, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("dehazexl_cli.training.synthesis.keep_off_nodata", broken)
    out = image.parent / "pairs"
    assert dehazexl("synth", image, out).code == 1
    assert set(files(out)) == {"clear/in.tif"}


def test_progress_counts_images_on_stderr(dehazexl: Command, image: Path) -> None:
    result = dehazexl("synth", image, image.parent / "a", "--progress", "json")
    events = [json.loads(line) for line in result.err.splitlines()]
    assert [event["done"] for event in events] == [1, 2, 3, 4, 5]
    assert events[-1]["name"] == "cloud_L4/in.tif"
    lines = dehazexl("synth", image, image.parent / "b", "--levels", "1").err.splitlines()
    assert lines[0] == "1 of 2, clear/in.tif"
    assert "of the ground's light" in lines[1]
    quiet = dehazexl("synth", image, image.parent / "c", "--progress", "never", "--levels", "1")
    assert "1 clear, 1 hazy" in quiet.err


PEAK = """
import resource, sys
from dehazexl_cli.cli import main
sys.argv[0] = "dehazexl"
try: main()
except SystemExit as stop: assert not stop.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kilobytes(*arguments: object) -> int:
    command = [
        sys.executable,
        "-c",
        PEAK.replace("main()\nprint", "try: main()\nexcept SystemExit: pass\nprint"),
    ]
    done = subprocess.run(
        [*command, *map(str, arguments)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return int(done.stdout)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.tif"
    profile = {"driver": "GTiff", "height": 8192, "width": 8192, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", tiled=True, compress="ZSTD", **profile) as file:
        for top in range(0, 8192, 512):
            rows = np.full((3, 512, 8192), top // 40, np.uint8)
            file.write(rows, window=((top, top + 512), (0, 8192)))
    return path


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path, large: Path) -> None:
    small = make_image(tmp_path / "small.tif", 300, 300)
    options = ["--levels", "4", "--sensor-noise", "0.01", "--jpeg", "90", "-q"]
    base = peak_kilobytes("synth", small, tmp_path / "a", *options)
    most = peak_kilobytes("synth", large, tmp_path / "b", *options)
    # Of the scene's 192 MB as bytes, and 768 MB as floats, only bands and GDAL's caches are in memory.
    assert most - base < 500_000
    box = Box(5000, 3000, 100, 100)
    reader = open_reader(tmp_path / "b" / "cloud_L4" / "large.tif")
    assert reader.read(box, (1, 2, 3)).std() > 1
    reader.close()
