"""PSNR and SSIM: equal to scikit-image and to a slow direct form, whatever the strips, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.evaluation import STRIP_ROWS, Comparison, Scores, ScoringWriter, compare
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.memory import ArrayReader

NONE = np.zeros((0, 0))


def scenes(height: int, width: int, bands: int) -> tuple[Pixels, Pixels]:
    """A hazy and a clear scene by formula, in numbers from 0 to 255."""
    y, x, band = np.meshgrid(np.arange(height), np.arange(width), np.arange(bands), indexing="ij")
    clear = (7 * y + 3 * x + 40 * band + (y // 5 * x // 7) * 11 + (x * y) % 17 * 4) % 256
    return (clear * 150 + 80 * 256 + (x * x + 3 * y) % 29 * 64) // 256, clear


def in_type(scene: Pixels, dtype: str) -> Pixels:
    """The scene in the numbers that its figures below belong to."""
    return {
        "uint8": lambda: scene.astype(np.uint8),
        "uint16": lambda: (scene * 201).astype(np.uint16),
        "float32": lambda: (scene / 300).astype(np.float32),
    }[dtype]()


def score(first: Pixels, second: Pixels, **reading: object) -> Scores:
    return compare(ArrayReader(first, **reading), ArrayReader(second, **reading))  # type: ignore[arg-type]


# scikit-image 0.26.0: peak_signal_noise_ratio(a, b, data_range=1) and structural_similarity(a, b,
# gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2) of the
# scenes above in [0, 1].
SCIKIT_IMAGE = [
    (150, 93, 3, "uint8", 15.448880618405136, 0.8448153183950303),
    (150, 93, 3, "uint16", 17.58362193662125, 0.8457363763154903),
    (150, 93, 3, "float32", 16.86050213211533, 0.8453750610351562),
    (11, 64, 1, "uint8", 15.849349292184968, 0.8555574179518474),
    (11, 64, 1, "uint16", 17.984090610401083, 0.8575929978229156),
    (70, 11, 2, "uint8", 15.527330941800045, 0.8349288186696726),
    (70, 11, 2, "float32", 16.93895243535509, 0.8362115621566772),
    (64, 40, 3, "uint8", 15.597371172395391, 0.8337125220542992),
]


@pytest.mark.parametrize(("height", "width", "bands", "dtype", "psnr", "ssim"), SCIKIT_IMAGE)
def test_scores_are_those_of_scikit_image(
    height: int, width: int, bands: int, dtype: str, psnr: float, ssim: float
) -> None:
    hazy, clear = scenes(height, width, bands)
    found = score(in_type(hazy, dtype), in_type(clear, dtype))
    assert found.psnr == pytest.approx(psnr, abs=1e-5)
    assert found.ssim == pytest.approx(ssim, abs=1e-6)


def slow_ssim(first: Pixels, second: Pixels, valid: Pixels) -> float:
    """SSIM of [h, w, c] in [0, 1] by its definition, window by window, deviations taken from the mean."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for top in range(first.shape[0] - 10):
        for left in range(first.shape[1] - 10):
            window = slice(top, top + 11), slice(left, left + 11)
            for band in range(first.shape[2]) if valid[window].all() else ():
                x, y = first[(*window, band)], second[(*window, band)]
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                vxy = (weights * (x - mx) * (y - my)).sum()
                light = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
                found.append(light * (2 * vxy + 9e-4) / (vx + vy + 9e-4))
    return float(np.mean(found))


def test_ssim_is_what_its_definition_says() -> None:
    hazy, clear = scenes(27, 31, 2)
    expected = slow_ssim(hazy / 255, clear / 255, np.ones((27, 31), bool))
    assert score(hazy.astype(np.uint8), clear.astype(np.uint8)).ssim == pytest.approx(expected, abs=1e-9)


def added(hazy: Pixels, clear: Pixels, valid: Pixels | None, heights: Sequence[int]) -> Scores:
    """Scores of [bands, h, w] handed over in pieces of these heights."""
    info = RasterInfo("array", "MEM", hazy.shape[1], hazy.shape[2], len(hazy), "uint8")
    comparison, top = Comparison(info, info), 0
    for height in heights:
        rows = slice(top, top + height)
        comparison.add(hazy[:, rows], clear[:, rows], None if valid is None else valid[rows])
        top += height
    assert top == info.height
    return comparison.scores


@pytest.mark.parametrize("heights", [[1] * 203, [3, 200], [64, 64, 64, 11], [100, 103], [10, 11, 12, 170]])
@pytest.mark.parametrize("gaps", [False, True])
def test_pieces_give_the_scores_of_the_whole(heights: list[int], gaps: bool) -> None:
    hazy, clear = (np.moveaxis(scene, 2, 0).astype(np.uint8) for scene in scenes(203, 41, 3))
    valid = np.ones((203, 41), bool)
    valid[60:70, 5], valid[150, 20] = False, False
    whole = added(hazy, clear, valid if gaps else None, [203])
    found = added(hazy, clear, valid if gaps else None, heights)
    assert (found.psnr, found.ssim) == pytest.approx((whole.psnr, whole.ssim), abs=1e-12)


