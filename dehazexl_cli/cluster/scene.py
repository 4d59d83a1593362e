"""A scene whose rows workers compute, perhaps on several machines, through a folder that all of them see.

Rows of patches go to workers by bands. What a row says, and later its pixels, is a file that has its name
only when it is whole; so what a lost worker had finished counts, and who takes its band goes on from there.
Who leads lets all patches see each other and writes the result, and has decided all that could change a bit.
"""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.executor import EncodedRow, RowExecutor, SceneContext
from dehazexl_cli.engine.scaling import Group
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.base import Pixels, RasterReader
from dehazexl_cli.report import Report

Step = Literal["encode", "decode"]
Found = dict[str, Any]  # in the file of a row

# For each worker: of more bands, more rows are decoded twice; of fewer, some workers wait for others.
BANDS_EACH = 2
CONTEXT = "context"
# Network file systems may show a file to one machine some time after another has named it.
LATE_SECONDS = 60.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class SceneSpec:
    """What a worker is told of a scene, so that its rows have the bits they would have anywhere."""

    folder: Path  # where rows go; all workers see it
    grid: PatchGrid
    groups: tuple[Group, ...]
    strength: float
    device: str  # its kind
    wanted: Box
    ground: Box | None
    dtype: torch.dtype
    plan: Plan
    size: int  # of the pool

    def scene(self, reader: RasterReader, device: torch.device) -> Scene:
        """The scene as a worker has it; `reader` is of the ground."""
        return Scene(reader, self.grid, self.groups, self.strength, device, self.wanted, self.ground)


class WorkerPool(Protocol):
    """Workers that may be lost; what one was lost with is done by another."""

    folder: Path
    size: int

    def over(
        self, brief: SceneSpec, step: Step, bands: Sequence[range]
    ) -> Generator[Report | None, None, None]:
        """Have a step done for bands of rows; ends when all are done, and raises what a worker raises.

        Gives how a band went when it is done, and None every now and then. Closed early, it has workers
        leave what they have begun.
        """
        ...


def for_workers(options: EngineOptions, model: DehazeModel) -> EngineOptions:
    """The options of a scene that workers share; UsageError for those that do not allow it."""
    kind = options.mode.settled(model)
    if kind != "global":
        raise UsageError(
            f"workers cannot share a scene in mode {kind}",
            "leave out --dask, or use --mode global with a network of dehazexl",
        )
    if "," in options.device:
        raise UsageError(
            f"--device {options.device} names several devices, and a worker has one",
            "name one, and start a worker for each of the others",
        )
    # No fallback to tiles, which see nothing of each other.
    return replace(options, mode=replace(options.mode, kind="global"))


class ClusterExecutor:
    """Has workers encode and decode rows, and raises what one raises; see RowExecutor."""

    has_context = True

    def __init__(self, pool: WorkerPool, scene: Scene, run: RunContext, here: RowExecutor) -> None:
        self._pool, self._scene, self._run, self._here = pool, scene, run, here
        self._folder = pool.folder / uuid4().hex  # another attempt's rows may differ
        self._folder.mkdir()
        self._spec = SceneSpec(
            self._folder,
            scene.grid,
            scene.groups,
            scene.strength,
            scene.device.type,
            scene.wanted,
            scene.ground,
            next(run.models[0].parameters()).dtype,
            run.plan,
            pool.size,
        )
        run.report.plan["workers"] = pool.size

    def encode(self, rows: range) -> Generator[EncodedRow, None, None]:
        """See RowExecutor.encode."""
        with closing(self._each("encode", rows)) as each:
            for number, found in each:
                yield EncodedRow(number, frozenset(found["empty"]), tuple(found["tokens"]))

    def apply_bottleneck(self, group: int, tokens: Tensor | None, empty: frozenset[int]) -> Tensor | None:
        """See RowExecutor.apply_bottleneck; it is done in this process."""
        return self._here.apply_bottleneck(group, tokens, empty)

    def decode(self, rows: range, context: SceneContext) -> Generator[Pixels, None, None]:
        """See RowExecutor.decode."""
        keep(self._folder / CONTEXT, [None if each is None else each.cpu() for each in context])
        with closing(self._each("decode", rows)) as each:
            for _, found in each:
                yield found["rows"].numpy().view(found["dtype"]).reshape(found["shape"])

    def _each(self, step: Step, rows: range) -> Generator[tuple[int, Found], None, None]:
        waiting, told, progress = deque(rows), 0, self._run.progress
        patches = len(self._scene.groups) * self._scene.grid.cols
        with closing(self._pool.over(self._spec, step, bands_of(rows, self._pool.size))) as news:
            for how_it_went in news:
                if how_it_went is not None:
                    self._run.report.take_in(how_it_went)
                there = numbers_in(self._folder, step).intersection(waiting)
                done = len(rows) - len(waiting) + len(there)
                progress.advance(patches * (done - told))
                told = done
                while waiting and waiting[0] in there:
                    yield waiting[0], self._taken(step, waiting.popleft())
        for number in waiting:
            yield number, self._taken(step, number)
        progress.advance(patches * (len(rows) - told))

    def _taken(self, step: Step, number: int) -> Found:
        path, report = self._folder / name_of(step, number), self._run.report
        found: Found = fetch(path)
        path.unlink(missing_ok=True)
        before = report.counts()
        report.set_counts({name: before[name] + found["counts"][name] for name in before})
        return found


def bands_of(rows: range, size: int) -> list[range]:
    """Rows cut evenly into bands for so many workers."""
    count = min(len(rows), BANDS_EACH * size)
    ends = [rows.start + len(rows) * part // count for part in range(count + 1)] if count else []
    return [range(start, stop) for start, stop in pairwise(ends)]


def name_of(step: Step, number: int) -> str:
    """What the file of a row is called after a step."""
    return f"{step}-{number}"


def numbers_in(folder: Path, step: Step) -> set[int]:
    """The rows that have been through a step; OutputError if that cannot be seen."""
    try:
        names = [name.partition("-") for name in os.listdir(folder)]
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be looked into ({error.strerror})", "name another folder with --tmp-dir"
        ) from error
    return {int(number) for before, _, number in names if before == step}


def packed(rows: Pixels) -> Found:
    """Rows as `decoded` unpacks them; not every type of theirs is one of torch's."""
    content = torch.from_numpy(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
    return {"rows": content, "dtype": rows.dtype.str, "shape": list(rows.shape)}


def keep(path: Path, content: object) -> None:
    """Write tensors and plain values as a file that appears when it is whole; OutputError if that fails."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(buffer.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: what is done cannot be kept there ({error.strerror})",
            "free some space, or name another folder that all machines see with --tmp-dir",
        ) from error


def fetch(path: Path) -> Any:
    """What was kept in a file, which exists, though it may be seen here only later; else OutputError."""
    until = time.monotonic() + LATE_SECONDS
    while True:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            if time.monotonic() > until or not path.parent.is_dir():
                raise OutputError(
                    f"{path}: cannot be read ({error.strerror})",
                    "name a --tmp-dir on a disk that all machines see",
                ) from error
            time.sleep(LOOK_SECONDS)
