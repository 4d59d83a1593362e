"""What a network sees of a scene, hazy and clear, and which pixels of its output are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dehazexl_cli.attribution.paths import Path
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import PatchBatch, blend_weights


@dataclass(frozen=True)
class Detector:
    """The sum of the output's numbers over a window, each weighted: D = sum of w · (r + g + b)."""

    box: Box  # in the scene
    weights: Tensor  # [height, width] float32

    @classmethod
    def of(cls, box: Box, kind: str, ground: Tensor | None = None) -> Detector:
        """The `sum` over a window, or the `mean`; of its ground [height, width] bool alone, if given."""
        weights = torch.ones(box.height, box.width) if ground is None else ground.float()
        return cls(box, weights if kind == "sum" else weights / (3 * weights.sum()).clamp(min=1))

    def within(self, box: Box) -> Detector:
        """What of it lies in a box, in the coordinates of that box."""
        shared = self.box.within(box)
        rows = slice(shared.top - self.box.top, shared.bottom - self.box.top)
        cols = slice(shared.left - self.box.left, shared.right - self.box.left)
        return Detector(shared.moved(-box.top, -box.left), self.weights[rows, cols])


@dataclass(frozen=True)
class Sight:
    """A scene as one network sees it at once, at both ends of a path.

    Pixels are [3 or 1, rows, width] float32 in [0, 1] for each row of patches: the rows that it sees, from
    the topmost on. One band stands for all three colours. They lie in the memory of the host.
    """

    grid: PatchGrid
    hazy: Sequence[Tensor]
    clear: Sequence[Tensor]
    empty: frozenset[int] = frozenset()  # patches without any ground, which are never decoded

    @classmethod
    def of(cls, hazy: Tensor, clear: Tensor, grid: PatchGrid) -> Sight:
        """Images [3, height, width]; they are not copied."""
        spans = [spanned(grid.view_rows(row)) for row in range(grid.rows)]
        return cls(grid, [hazy[:, span] for span in spans], [clear[:, span] for span in spans])

    def batch(
        self, ids: Sequence[int], path: Path, alpha: float, device: torch.device
    ) -> tuple[PatchBatch, Tensor]:
        """Patches at a point of a path, on the device, and how fast their pixels move there."""
        hazy, clear = (self._cut(ids, rows).to(device) for rows in (self.hazy, self.clear))
        pixels = path.point(alpha, hazy, clear)
        return PatchBatch(tuple(ids), self.grid, pixels), path.slope(alpha, hazy, clear)

    def patches_of(self, box: Box) -> list[int]:
        """Patches with ground that reach into a box."""
        reached = (id for id in range(len(self.grid)) if self.grid.box(id).within(box).pixels)
        return [id for id in reached if id not in self.empty]

    def weights(self, ids: Sequence[int], detector: Detector, like: Tensor) -> Tensor:
        """How much each pixel of patches counts in a detector, [b, 1, patch, patch]."""
        grid = self.grid
        weights = like.new_zeros(len(ids), 1, grid.patch, grid.patch)
        for id, out in zip(ids, weights[:, 0], strict=True):
            box = grid.box(id)
            mine = detector.within(box)
            rows, cols = slice(mine.box.top, mine.box.bottom), slice(mine.box.left, mine.box.right)
            out[rows, cols] = mine.weights.to(like) * blend_weights(grid, id, like)[rows, cols]
        return weights

    def fold(self, ids: Sequence[int], values: Tensor, total: Tensor) -> None:
        """Add what belongs to the pixels patches see [b, side, side] to those of the scene [height, width].

        What lies beyond the edge is the mirror image of pixels inside, and belongs to these.
        """
        grid = self.grid
        for id, patch in zip(ids, values.to(total), strict=True):
            row, col = divmod(id, grid.cols)
            rows, cols = grid.view_rows(row), grid.view_cols(col)
            down, right = spanned(rows), spanned(cols)
            folded = patch.new_zeros(down.stop - down.start, len(cols))
            folded.index_add_(0, torch.tensor(rows) - down.start, patch)
            total[down, right].index_add_(1, torch.tensor(cols) - right.start, folded)

    def _cut(self, ids: Sequence[int], rows: Sequence[Tensor]) -> Tensor:
        grid = self.grid
        patches = []
        for id in ids:
            row, col = divmod(id, grid.cols)
            seen = grid.view_rows(row)
            patch = taken(taken(rows[row], 1, [place - min(seen) for place in seen]), 2, grid.view_cols(col))
            patches.append(patch.expand(3, -1, -1))
        return torch.stack(patches)


@dataclass(frozen=True)
class Part:
    """A stretch of a scene that goes through the network as a scene of its own."""

    sight: Sight
    box: Box  # its place in the whole
    detectors: dict[int, Detector]  # by the number of the window, in coordinates of the part


def taken(x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    """Those places along an axis; without a copy where they run on, as inside a scene they do."""
    if places[-1] - places[0] == len(places) - 1:
        return x.narrow(axis, places[0], len(places))
    return x.index_select(axis, torch.tensor(places, device=x.device))


def spanned(places: Sequence[int]) -> slice:
    """From the least to the greatest of some places along an axis."""
    return slice(min(places), max(places) + 1)
