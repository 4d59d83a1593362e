"""What is measured of an output beside its input, and a reference where there is one: in one reading."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dehazexl_cli.evaluation.consistency import Drift, Indicators
from dehazexl_cli.evaluation.metrics import STRIP_ROWS, Comparison, valid_in_both
from dehazexl_cli.evaluation.seams import Seam, SeamMeter
from dehazexl_cli.grid import SeamLines, strips
from dehazexl_cli.raster import open_reader
from dehazexl_cli.raster.base import Pixels

DRIFT_SIDE = 512  # pixels of the squares whose colours are compared, the same for every mode
IN_ONE_PIECE = SeamLines(
    stride=2**40, overlap=0, token_stride=2**40
)  # wider than any scene, so nothing meets


@dataclass(frozen=True)
class View:
    """Which numbers of a scene are looked at: bands, and what counts as 0 and 1."""

    bands: tuple[int, ...]
    low: float
    high: float

    def unit(self, pixels: Pixels) -> Pixels:
        """Source numbers in [0, 1], float32; beyond it what lies beyond the range."""

        scaled: Pixels = ((pixels.astype(np.float64) - self.low) / (self.high - self.low)).astype(np.float32)
        return scaled

    def shown(self, pixels: Pixels) -> Pixels:
        """Source numbers [3 or 1, h, w] as uint8 [3, h, w]: the same stretch for every picture."""
        grey_or_colour = np.nan_to_num(self.unit(pixels)).clip(0, 1) * 255
        return np.broadcast_to(grey_or_colour.round().astype(np.uint8), (3, *pixels.shape[1:]))


@dataclass(frozen=True)
class Measures:
    """Numbers of one output, or of the input; nan where one has no meaning."""

    psnr: float  # decibels; nan without a reference, as are the next two
    ssim: float
    seam_error: float
    seam_score: float
    seam_broad: float
    drift: float  # levels of 255: of the error, or of the change where there is no reference
    contrast: float  # indicators, not quality
    dark_channel: float

    def to_dict(self) -> dict[str, float | None]:
        """As plain values."""
        return rounded(asdict(self))


def rounded(values: dict[str, float]) -> dict[str, float | None]:
    """Rounded numbers, None for what is none."""
    return {key: round(value, 4) if math.isfinite(value) else None for key, value in values.items()}


def measure(
    source: str, output: str, reference: str | None, view: View, seam_lines: dict[str, Any]
) -> tuple[Measures, tuple[Seam, ...]]:
    """Measures of an output file, and its seams; InputError if the reference cannot be compared."""

    with (
        closing(open_reader(source)) as before,
        closing(open_reader(output)) as after,
        closing(open_reader(reference or source)) as truth,
    ):
        info, count = before.info, len(view.bands)
        closeness = Comparison(after.info, truth.info, view.bands, (view.low, view.high))
        meter = SeamMeter(info.height, info.width, count, SeamLines(**seam_lines))
        drift, indicators = Drift(info.height, info.width, count, DRIFT_SIDE), Indicators()
        for box in strips(info.height, info.width, STRIP_ROWS):
            valid = valid_in_both(before, truth, box, view.bands)
            rows = [reader.read(box, view.bands) for reader in (before, after, truth)]
            if reference is not None:
                closeness.add(rows[1], rows[2], valid)
            hazy, clear, base = (view.unit(part) for part in rows)
            meter.add(hazy, clear, valid, base if reference is not None else None)
            drift.add(clear - base, valid)
            indicators.add(clear, valid)
    scores, seams = closeness.scores, meter.seams
    close = (scores.psnr, scores.ssim, seams.error, seams.score, seams.broad)
    return Measures(*close, drift.levels, indicators.contrast, indicators.dark_channel), seams.stretches


def measure_input(source: str, reference: str | None, view: View) -> Measures:
    """Measures of the scene as it is, which those of outputs are to be seen beside.

    Nothing was changed in it: it has no seams, and drift only from a reference.
    """
    found, _ = measure(source, source, reference, view, IN_ONE_PIECE._asdict())
    return found if reference is not None else replace(found, drift=math.nan)
