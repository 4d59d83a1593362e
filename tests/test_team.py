"""A scene shared between workers has the pixels it has alone, whoever does which rows and whoever is lost."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Toy
from test_resume import ARRAY, GREY, OVERLAP, WENT_ON, Killed, Mortal
from test_stream import FP32, scene

from dehazexl_cli.cluster import scene as cluster_scene
from dehazexl_cli.cluster.scene import ClusterExecutor, SceneSpec, Step, bands_of, fetch, for_workers, keep
from dehazexl_cli.cluster.worker import SceneWorker
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import InferenceMode, PlanOverrides, Resume, run
from dehazexl_cli.errors import OutputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.report import Report


@dataclass
class Here:
    """A team in this process; each of its workers has a model and a reader of its own."""

    folder: Path
    workers: list[DehazeModel]
    array: Pixels = field(default_factory=lambda: ARRAY)
    options: EngineOptions = field(default_factory=EngineOptions)
    lost: int = 0
    bands: list[tuple[Step, range]] = field(default_factory=list)
    stations: dict[tuple[Path, int], SceneWorker] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.workers)

    def over(
        self, spec: SceneSpec, step: Step, bands: Sequence[range]
    ) -> Generator[Report | None, None, None]:
        for turn, band in reversed(list(enumerate(bands))):  # they may end in any order
            self.bands.append((step, band))
            yield None
            for number in (turn % self.size, (turn + 1) % self.size):
                try:
                    yield self.station(spec, number).do(step, band, lambda: None)
                    break
                except Killed:
                    self.lost += 1
                    self.workers[number] = Toy(token_reduction=self.workers[number].token_reduction)
                    del self.stations[spec.folder, number]

    def station(self, spec: SceneSpec, number: int) -> SceneWorker:
        if (spec.folder, number) not in self.stations:
            reader, model = ArrayReader(self.array, nodata=0), self.workers[number]
            self.stations[spec.folder, number] = SceneWorker(spec, reader, model, self.options)
        return self.stations[spec.folder, number]


def dehazed(
    shared: Here | None,
    model: DehazeModel,
    resume: Resume | None = None,
    array: Pixels = ARRAY,
    **options: object,
) -> tuple[Pixels, Report]:
    reader = ArrayReader(array, nodata=0)
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info))
        return writers[-1]

    chosen = EngineOptions(**(FP32 | {"overrides": PlanOverrides(batch=3)} | options))  # type: ignore[arg-type]
    distribute = None
    if shared is not None:
        shared.options = chosen = for_workers(chosen, model)
        distribute = partial(ClusterExecutor, shared)
    if chosen.window is not None:
        info = ArrayReader(array[: chosen.window.height, : chosen.window.width]).info
        writers.append(ArrayWriter(info))
        report = run(reader, lambda: writers[0], model, chosen, None, resume, distribute)
    else:
        report = run(reader, make_writer, model, chosen, None, resume, distribute)
    return writers[-1].array, report


WAYS = [
    ("stack", OVERLAP),
    ("stack", {"overlap": 0}),
    ("stack", GREY),
    ("stack", OVERLAP | {"window": Box(35, 20, 40, 70)}),
    ("stack", OVERLAP | {"overrides": PlanOverrides("recompute", 1)}),
    ("sum", {}),
    ("sum", GREY | {"strength": 0.5}),
]


@pytest.mark.parametrize(("token_reduction", "options"), WAYS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_team_gives_the_pixels_of_one(
    token_reduction: str, options: dict[str, object], size: int, tmp_path: Path
) -> None:
    expected, alone = dehazed(None, Toy(token_reduction=token_reduction), **options)
    leader, shared = (
        Toy(token_reduction=token_reduction),
        Here(tmp_path, [Toy(token_reduction=token_reduction) for _ in range(size)]),
    )
    output, report = dehazed(shared, leader, **options)
    assert np.array_equal(output, expected)
    assert not np.array_equal(output, ARRAY[: output.shape[0], : output.shape[1]])
    assert report.counts() == alone.counts()
    assert not leader.encoded and all(worker.encoded for worker in shared.workers[:2])  # type: ignore[attr-defined]
    assert report.plan["workers"] == size


@pytest.mark.parametrize(("phase", "calls"), [("encode", 0), ("encode", 4), ("decode", 0), ("decode", 3)])
@pytest.mark.parametrize("token_reduction", ["stack", "sum"])
def test_what_a_lost_worker_had_finished_counts(
    phase: str, calls: int, token_reduction: str, tmp_path: Path
) -> None:
    options = OVERLAP if token_reduction == "stack" else {}
    expected, alone = dehazed(None, Toy(token_reduction=token_reduction), **options)
    shared = Here(tmp_path, [Mortal(phase, calls, token_reduction), Toy(token_reduction=token_reduction)])
    output, report = dehazed(shared, Toy(token_reduction=token_reduction), **options)
    assert shared.lost == 1
    assert np.array_equal(output, expected)
    assert report.counts() == alone.counts()


def test_features_are_not_computed_again_where_they_are(tmp_path: Path) -> None:
    array = scene(160, 60)
    shared = Here(tmp_path, [Toy(), Toy()], array)
    dehazed(shared, Toy(), None, array, overlap=0)
    assert sorted(id for worker in shared.workers for id in worker.encoded) == list(range(40))  # type: ignore[attr-defined]


def test_a_shared_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    class Tired(Here):
        def over(
            self, spec: SceneSpec, step: Step, bands: Sequence[range]
        ) -> Generator[Report | None, None, None]:
            for number, told in enumerate(super().over(spec, step, bands)):
                if step == "decode" and number > 5:
                    raise KeyboardInterrupt
                yield told

    resume = Resume(str(tmp_path / "journal"), {})
    expected, _ = dehazed(None, Toy(), **OVERLAP)
    with pytest.raises(KeyboardInterrupt):
        dehazed(Tired(tmp_path, [Toy(), Toy()]), Toy(), resume, **OVERLAP)
    shared = Here(tmp_path, [Toy(), Toy()])
    output, report = dehazed(shared, Toy(), resume, **OVERLAP)
    assert np.array_equal(output, expected)
    assert WENT_ON in report.warnings
    assert {step for step, _ in shared.bands} == {"decode"}


def test_lack_of_memory_on_a_worker_leads_to_the_next_plan(tmp_path: Path) -> None:
    class Short(Toy):
        def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
            if len(batch.ids) > 2:
                raise MemoryError("planned for a test")
            return super().encode(batch)

    expected, _ = dehazed(None, Toy(), **OVERLAP)
    output, report = dehazed(Here(tmp_path, [Toy(), Short()]), Toy(), overrides=PlanOverrides(), **OVERLAP)
    assert report.plan["batch"] == 2 and "out of memory" in report.fallbacks[0]
    assert np.array_equal(output, expected)


def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    for options, told in (
        ({"mode": InferenceMode("tile")}, "in mode tile"),
        ({"device": "cpu,cpu"}, "several devices"),
    ):
        with pytest.raises(UsageError, match=told):
            dehazed(Here(tmp_path, [Toy()]), Toy(), **options)


def test_bands_are_even_and_lack_no_row() -> None:
    assert bands_of(range(3, 12), 2) == [range(3, 5), range(5, 7), range(7, 9), range(9, 12)]
    assert bands_of(range(2), 4) == [range(1), range(1, 2)]
    assert bands_of(range(4, 4), 4) == []


def test_files_of_rows_are_whole_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "a", {"tokens": [torch.ones(2, dtype=torch.bfloat16), None]})
    assert fetch(tmp_path / "a")["tokens"][0].dtype is torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(OutputError, match="cannot be kept"):
        keep(tmp_path / "no folder" / "a", {})
    monkeypatch.setattr(cluster_scene, "LATE_SECONDS", 0.0)
    with pytest.raises(OutputError, match="cannot be read"):
        fetch(tmp_path / "b")