def test_invalid_pixels_and_windows_with_one_do_not_count() -> None:
    hazy, clear = (scene.astype(np.uint8) // 2 + 1 for scene in scenes(30, 33, 2))
    valid = np.ones((30, 33), bool)
    valid[3, 4], valid[20:22, 30:] = False, False
    hazy_gaps, clear_gaps = hazy.copy(), clear.copy()
    hazy_gaps[3, 4], clear_gaps[20:22, 30:] = 255, 255
    found = score(hazy_gaps, clear_gaps, nodata=255)
    errors = (hazy / 255 - clear / 255)[valid]
    assert found.psnr == pytest.approx(-10 * math.log10((errors**2).mean()))
    assert found.ssim == pytest.approx(slow_ssim(hazy / 255, clear / 255, valid), abs=1e-9)


def test_nan_spreads_nowhere() -> None:
    clear = np.random.default_rng(0).random((30, 30, 3), dtype=np.float32)
    hazy = clear * np.float32(0.5)
    expected = score(hazy, clear)
    hazy[2, 3, 1], clear[29, 29] = np.nan, np.inf
    found = score(hazy, clear)
    assert found.psnr == pytest.approx(expected.psnr, abs=0.1)
    assert found.ssim == pytest.approx(expected.ssim, abs=0.1)


def test_identical_scenes_are_infinitely_close() -> None:
    clear = scenes(40, 20, 3)[1].astype(np.uint8)
    assert score(clear, clear) == Scores(math.inf, 1.0)


def test_scenes_smaller_than_a_window_have_no_ssim() -> None:
    hazy, clear = (scene.astype(np.uint8) for scene in scenes(10, 50, 3))
    found = score(hazy, clear)
    assert math.isfinite(found.psnr) and math.isnan(found.ssim)


def test_scenes_without_a_common_valid_pixel_have_no_scores() -> None:
    black, grey = np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 9, np.uint8)
    found = score(black, grey, nodata=0)
    assert math.isnan(found.psnr) and math.isnan(found.ssim)


def test_each_scene_is_measured_by_its_own_type() -> None:
    hazy, clear = scenes(40, 50, 3)
    both = score(hazy.astype(np.uint8), clear.astype(np.uint8))
    wide = score(hazy.astype(np.uint8), (clear * 257).astype(np.uint16))
    assert (wide.psnr, wide.ssim) == pytest.approx((both.psnr, both.ssim), abs=1e-9)


def test_given_limits_are_black_and_white_for_any_type() -> None:
    hazy, clear = scenes(40, 50, 3)
    expected = score(hazy.astype(np.uint8), clear.astype(np.uint8))
    first, second = (ArrayReader((scene * 4 - 100).astype(np.int16)) for scene in (hazy, clear))
    found = compare(first, second, limits=(-100, 920))
    assert (found.psnr, found.ssim) == pytest.approx((expected.psnr, expected.ssim), abs=1e-9)
    with pytest.raises(InputError, match="int16") as caught:
        compare(first, second)
    assert "--input-range" in caught.value.hint
    with pytest.raises(UsageError, match="empty"):
        compare(first, second, limits=(5, 5))


def test_only_the_given_bands_count_and_alpha_does_not() -> None:
    hazy, clear = (scene.astype(np.uint8) for scene in scenes(40, 50, 4))
    expected = score(hazy[:, :, [2, 0]], clear[:, :, [2, 0]])
    found = compare(ArrayReader(hazy), ArrayReader(clear), bands=(3, 1))
    assert (found.psnr, found.ssim) == pytest.approx((expected.psnr, expected.ssim))
    hazy[:, :, 3] = np.maximum(hazy[:, :, 3], 1)
    colours = score(hazy[:, :, :3], clear[:, :, :3])
    assert compare(ArrayReader(hazy, alpha=4), ArrayReader(clear[:, :, :3])) == colours


@pytest.mark.parametrize(
    ("shape", "bands", "what"),
    [((20, 31, 3), None, "pixels"), ((20, 30, 4), None, "colours"), ((20, 30, 3), (1, 4), "no band 4")],
)
def test_scenes_that_cannot_be_compared_say_why(
    shape: tuple[int, ...], bands: Sequence[int] | None, what: str
) -> None:
    first, second = ArrayReader(np.zeros((20, 30, 3), np.uint8)), ArrayReader(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=what) as caught:
        compare(first, second, bands)
    assert caught.value.hint


class Endless:
    """A scene far too high for memory, which notes the largest box asked for."""

    def __init__(self) -> None:
        self.info = RasterInfo("endless", "MEM", 2**40, 64, 1, "uint8")
        self.rows_read, self.highest = 0, 0

    def read(self, box: Box, bands: Sequence[int]) -> Pixels:
        if self.rows_read > 1000:
            raise InterruptedError
        self.rows_read += box.height
        self.highest = max(self.highest, box.height)
        return np.zeros((len(bands), box.height, box.width), np.uint8)

    def valid(self, box: Box, bands: Sequence[int]) -> Pixels | None:
        return None

    def sample(self, bands: Sequence[int], side: int) -> Pixels:
        return NONE

    def close(self) -> None:
        pass


def test_scenes_are_read_by_strips() -> None:
    first, second = Endless(), Endless()
    with pytest.raises(InterruptedError):
        compare(first, second)
    assert first.highest == second.highest == STRIP_ROWS


def test_a_scoring_writer_finds_what_compare_finds_and_only_when_finished() -> None:
    hazy, clear = (scene.astype(np.uint8) for scene in scenes(50, 40, 4))
    source, reference = ArrayReader(hazy, nodata=200), ArrayReader(clear)
    with ScoringWriter(source, reference, (1, 2, 3)) as writer:
        for top in range(0, 50, 16):
            writer.write(np.moveaxis(hazy[top : top + 16], 2, 0))
            if top < 48:
                with pytest.raises(ValueError, match="of 50 rows"):
                    writer.commit()
        with pytest.raises(ValueError, match="before commit"):
            _ = writer.scores
        writer.commit()
    expected = compare(source, reference, (1, 2, 3))
    assert (writer.scores.psnr, writer.scores.ssim) == pytest.approx((expected.psnr, expected.ssim))
