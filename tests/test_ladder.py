"""Every rung of the ladder is reached when memory runs out on the one above, and gives the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Toy
from test_stream import FP32, scene, streamed

from dehazexl_cli import engine
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, layout, prepared, skip_cache
from dehazexl_cli.errors import DeviceError, UsageError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import PatchBatch, Skips
from dehazexl_cli.plan import QUERIES, Footprint, MemoryBudget, PlanInputs
from dehazexl_cli.report import Report

MB = 1 << 20
ARRAY = scene(50, 200)
Fail = Callable[[str], None]


class Failing(Toy):
    """Runs out of memory in one phase, as often as it is told to."""

    def __init__(self, phase: str, times: int) -> None:
        super().__init__()
        self.phase, self.times = phase, times

    def fail(self, phase: str) -> None:
        if phase == self.phase and self.times:
            self.times -= 1
            raise MemoryError("planned for a test")

    def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
        self.fail("encode")
        return super().encode(batch)

    def apply_bottleneck(self, tokens: torch.Tensor, grid: PatchGrid, seed: int | None) -> torch.Tensor:
        self.fail("bottleneck")
        return super().apply_bottleneck(tokens, grid, seed)

    def decode(self, batch: PatchBatch, scene: torch.Tensor, skips: Skips) -> torch.Tensor:
        self.fail("decode")
        return super().decode(batch, scene, skips)

    def footprint(self, dtype: torch.dtype) -> Footprint:
        usual = vars(super().footprint(dtype))
        mixing = usual["bottleneck_bytes"]
        return Footprint(
            **(usual | {"bottleneck_part_bytes": mixing // 2, "bottleneck_sampled_bytes": mixing})
        )


def rungs(report: Report) -> list[str]:
    """What each attempt was, from the words of the fallbacks."""
    first = report.fallbacks[0].partition(" with ")[2].partition(";")[0] if report.fallbacks else ""
    return [first, *(text.partition("went on with ")[2] for text in report.fallbacks)]


@pytest.mark.parametrize("phase", ["encode", "decode"])
@pytest.mark.parametrize("times", range(1, 8))
def test_while_patches_run_batches_shrink_and_then_features_are_let_go(phase: str, times: int) -> None:
    expected, _ = streamed(ARRAY, Toy(), EngineOptions(**FP32))
    output, report = streamed(ARRAY, Failing(phase, times), EngineOptions(**FP32))
    assert np.array_equal(output, expected)
    where = [("host", 8), ("host", 4), ("host", 2), ("host", 1)] + [("recompute", b) for b in (8, 4, 2, 1)]
    assert (report.plan["skips"], report.plan["batch"]) == where[times]
    assert len(report.fallbacks) == times
    assert all(text.startswith(f"out of memory while {phase[:-1]}ing with") for text in report.fallbacks)


def test_while_mixing_attention_is_exact_then_by_parts_then_sampled_then_by_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "LAST_TILES", (64, 32))
    expected, _ = streamed(ARRAY, Toy(), EngineOptions(**FP32))
    seen = []
    for times in range(4):
        output, report = streamed(ARRAY, Failing("bottleneck", times), EngineOptions(**FP32))
        seen.append((report.plan["attention"], report.plan["query_chunk"], report.mode))
        if report.mode == "global":
            assert np.array_equal(output, expected)
    assert seen == [
        ("exact", None, "global"),
        ("exact", QUERIES, "global"),
        ("exact", QUERIES, "global"),  # features are no longer kept
        ("sampled", None, "global"),
    ]
    output, report = streamed(ARRAY, Failing("bottleneck", 4), EngineOptions(**FP32))
    assert (report.mode, report.plan["tile"], report.seam_lines["stride"]) == ("tile", 64, 56)
    direct, _ = streamed(ARRAY, Toy(), EngineOptions(**FP32, mode=engine.InferenceMode("tile", 64)))
    assert np.array_equal(output, direct)
    assert "went on with tiles of 64 pixels" in report.fallbacks[-1]


def test_a_mode_that_was_chosen_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LAST_TILES", (64, 32))
    with pytest.raises(DeviceError, match="smallest plan"):
        streamed(ARRAY, Failing("bottleneck", 99), EngineOptions(**FP32, mode=engine.InferenceMode("global")))
    with pytest.raises(DeviceError, match="smallest plan"):
        streamed(ARRAY, Failing("encode", 99), EngineOptions(**FP32))


def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = prepared.setting_for
    monkeypatch.setattr(
        prepared, "setting_for", lambda *of: PlanInputs(**(vars(real(*of)) | {"on_gpu": True}))
    )
    monkeypatch.setattr(prepared, "measure_budget", lambda *of: MemoryBudget(8 << 30, 8 << 30))


def full(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def short(*arguments: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_features_go_from_the_device_to_the_host_to_the_disk_and_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected, _ = streamed(ARRAY, Toy(), EngineOptions(**FP32))
    as_if_on_a_gpu(monkeypatch)
    options = EngineOptions(**FP32, tmp_dir=str(tmp_path), overrides=PlanOverrides(batch=4))
    found = []
    for place, shelf, failure in (
        ("device", skip_cache.DeviceCache, short),
        ("host", skip_cache.PinnedHostCache, short),
        ("disk", skip_cache.DiskCache, None),
        ("recompute", None, None),
    ):
        model = Toy()
        output, report = streamed(ARRAY, model, options)
        assert np.array_equal(output, expected)
        found.append(report.plan["skips"])
        assert found[-1] == place
        assert model.encoded.count(0) == 1 + len(report.fallbacks) + (place == "recompute")
        if failure is not None:
            monkeypatch.setattr(shelf, "put", failure)
        elif place == "disk":
            monkeypatch.setattr(skip_cache, "write_tensor", full)
    exact = ", exact attention, 4 patches at a time"
    rest = [
        f"{exact}; went on with features {where}{exact}"
        for where in ("in memory", "on disk", "computed again")
    ]
    assert [text.partition(" with features ")[::2] for text in report.fallbacks] == [
        ("out of memory while encoding", f"on the device{rest[0]}"),
        ("out of memory while encoding", f"in memory{rest[1]}"),
        ("out of room on disk while encoding", f"on disk{rest[2]}"),
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_file_gives_back_every_bit_and_leaves_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    shelf = skip_cache.DiskCache(tmp_path)
    batches = {
        (n,): tuple(
            torch.randn(2, side, side, 3, generator=torch.Generator().manual_seed(n)).to(dtype)
            for side in (4, 2)
        )
        for n in range(5)
    }
    for ids, skips in batches.items():
        shelf.put(ids, skips)
    assert not list(tmp_path.iterdir())
    for ids in reversed(batches):
        taken = shelf.take(ids, torch.device("cpu"))
        assert taken is not None
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(taken, batches[ids], strict=True))
        assert shelf.take(ids, torch.device("cpu")) is None


class Heavy(Toy):
    """Says that it keeps a lot."""

    def footprint(self, dtype: torch.dtype) -> Footprint:
        return Footprint(0, 1 * MB, 4 * MB, 0, 0)


def test_some_features_are_kept_where_not_all_find_room() -> None:
    expected, _ = streamed(ARRAY, Toy(), EngineOptions(**FP32))
    patches = 4 * 13
    model = Heavy()
    room = prepared.process_bytes(model) + patches * MB + 20 * 4 * MB + 2 * MB  # and what rows take
    output, report = streamed(ARRAY, model, EngineOptions(**FP32, max_ram=room))
    assert np.array_equal(output, expected)
    assert 18 <= report.plan["cached_patches"] <= 20
    # Batches of 6 and 7 patches: as many whole ones are kept as there is room for, and encoded once.
    again = [id for id in range(patches) if model.encoded.count(id) == 2]
    assert again == list(range(19 if report.plan["cached_patches"] >= 19 else 13, patches))


def test_a_scene_that_finds_no_room_as_one_is_cut_into_tiles_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "LAST_TILES", (64, 32))
    room = prepared.process_bytes(Heavy()) + 40 * MB  # 52 patches keep 52 MB
    output, report = streamed(ARRAY, Heavy(), EngineOptions(**FP32, max_ram=room))
    direct, _ = streamed(
        ARRAY, Toy(), EngineOptions(**FP32, mode=engine.InferenceMode("tile", report.plan["tile"]))
    )
    assert np.array_equal(output, direct)
    assert (report.mode, report.plan["tile"]) == ("tile", 32)
    assert "the scene as one needs" in report.fallbacks[0]
    with pytest.raises(DeviceError) as caught:
        streamed(ARRAY, Heavy(), EngineOptions(**FP32, max_ram=room, mode=engine.InferenceMode("global")))
    assert "--max-ram" in caught.value.hint


def test_threads_are_as_many_as_asked_for_and_given_back() -> None:
    class Counting(Toy):
        seen = 0

        def apply_bottleneck(self, tokens: torch.Tensor, grid: PatchGrid, seed: int | None) -> torch.Tensor:
            self.seen = torch.get_num_threads()
            return super().apply_bottleneck(tokens, grid, seed)

    model, before = Counting(), torch.get_num_threads()
    streamed(ARRAY, model, EngineOptions(**FP32, threads=before + 1))
    assert (model.seen, torch.get_num_threads()) == (before + 1, before)
    with pytest.raises(UsageError, match="--threads 0"):
        EngineOptions(threads=0)


def test_the_report_says_how_long_each_stage_was_busy() -> None:
    _, report = streamed(ARRAY, Toy(), EngineOptions(**FP32))
    assert report.busy_seconds.keys() == {"read", "encode", "bottleneck", "decode", "convert", "write"}
    assert all(seconds > 0 for seconds in report.busy_seconds.values())
    assert report.busy_seconds["encode"] <= report.seconds["encode"]
