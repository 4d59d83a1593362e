"""The seam score: 1 where no patch shows, and what was planted where one does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dehazexl_cli.evaluation import Drift, Indicators, SeamMeter, Seams
from dehazexl_cli.grid import PatchGrid, SeamLines
from dehazexl_cli.raster.base import Pixels

EDGES = SeamLines(stride=256, overlap=0, token_stride=32)
FEATHERED = SeamLines(stride=224, overlap=32, token_stride=32)
HEIGHT, WIDTH = 900, 1100


def smooth(height: int, width: int) -> Pixels:
    """A change as haze asks for: it bends slowly, three bands."""
    y, x = np.mgrid[:height, :width]
    plane = 0.2 + 0.1 * np.sin(x / 300) * np.cos(y / 200) + 1e-4 * x
    return np.stack([plane, 0.9 * plane, 0.8 * plane]).astype(np.float32)


def noise(height: int, width: int, size: float) -> Pixels:
    return (np.random.default_rng(3).standard_normal((3, height, width)) * size).astype(np.float32)


def measured(
    change: Pixels,
    seam_lines: SeamLines,
    reference: Pixels | None = None,
    valid: Pixels | None = None,
    strip: int = 64,
) -> Seams:
    """The seams of a change to a scene that is grey otherwise."""
    meter = SeamMeter(*change.shape[1:], change.shape[0], seam_lines)
    before = np.full_like(change, 0.3)
    for top in range(0, change.shape[1], strip):
        rows = slice(top, top + strip)
        meter.add(
            before[:, rows],
            before[:, rows] + change[:, rows],
            None if valid is None else valid[rows],
            None if reference is None else before[:, rows] + reference[:, rows],
        )
    return meter.seams


def test_a_change_that_knows_no_patches_scores_one() -> None:
    found = measured(smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.01), EDGES)
    assert found.score == pytest.approx(1, abs=0.02)
    assert found.broad == pytest.approx(1, abs=0.02)
    assert math.isnan(found.error)
    assert found.stretches[0].height < 1


def planted(change: Pixels, line: int, height: float) -> Pixels:
    """The change with a step of that height at one vertical line."""
    stepped = change.copy()
    stepped[:, :, line:] += height
    return stepped


@pytest.mark.parametrize("levels", [1.0, 4.0, 20.0])
def test_a_planted_step_is_found_with_its_height_and_place(levels: float) -> None:
    change = planted(smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.002), 512, levels / 255)
    found = measured(change, EDGES)
    assert found.score > 1
    for seam in found.stretches[:4]:
        assert (seam.box.left, seam.box.width) == (511, 2)
        assert seam.height == pytest.approx(levels, abs=0.15)
    assert sum(seam.box.height for seam in found.stretches[:4]) == HEIGHT
    assert found.stretches[4].height < 0.3


def test_the_score_is_the_quotient_of_the_second_differences() -> None:
    """Steps of height h on noise of even second differences: both are known beforehand."""
    size = 0.01
    lattice = noise(1024, 1024, size)
    elsewhere = size * math.sqrt(6) * math.sqrt(2 / math.pi)  # mean of |a - 2b + c|
    step = 8 * size * (np.arange(1024) // 256 % 2)
    found = measured(lattice + step.astype(np.float32), EDGES)
    # Three lines of this axis have steps far above the noise, three of the other have none.
    assert found.score == pytest.approx((8 * size + elsewhere) / (2 * elsewhere), rel=0.02)


def test_steps_elsewhere_are_no_seams() -> None:
    change = smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.002)
    found = measured(planted(change, 512 + 96, 0.05), EDGES)
    assert found.score < 1
    assert found.stretches[0].height < 0.5


def test_feathering_escapes_the_fine_score_but_not_the_broad_one() -> None:
    line, (rise, level) = 448, (PatchGrid(64, 2000, 256, overlap=32).edge_weights(1, 9)[:32], 1.0)
    ramp = np.concatenate([np.zeros(line), rise, np.full(WIDTH - line - 32, level)])
    change = smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.002)
    plain, found = (measured(c.astype(np.float32), FEATHERED) for c in (change, change + 0.05 * ramp))
    assert plain.score == pytest.approx(1, abs=0.02)
    assert found.score < 1.05
    assert found.broad > 1.5
    assert found.stretches[0].height < 0.5  # no edge is left


def test_a_hard_cut_is_looked_for_in_the_middle_of_the_overlap() -> None:
    seam_lines = SeamLines(stride=448, overlap=64, token_stride=32, hard=True)
    change = planted(smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.002), 448 + 32, 0.05)
    assert measured(change, seam_lines).stretches[0].box.left == 448 + 32 - 1
    assert seam_lines.starts(512) == []
    assert seam_lines.starts(513) == [480]


def test_patches_may_begin_inside_the_scene() -> None:
    change = planted(smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.002), 50 + 512, 0.05)
    found = measured(change, EDGES._replace(top=30, left=50))
    assert [seam.box.left for seam in found.stretches[:4]] == [561] * 4
    assert found.score > 2
    assert EDGES.starts(900, 30) == [286, 542, 798]


def test_horizontal_and_vertical_lines_count_alike_whatever_the_strips() -> None:
    change = planted(smooth(900, 900) + noise(900, 900, 0.002), 512, 0.02)
    upright = measured(change, EDGES)
    for strip in (64, 33, 900):
        turned = measured(np.ascontiguousarray(change.swapaxes(1, 2)), EDGES, strip=strip)
        assert turned.score == pytest.approx(upright.score, rel=1e-4)
        assert turned.broad == pytest.approx(upright.broad, rel=1e-4)
        assert turned.stretches[0].box[:2] == (511, upright.stretches[0].box.top)


def test_invalid_pixels_do_not_count() -> None:
    change = smooth(HEIGHT, WIDTH) + noise(HEIGHT, WIDTH, 0.002)
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, 500:530] = False
    change[:, ~valid] += 0.5
    found = measured(change, EDGES, valid=valid)
    assert found.score == pytest.approx(1, abs=0.02)
    assert found.broad == pytest.approx(1, abs=0.02)
    assert found.stretches[0].height < 0.5


def test_with_a_reference_errors_beside_lines_are_compared_with_errors_elsewhere() -> None:
    change, error = smooth(HEIGHT, WIDTH), abs(noise(HEIGHT, WIDTH, 0.01))
    assert measured(change + error, EDGES, change).error == pytest.approx(1, abs=0.02)
    for line in (255, 256, 511, 512, 767, 768, 1023, 1024):
        error[:, :, line] *= 3
    for line in (255, 256, 511, 512, 767, 768):
        error[:, line] *= 3
    assert measured(change + error, EDGES, change).error == pytest.approx(3, abs=0.1)


def test_a_scene_of_one_patch_has_no_seams() -> None:
    found = measured(smooth(200, 250), EDGES)
    assert math.isnan(found.score)
    assert found.stretches == ()


def test_drift_is_the_step_between_the_means_of_neighbouring_tiles() -> None:
    difference = np.zeros((3, 256, 384), np.float32)
    difference[:, :, 128:256] = 0.02
    drift = Drift(256, 384, 3, 128)
    for top in range(0, 256, 64):
        drift.add(difference[:, top : top + 64], None)
    # Of seven pairs of neighbours the four side by side differ.
    assert drift.levels == pytest.approx(0.02 * 255 * math.sqrt(4 / 7), rel=1e-4)


def test_tiles_without_ground_take_no_part_in_drift() -> None:
    difference = np.zeros((1, 128, 384), np.float32)
    difference[:, :, 128:256] = 0.5
    valid = np.ones((128, 384), bool)
    valid[:, 128:256] = False
    drift = Drift(128, 384, 1, 128)
    drift.add(difference, valid)
    assert math.isnan(drift.levels)


def test_haze_lowers_contrast_and_raises_the_dark_channel() -> None:
    clear = np.random.default_rng(0).random((3, 128, 128), np.float32)
    found = []
    for scene in (clear, 0.5 * clear + 0.4):
        indicators = Indicators()
        indicators.add(scene[:, :64], None)
        indicators.add(scene[:, 64:], None)
        found.append((indicators.contrast, indicators.dark_channel))
    assert found[1][0] == pytest.approx(found[0][0] / 2, rel=1e-3)
    assert found[1][1] == pytest.approx(0.5 * found[0][1] + 0.4, rel=1e-3)
