"""The Dehazing Attribution Map: which pixels of a scene the restoration of a small window depends on."""

from __future__ import annotations

from dehazexl_cli.attribution.gradient import Network
from dehazexl_cli.attribution.integrated_gradients import (
    MOST_STEPS,
    TOLERANCE,
    Attribution,
    attribute,
    completeness_gap,
)
from dehazexl_cli.attribution.paths import Blend, Path, Transmission, airlight_of
from dehazexl_cli.attribution.scene import Detector, Part, Sight
from dehazexl_cli.attribution.statistics import Spread, measure_spread

__all__ = [
    "MOST_STEPS",
    "TOLERANCE",
    "Attribution",
    "Blend",
    "Detector",
    "Network",
    "Part",
    "Path",
    "Sight",
    "Spread",
    "Transmission",
    "airlight_of",
    "attribute",
    "completeness_gap",
    "measure_spread",
]
