"""A scene that workers share, perhaps on several machines, through a folder that all of them see.

Rows of patches go to workers by bands. What a row says, and later its pixels, is a file that has its name
only when it is whole; so what a lost worker had finished counts, and who takes its band goes on from there.
Who leads the team mixes the scene and writes the result, and has decided all that could change a bit.
"""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.scene import Group, Scene
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.base import Pixels, RasterReader
from dehazexl_cli.report import Report

Step = Literal["encode", "decode"]
Found = dict[str, Any]  # in the file of a row
Tick = Callable[[int], None]  # patches done since the last time

# For each worker: of more bands, more rows are decoded twice; of fewer, some workers wait for others.
BANDS_EACH = 2
MIXED = "mixed"
# Network file systems may show a file to one machine some time after another has named it.
LATE_SECONDS = 60.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class SceneSpec:
    """What a worker is told of a scene, so that its rows have the bits they would have anywhere."""

    folder: Path  # where rows go; the whole team sees it
    grid: PatchGrid
    groups: tuple[Group, ...]
    strength: float
    device: str  # its kind
    wanted: Box
    ground: Box | None
    dtype: torch.dtype
    plan: Plan
    size: int  # of the team

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


def for_team(options: EngineOptions, model: DehazeModel) -> EngineOptions:
    """The options of a scene that a team shares; UsageError for those that do not allow it."""
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


class Encoded(NamedTuple):
    """What a row of patches says."""

    number: int
    absent: frozenset[int]  # patches that have no ground
    tokens: list[Tensor | None]  # what `GroupState.encode` gives, for each group


class SharedRows:
    """A scene whose rows a team encodes and decodes; raises what a worker raises."""

    def __init__(
        self, team: WorkerPool, scene: Scene, plan: Plan, dtype: torch.dtype, report: Report
    ) -> None:
        self._team, self._scene, self._report = team, scene, report
        self._folder = team.folder / uuid4().hex  # another attempt's rows may differ
        self._folder.mkdir()
        self._brief = SceneSpec(
            self._folder,
            scene.grid,
            scene.groups,
            scene.strength,
            scene.device.type,
            scene.wanted,
            scene.ground,
            dtype,
            plan,
            team.size,
        )

    def encoded(self, rows: range, tick: Tick) -> Generator[Encoded, None, None]:
        """What the patches of rows say, row by row."""
        with closing(self._each("encode", rows, tick)) as each:
            for number, found in each:
                yield Encoded(number, frozenset(found["absent"]), found["tokens"])

    def tell(self, states: Sequence[object]) -> None:
        """Tell the team what decoding needs to know of the whole scene: what each `GroupState.told` gives."""
        keep(self._folder / MIXED, list(states))

    def decoded(self, done: int, tick: Tick) -> Generator[Pixels, None, None]:
        """The result's rows, for each of the wanted rows of patches but those that are done."""
        rows = range(done, len(self._scene.wanted_rows()))
        with closing(self._each("decode", rows, tick)) as each:
            for _, found in each:
                yield found["rows"].numpy().view(found["dtype"]).reshape(found["shape"])

    def _each(self, step: Step, rows: range, tick: Tick) -> Generator[tuple[int, Found], None, None]:
        waiting, told = deque(rows), 0
        patches = len(self._scene.groups) * self._scene.grid.cols
        with closing(self._team.over(self._brief, step, bands_of(rows, self._team.size))) as news:
            for how_it_went in news:
                if how_it_went is not None:
                    self._report.take_in(how_it_went)
                there = numbers_in(self._folder, step).intersection(waiting)
                done = len(rows) - len(waiting) + len(there)
                tick(patches * (done - told))
                told = done
                while waiting and waiting[0] in there:
                    yield waiting[0], self._taken(step, waiting.popleft())
        for number in waiting:
            yield number, self._taken(step, number)
        tick(patches * (len(rows) - told))

    def _taken(self, step: Step, number: int) -> Found:
        path = self._folder / name_of(step, number)
        found: Found = fetch(path)
        path.unlink(missing_ok=True)
        before = self._report.counts()
        self._report.set_counts({name: before[name] + found["counts"][name] for name in before})
        return found


def bands_of(rows: range, size: int) -> list[range]:
    """Rows cut evenly into bands for a team."""
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
