"""Hostile and broken files end in success or in a clean error, soon, in little memory, and leave nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from corpus import CORPUS, is_clean, run

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
# One or two of each kind, that end at once also where the command runs in this process.
QUICK = [
    "tiff cut to 50 %",
    "png cut to 50 %",
    "jpeg cut to 50 %",
    "png with bits flipped, 0",
    "tiff of width 0",
    "tiff of 0 bands",
    "tiff of a packed strip of 4 GB",
    "tiff of JPEG XL that is none",
    "tiff whose first directory follows itself",
    "png of 16 bits that has 8",
    "png of 2^31 - 1 pixels a side",
    "tiff bomb of 200,000 pixels a side",
    "vrt of itself",
    "jpeg named png",
    "a pipe that nobody writes to",
    "a device without an end",
    "a line break in its name",
    "only NaN",
    "one pixel",
]


def test_there_are_enough_of_them() -> None:
    assert len(CORPUS) >= 60
    assert set(QUICK) <= CORPUS.keys()


@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_file_ends_well(
    dehazexl: Callable[..., Result], tmp_path: Path, tiny_weights: Path, name: str
) -> None:
    source = CORPUS[name](tmp_path)
    before = set(tmp_path.iterdir())
    target = tmp_path / "out.tif"
    result = dehazexl("run", source, target, "-q", "--weights", tiny_weights, "--max-ram", "2G")
    if result.code == 0:
        assert target.exists()
    else:
        assert result.code in (3, 6) and is_clean(result.err.splitlines()), result.err
        assert "Traceback" not in result.err and not target.exists()
    assert set(tmp_path.iterdir()) - {target} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPUS)
def test_every_hostile_file_ends_well_within_a_minute_and_2_gb(
    tmp_path: Path, tiny_weights: Path, name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = CORPUS[name](tmp_path)
    assert run(source, tiny_weights).faults() == []
