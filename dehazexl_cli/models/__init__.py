"""The networks by name. Adding one is a file in this folder and a line in REGISTRY."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dehazexl_cli.errors import UsageError
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.models.bilateral_grid import BILATERAL_GRID, BilateralGridConfig, BilateralGridModel
from dehazexl_cli.models.dehazexl import PAPER, DehazeXL, DehazeXLConfig
from dehazexl_cli.models.dehazexl_s import DEFAULT, DehazeXLS, DehazeXLSConfig
from dehazexl_cli.models.mgbl import PUBLISHED, BilateralConfig, MultiGuidedBilateral

Config = DehazeXLSConfig | DehazeXLConfig | BilateralConfig | BilateralGridConfig


class Preset(NamedTuple):
    """A network's class and the configuration its name stands for."""

    network: Callable[[Any], DehazeModel]  # takes the kind of config that stands beside it
    config: Config


REGISTRY: dict[str, Preset] = {
    "dehazexl-s": Preset(DehazeXLS, DEFAULT),
    "dehazexl-paper": Preset(DehazeXL, PAPER),
    "mgbl-s": Preset(BilateralGridModel, BILATERAL_GRID),
    "mgbl-paper": Preset(MultiGuidedBilateral, PUBLISHED),
}


def build(name: str) -> DehazeModel:
    """The named network with fresh weights."""
    preset = find(name)
    return preset.network(preset.config)


def find(name: str) -> Preset:
    """The named preset; UsageError if there is none."""
    if name not in REGISTRY:
        raise UsageError(f"there is no model named {name!r}", f"choose one of: {', '.join(REGISTRY)}")
    return REGISTRY[name]
