"""Several devices share the patches of a scene and give the result of one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import Toy
from test_stream import scene, streamed

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import InferenceMode, PlanOverrides
from dehazexl_cli.engine.device import choose_devices
from dehazexl_cli.engine.threads import in_turn
from dehazexl_cli.errors import DeviceError, UsageError
from dehazexl_cli.models import build
from dehazexl_cli.models.base import PatchBatch, Skips

ARRAY = scene(50, 120)


class Watched(Toy):
    """Notes in a list that its copies share who encoded what, and in which thread."""

    def __init__(self, reduction: str = "stack") -> None:
        super().__init__(token_reduction=reduction)
        self.seen = Shared()

    def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
        self.seen.notes.append((id(self), threading.get_ident(), batch.ids))
        return super().encode(batch)


class Shared:
    """Is not copied with what has it."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, int, tuple[int, ...]]] = []

    def __deepcopy__(self, memo: object) -> Shared:
        return self


@pytest.mark.parametrize("reduction", ["stack", "sum"])
@pytest.mark.parametrize("skips", ["device", "host", "disk", "recompute"])
@pytest.mark.parametrize("device", ["cpu,cpu", "cpu,cpu,cpu"])
def test_replicas_share_the_batches_and_give_the_same(reduction: str, skips: str, device: str) -> None:
    overrides = PlanOverrides(skips, 2)  # type: ignore[arg-type]
    expected, _ = streamed(
        ARRAY,
        Toy(token_reduction=reduction),
        EngineOptions(device="cpu", precision="fp32", overrides=overrides),
    )
    model = Watched(reduction)
    output, report = streamed(
        ARRAY, model, EngineOptions(device=device, precision="fp32", overrides=overrides)
    )
    assert np.array_equal(output, expected)
    assert report.device == device
    assert len({who for who, _, _ in model.seen.notes}) == device.count("cpu")
    assert threading.get_ident() not in {thread for _, thread, _ in model.seen.notes}
    once = [ids for _, _, ids in model.seen.notes]
    assert len(set(once)) == len(once) // (2 if skips == "recompute" else 1)


def test_tiles_are_shared_too() -> None:
    for mode in (InferenceMode("tile", 40), InferenceMode("whole")):
        expected, _ = streamed(ARRAY, Toy(), EngineOptions(device="cpu", precision="fp32", mode=mode))
        output, _ = streamed(ARRAY, Toy(), EngineOptions(device="cpu,cpu", precision="fp32", mode=mode))
        assert np.array_equal(output, expected)


def test_real_networks_run_on_replicas() -> None:
    torch.manual_seed(0)
    model = build("dehazexl-s").eval()
    array = scene(300, 520)
    expected, _ = streamed(array, model, EngineOptions(device="cpu", overrides=PlanOverrides(batch=1)))
    output, _ = streamed(array, model, EngineOptions(device="cpu,cpu", overrides=PlanOverrides(batch=1)))
    assert np.array_equal(output, expected)
    assert not np.array_equal(output, array)


def test_lack_of_memory_on_any_replica_leads_to_the_next_plan() -> None:
    class Hungry(Watched):
        def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
            if len(batch.ids) > 2 and batch.ids[0] % 16:
                raise MemoryError("planned for a test")
            return super().encode(batch)

    wide = scene(50, 250)  # 16 patches in a row
    expected, _ = streamed(wide, Toy(), EngineOptions(device="cpu", precision="fp32"))
    output, report = streamed(wide, Hungry(), EngineOptions(device="cpu,cpu", precision="fp32"))
    assert np.array_equal(output, expected)
    assert report.plan["batch"] == 2


def test_devices_of_several_kinds_or_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(choose_devices("cpu, cpu")) == 2
    with pytest.raises(DeviceError):
        choose_devices("cpu,cuda:99")
    with pytest.raises(UsageError):
        choose_devices("cpu,")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(UsageError, match="several kinds"):
        choose_devices("cpu,mps")


def test_results_come_in_order_and_pieces_are_taken_as_workers_become_free() -> None:
    taken, done = [], []

    def pieces() -> object:
        for number in range(7):
            taken.append(number)
            yield number

    def work(worker: int, piece: int) -> tuple[int, int]:
        done.append(piece)
        return worker, piece * piece

    results = in_turn([10, 20], work, pieces())  # type: ignore[arg-type]
    assert next(results) == (10, 0)
    assert len(taken) <= 3
    assert list(results) == [(20, 1), (10, 4), (20, 9), (10, 16), (20, 25), (10, 36)]


def test_an_error_of_a_worker_is_raised_and_no_thread_stays() -> None:
    def work(worker: int, piece: int) -> int:
        if piece == 3:
            raise ValueError("planned")
        return piece

    before = threading.active_count()
    with pytest.raises(ValueError, match="planned"):
        list(in_turn([0, 1], work, range(9)))
    assert threading.active_count() == before
