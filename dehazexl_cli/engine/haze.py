"""How much light gets through the haze, told beside the result: as a map, and as shares of the scene.

Rows of the result carry it as one band more, in per cent, so that whatever computes, keeps or sends rows
carries it too; `HazeWriter` takes it off before they are written.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

from dehazexl_cli.engine.nodata import Bools
from dehazexl_cli.engine.scene import Scene
from dehazexl_cli.raster.base import Pixels, RasterWriter
from dehazexl_cli.report import Report

NO_GROUND = 255  # in a map, where there is no ground
# Kinds of haze, and the per cent of light that each lets through at least. Under closed cloud there is
# nothing to restore, and what is clear needs no dehazing.
KINDS = {"closed": 0, "dense": 10, "medium": 35, "light": 65, "clear": 90}


def haze_plane(transmission: Tensor, valid: Bools | None) -> Pixels:
    """Transmission [height, width] in per cent, uint8; NO_GROUND where pixels are not valid."""
    percent: Pixels = (100 * transmission).clamp(0, 100).round().cpu().numpy().astype(np.uint8)
    return percent if valid is None else np.where(valid, percent, np.uint8(NO_GROUND))


class HazeWriter:
    """A RasterWriter for rows whose last band is transmission: a map gets it, and the report its shares.

    Where the scene says what `unseen` pixels become, those under closed cloud become that, but for alpha.
    """

    def __init__(
        self, writer: RasterWriter, haze_map: RasterWriter | None, report: Report, scene: Scene
    ) -> None:
        self._writer, self._map, self._report = writer, haze_map, report
        self._unseen, alpha = scene.unseen, scene.reader.info.alpha
        self._marked = [band for band in range(scene.reader.info.count) if band + 1 != alpha]
        self._counts = np.zeros(NO_GROUND + 1, np.int64)

    def write(self, rows: Pixels) -> None:
        """Append rows [count + 1, height, width]; see RasterWriter.write."""
        plane = rows[-1:].astype(np.uint8)
        self._counts += np.bincount(plane.ravel(), minlength=len(self._counts))
        if self._unseen is not None:
            closed = plane[0] < KINDS["dense"]
            for band in self._marked:
                rows[band][closed] = self._unseen
        self._writer.write(rows[:-1])
        if self._map is not None:
            self._map.write(plane)

    def commit(self) -> None:
        """Finish the map, then the result; see RasterWriter.commit."""
        self._report.haze = shares_of_haze(self._counts[:NO_GROUND])
        if self._map is not None:
            self._map.commit()
        self._writer.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave both writers to who opened them."""


def shares_of_haze(counts: Pixels) -> dict[str, float]:
    """Mean transmission, and the share of the ground under each of KINDS, of counts of each per cent.

    All are between 0 and 1; empty without any ground.
    """
    total = counts.sum()
    if not total:
        return {}
    ends = (*list(KINDS.values())[1:], len(counts))
    shares = {
        kind: counts[least:end].sum() / total for (kind, least), end in zip(KINDS.items(), ends, strict=True)
    }
    mean = (counts * np.arange(len(counts))).sum() / total / 100
    return {name: round(float(value), 4) for name, value in {"transmission": mean, **shares}.items()}
