"""How good an output is, measured by rows from top to bottom, so that scenes of any height fit.

`metrics`: PSNR and SSIM against a reference. `seams`: whether patches or tiles can be told apart in what
was changed. `consistency`: whether neighbouring places were judged alike, and indicators without a reference.
"""

from __future__ import annotations

from dehazexl_cli.evaluation.consistency import Drift, Indicators
from dehazexl_cli.evaluation.metrics import (
    STRIP_ROWS,
    Comparison,
    Scores,
    ScoringWriter,
    compare,
    require_bands,
    require_limits,
    require_one_size,
    valid_in_both,
)
from dehazexl_cli.evaluation.seams import Seam, SeamMeter, Seams

__all__ = [
    "STRIP_ROWS",
    "Comparison",
    "Drift",
    "Indicators",
    "Scores",
    "ScoringWriter",
    "Seam",
    "SeamMeter",
    "Seams",
    "compare",
    "require_bands",
    "require_limits",
    "require_one_size",
    "valid_in_both",
]
