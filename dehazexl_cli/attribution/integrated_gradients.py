"""The Dehazing Attribution Map: which pixels of a scene does the restoration of a small window depend on?

Chen et al., "Tokenize Image Patches: Global Context Fusion for Effective Haze Removal in Large Images", CVPR
2025, section 4: integrated gradients (Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks",
ICML 2017) along a path from a scene without haze to the hazy one. What is attributed to all pixels together
is the difference that the haze makes to the window: D(hazy) - D(clear), the *completeness* of the map.

The integral is taken by the midpoint rule. Its steps are refined by threes, as the midpoints of n intervals
are among those of 3n: nothing is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dehazexl_cli.attribution.gradient import Network, TwoPass
from dehazexl_cli.attribution.paths import Path
from dehazexl_cli.attribution.scene import Part

FIRST_STEPS = 4
MOST_STEPS = 324
TOLERANCE = 0.01  # of the completeness gap
# Where what speaks for and against cancels out, the gap is large whatever the steps. Then this share of all
# that is attributed is close enough.
CLOSE = 0.001
# Of the detector's values: a smaller difference between them is the rounding of float32.
ROUNDING = 1e-6

Watch = Callable[[int, int], None]  # patches done, patches in all


@dataclass(frozen=True)
class Attribution:
    """The map of one window."""

    map: Tensor  # [height, width] float32, signed, summed over colours
    hazy_value: float  # of the detector, on the hazy scene
    clear_value: float  # and on the clear one
    steps: int

    @property
    def total(self) -> float:
        """What is attributed to all pixels together."""
        return float(self.map.sum(dtype=torch.float64))

    @property
    def difference(self) -> float:
        """What they must add up to."""
        return self.hazy_value - self.clear_value

    @property
    def gap(self) -> float:
        """|total - difference| / |difference|; NaN where both ends give the same."""
        return completeness_gap(self.total, self.hazy_value, self.clear_value)

    @property
    def residue(self) -> float:
        """|total - difference| as a share of all that is attributed, signs aside; NaN if that is nothing."""
        amount = float(self.map.abs().sum(dtype=torch.float64))
        return abs(self.total - self.difference) / amount if amount else math.nan

    @property
    def complete(self) -> bool:
        """Whether it adds up well enough."""
        return not (self.gap >= TOLERANCE and self.residue >= CLOSE)


def completeness_gap(total: float, hazy_value: float, clear_value: float) -> float:
    """|total - difference| / |difference| of the detector's values; NaN where these do not differ."""
    difference = hazy_value - clear_value
    if abs(difference) <= ROUNDING * max(abs(hazy_value), abs(clear_value)):
        return math.nan
    return abs(total - difference) / abs(difference)


def attribute(
    network: Network,
    parts: Sequence[Part],
    path: Path,
    size: tuple[int, int],
    steps: int | None = None,
    watch: Watch | None = None,
) -> list[Attribution]:
    """Maps [height, width] of `size` for every window that the parts have detectors for, in their order.

    `steps` None means: as few as make the map of a window complete, MOST_STEPS at most.
    """
    windows = sorted({number for part in parts for number in part.detectors})
    passes = [TwoPass(network, part, path) for part in parts]
    network.model.eval()
    progress = Progress(sum(each.patches for each in passes), watch)
    progress.expect(2)  # passes without, and two with a way back for each step
    ends = [progress.values(passes, alpha, windows) for alpha in (1.0, 0.0)]
    work = Work(passes, size, windows, progress)
    count, nodes = steps or FIRST_STEPS, midpoints(steps or FIRST_STEPS)
    found: dict[int, Attribution] = {}
    while windows:
        work.go(nodes, windows)
        for number in windows:
            map = work.maps[number] / count
            found[number] = Attribution(map, ends[0][number], ends[1][number], count)
        if steps is not None or 3 * count > MOST_STEPS:
            break
        windows = [number for number in windows if not found[number].complete]
        nodes = [node for k, node in enumerate(midpoints(3 * count)) if k % 3 != 1]
        count *= 3
    return [found[number] for number in sorted(found)]


def midpoints(count: int) -> list[float]:
    """The middles of `count` equal intervals of [0, 1]."""
    return [(k + 0.5) / count for k in range(count)]


class Progress:
    """Counts patches through the network and tells the watch."""

    def __init__(self, patches: int, watch: Watch | None) -> None:
        self._patches, self._watch = patches, watch
        self._done = self._total = 0

    def expect(self, times: int) -> None:
        """So many times more will all patches be gone through."""
        self._total += times * self._patches
        self.tick(0)

    def tick(self, count: int) -> None:
        """Patches done since the last time."""
        self._done += count
        if self._watch is not None:
            self._watch(self._done, self._total)

    def values(self, passes: Sequence[TwoPass], alpha: float, windows: Sequence[int]) -> dict[int, float]:
        """What the windows' detectors find at a point of the path, in all parts together."""
        values = dict.fromkeys(windows, 0.0)
        for each in passes:
            for number, value in each.values(alpha, windows, self.tick).items():
                values[number] += value
        return values


class Work:
    """Sums of dD/dX · dX/dalpha over points of the path, by window."""

    def __init__(
        self, passes: Sequence[TwoPass], size: tuple[int, int], windows: Sequence[int], progress: Progress
    ) -> None:
        self.passes, self.progress = passes, progress
        self.maps = {number: torch.zeros(size) for number in windows}

    def go(self, nodes: Sequence[float], windows: Sequence[int]) -> None:
        """Add these points for these windows."""
        self.progress.expect(2 * len(nodes))
        for alpha in nodes:
            for each in self.passes:
                each.add(alpha, windows, {n: self._in(each, n) for n in windows}, self.progress.tick)

    def _in(self, each: TwoPass, number: int) -> Tensor:
        """That part of a map which a part of the scene adds to."""
        box = each.part.box
        return self.maps[number][box.top : box.bottom, box.left : box.right]
