"""The ways a scene may be run, and what each means for the grids, the plan and the places of seams.

`global` streams the three steps of a model. `tile` and `whole` and `downsample` send a tile, the scene or a
smaller picture of it through a network in one pass; they serve comparison, and networks that know no other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dehazexl_cli.config import Blend, InferenceMode, Kind, Upsampling
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box, PatchGrid, SeamLines, fitting_overlap
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import (
    PASS_BYTES,
    Footprint,
    Plan,
    PlanInputs,
    PlanOverrides,
    candidate_plans,
    for_finishing,
)
from dehazexl_cli.raster.base import RasterInfo

TILE = 512  # pixels
LAST_TILES = (4096, 2048, 1024, 512)  # pixels, of tiles that are made because memory is short
SHARED_PART = 8  # of a tile's side, that neighbours share
LONG_SIDE = 2048  # pixels
BAND_ROWS = 256  # read and written at a time where nothing else decides
TOKEN_STRIDE = 32  # pixels from token to token in the networks of this family


class Layout(NamedTuple):
    """A mode laid out over a scene."""

    kind: Kind
    outer: PatchGrid  # by which the scene is read and written
    inner: PatchGrid  # the patches of what goes through the network as one scene
    seam_lines: SeamLines  # where seams may be
    upsampling: Upsampling = "guided"

    @property
    def facts(self) -> dict[str, Any]:
        """What was decided about the mode, for plan and report."""
        outer, inner = self.outer, self.inner
        if self.kind == "tile":
            blend: Blend = "hard" if outer.hard else "feather"
            return {
                "tile": outer.patch,
                "tile_overlap": outer.overlap,
                "blend": blend,
                "tiles": [outer.rows, outer.cols],
            }
        if self.kind == "downsample":
            return {"picture": [inner.height, inner.width], "upsampling": self.upsampling}
        return {}


def make_layout(info: RasterInfo, model: DehazeModel, mode: InferenceMode, overlap: int | None) -> Layout:
    """The grids of a scene; patches share `overlap`, None what suits both. UsageError for what cannot be."""
    kind = mode.settled(model)
    if kind == "tile":
        return tiles(info, model, mode, overlap)
    if kind == "downsample":
        return smaller(info, model, mode, overlap)
    grid = patches(info.height, info.width, model, overlap)
    seam_lines = SeamLines(grid.stride, grid.overlap, TOKEN_STRIDE)
    return Layout(kind, grid if kind == "global" else bands(info), grid, seam_lines)


def patches(height: int, width: int, model: DehazeModel, overlap: int | None) -> PatchGrid:
    """The patches of what goes through the network as one scene; overlap None is the model's, made to fit."""
    if overlap is None:
        overlap = fitting_overlap(height, width, model.patch, model.overlap)
    return PatchGrid(height, width, model.patch, model.halo, overlap)


def tiles(info: RasterInfo, model: DehazeModel, mode: InferenceMode, overlap: int | None) -> Layout:
    """Tiles that know nothing of each other."""
    side = mode.tile or model.tile or TILE
    shared = side // SHARED_PART if mode.tile_overlap is None else mode.tile_overlap
    if not 0 <= shared <= side // 2:
        raise UsageError(
            f"tiles of {side} pixels cannot share {shared}", f"use --tile-overlap 0 to {side // 2}"
        )
    outer = PatchGrid(info.height, info.width, side, 0, shared, hard=mode.blend == "hard")
    inner = patches(min(side, info.height), min(side, info.width), model, overlap)
    return Layout("tile", outer, inner, SeamLines(outer.stride, shared, TOKEN_STRIDE, outer.hard))


def smaller(info: RasterInfo, model: DehazeModel, mode: InferenceMode, overlap: int | None) -> Layout:
    """A smaller picture of the scene, and back."""
    scale = max(1.0, max(info.height, info.width) / (mode.long_side or LONG_SIDE))
    height, width = (max(1, round(size / scale)) for size in (info.height, info.width))
    inner = patches(height, width, model, overlap)
    seam_lines = SeamLines(inner.stride * scale, inner.overlap * scale, TOKEN_STRIDE * scale)
    return Layout("downsample", bands(info), inner, seam_lines, mode.upsampling or "guided")


def bands(info: RasterInfo) -> PatchGrid:
    """Rows to read and write where the network does not ask for patches."""
    return PatchGrid(info.height, info.width, BAND_ROWS)


def plans_for(
    layout: Layout, footprint: Footprint, setting: PlanInputs, overrides: PlanOverrides
) -> list[Plan]:
    """Every way to run the layout, best first; the setting's rows are those of the layout's outer grid."""
    outer, inner = layout.outer, layout.inner
    if layout.kind == "global":
        return candidate_plans(footprint, outer, setting, overrides)
    # In one pass, features wait where they were made.
    kept = replace(overrides, skips="device" if setting.on_gpu else "host")
    tile = outer.patch if layout.kind == "tile" else None
    passing = PASS_BYTES * inner.height * inner.width
    finishing = footprint.weight_bytes + for_finishing(outer, setting)
    where = "device_bytes" if setting.on_gpu else "host_bytes"

    def grown(plan: Plan) -> Plan:
        """The plan with what is needed around a pass; phases are all one then."""
        need = max(getattr(plan, where) + passing, finishing) + 2 * 3 * 4 * outer.patch * outer.width
        return replace(plan, tile=tile, patch_phase_bytes=need, bottleneck_phase_bytes=need, **{where: need})

    return [grown(plan) for plan in candidate_plans(footprint, inner, setting, kept)]


def row_bytes(info: RasterInfo) -> int:
    """What one row of pixels takes in the source's own numbers."""
    return info.width * info.count * np.dtype(info.dtype).itemsize


def plan_inputs(layout: Layout, info: RasterInfo, setting: PlanInputs, wanted: Box) -> PlanInputs:
    """A setting for a layout's rows, and for its patches that reach into what is written."""
    outer = layout.outer
    reached = outer.count_overlapping(wanted) if layout.kind == "global" else None
    return replace(setting, band_bytes=(outer.patch + 2 * outer.halo) * row_bytes(info), wanted=reached)


def fallback_tiles(
    info: RasterInfo, model: DehazeModel, mode: InferenceMode, overlap: int | None
) -> list[Layout]:
    """Tiles for a scene that finds no room as one, the largest first; none where the mode was chosen."""
    if mode.kind is not None or not model.supports_streaming:
        return []
    sides = [side for side in LAST_TILES if side < max(info.height, info.width)]
    return [tiles(info, model, replace(mode, kind="tile", tile=side), overlap) for side in sides]
