"""A result says what it was made with, in its file and by STAC's names, unless it is told not to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Result

from dehazexl_cli import __version__
from dehazexl_cli.batch.log import origin_in_tags
from dehazexl_cli.provenance import Origin

Command = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def make(path: Path, **tags: str) -> Path:
    values = np.random.default_rng(0).integers(1, 255, (3, 70, 90), dtype=np.uint8)
    profile = {"driver": "GTiff", "height": 70, "width": 90, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.update_tags(**tags)
    return path


def tags(path: Path) -> dict[str, str]:
    with rasterio.open(path) as file:
        found: dict[str, str] = file.tags()
    return found


@pytest.mark.parametrize("format", ["GTiff", "COG"])
def test_a_tiff_says_what_it_was_made_with(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path, format: str
) -> None:
    source, target = make(tmp_path / "in.tif", TIFFTAG_SOFTWARE="pix4dmapper"), tmp_path / "out.tif"
    run = ("run", source, target, "--weights", tiny_weights, "-f", format, "--json")
    report = json.loads(dehazexl(*run, "--strength", "0.5", "--window", "0,0,80,60").out)
    found = tags(target)
    assert found["TIFFTAG_SOFTWARE"] == "pix4dmapper"
    assert found["DEHAZEXL_SOFTWARE"] == f"dehazexl {__version__}"
    assert found["DEHAZEXL_MODEL"] == "dehazexl-s"
    assert found["DEHAZEXL_WEIGHTS_SHA256"] == report["weights_sha256"]
    assert found["DEHAZEXL_SOURCE"] == str(source)
    decided = {"strength": 0.5, "window": [0, 0, 60, 80], "format": format}
    assert json.loads(found["DEHAZEXL_OPTIONS"]) == decided
    assert report["processing:datetime"] == found["DEHAZEXL_DATETIME"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["DEHAZEXL_DATETIME"])
    assert report["processing:software"] == {"dehazexl": __version__}
    assert report["processing:version"] == __version__
    assert str(source) in report["processing:lineage"]
    expression = report["processing:expression"]["expression"]
    assert expression["weights_sha256"] == report["weights_sha256"]
    assert origin_in_tags(target) == Origin.of(**expression)


def test_the_field_for_software_is_ours_where_it_was_free(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    source = make(tmp_path / "in.tif")
    assert dehazexl("run", source, tmp_path / "out.tif", "--weights", tiny_weights).code == 0
    assert tags(tmp_path / "out.tif")["TIFFTAG_SOFTWARE"] == f"dehazexl {__version__}"


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_without_provenance_the_same_run_gives_the_same_bytes(
    dehazexl: Command, tmp_path: Path, tiny_weights: Path, suffix: str
) -> None:
    source = make(tmp_path / "in.tif")
    targets = [tmp_path / folder / f"out{suffix}" for folder in ("a", "b")]
    for target in targets:
        target.parent.mkdir()
        run = ("run", source, target, "--weights", tiny_weights, "--no-provenance")
        assert dehazexl(*run).code == 0
    first, second = (target.read_bytes() for target in targets)
    assert first == second
    assert b"dehazexl" not in first.lower()


def test_a_png_keeps_no_tags_of_ours_beside_it(dehazexl: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source = make(tmp_path / "in.tif")
    assert dehazexl("run", source, tmp_path / "out.png", "--weights", tiny_weights).code == 0
    assert not any(name.startswith("DEHAZEXL") for name in tags(tmp_path / "out.png"))
