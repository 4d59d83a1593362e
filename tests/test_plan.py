"""Plans are arithmetic: a table of what fits where."""

from __future__ import annotations

import pytest
import torch

from dehazexl_cli.errors import DeviceError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.plan import PROCESS_BYTES, Footprint, MemoryBudget, Wishes, choose, gigabytes, ladder

MB = 1 << 20
FOOTPRINT = Footprint(
    weight_bytes=10 * MB, token_bytes=1 * MB, skip_bytes=10 * MB, work_bytes=50 * MB, mix_bytes=2 * MB
)
GRID = PatchGrid(2560, 2560, 256)  # 100 patches
CANVAS = 24 * 256 * 2560
WITHOUT_SKIPS = PROCESS_BYTES + 10 * MB + 100 * MB + CANVAS  # weights, tokens, one row of changes


@pytest.mark.parametrize(
    ("host", "skips", "batch"),
    [
        (WITHOUT_SKIPS + 1000 * MB + 400 * MB, "host", 8),
        (WITHOUT_SKIPS + 1000 * MB + 399 * MB, "host", 4),
        # The mixer needs 200 MB too, so smaller batches than 4 would not help.
        (WITHOUT_SKIPS + 1000 * MB + 200 * MB, "host", 4),
        (WITHOUT_SKIPS + 400 * MB, "recompute", 8),
        (WITHOUT_SKIPS + 200 * MB, "recompute", 4),
    ],
)
def test_a_cpu_keeps_skips_while_they_fit_then_shrinks_batches_then_recomputes(
    host: int, skips: str, batch: int
) -> None:
    plans = ladder(FOOTPRINT, GRID, 0, False, Wishes())
    plan = plans[choose(plans, MemoryBudget(host, None))]
    assert (plan.skips, plan.batch) == (skips, batch)
    assert plan.device_bytes == 0


@pytest.mark.parametrize(
    ("device", "host", "skips"),
    [(3000 * MB, 9000 * MB, "device"), (1000 * MB, 9000 * MB, "host"), (1000 * MB, 700 * MB, "recompute")],
)
def test_a_gpu_keeps_skips_on_itself_then_on_the_host_then_recomputes(
    device: int, host: int, skips: str
) -> None:
    plans = ladder(FOOTPRINT, GRID, 0, True, Wishes())
    assert plans[choose(plans, MemoryBudget(host, device))].skips == skips


def test_what_does_not_fit_at_all_names_what_would() -> None:
    plans = ladder(FOOTPRINT, GRID, 0, False, Wishes())
    with pytest.raises(DeviceError) as caught:
        choose(plans, MemoryBudget(500 * MB, None))
    needed = min(plan.host_bytes for plan in plans)
    assert f"--max-ram {gigabytes(needed)}" in caught.value.hint
    gpu = ladder(FOOTPRINT, GRID, 0, True, Wishes())
    with pytest.raises(DeviceError, match="device memory"):
        choose(gpu, MemoryBudget(64 << 30, 100 * MB))


def test_wishes_are_kept_in_every_rung() -> None:
    plans = ladder(
        FOOTPRINT, GRID, 0, False, Wishes(skips="recompute", batch=3, exact_attention=False, seed=7)
    )
    assert {(p.skips, p.batch, p.seed) for p in plans} == {("recompute", 3, 7)}


def test_attention_is_exact_where_it_is_cheap() -> None:
    small, large = PatchGrid(2560, 4096, 256), PatchGrid(2560, 4352, 256)
    assert ladder(FOOTPRINT, small, 0, False, Wishes())[0].attention == "exact"
    assert ladder(FOOTPRINT, large, 0, False, Wishes())[0].attention == "sampled"
    assert ladder(FOOTPRINT, large, 0, True, Wishes())[0].attention == "exact"


def test_rungs_differ_from_each_other() -> None:
    plans = ladder(FOOTPRINT, PatchGrid(100, 300, 256), 0, True, Wishes())
    assert len(set(plans)) == len(plans)


def test_footprint_of_the_published_network_is_as_measured() -> None:
    with torch.device("meta"):
        footprint = build("dehazexl-paper").footprint(torch.float16)
    assert footprint.token_bytes == 98_304
    assert footprint.skip_bytes == 1_474_560
    assert footprint.weight_bytes == pytest.approx(251e6, rel=0.01)


@pytest.mark.parametrize(("size", "text"), [(1 << 30, "1.0G"), ((1 << 30) + 1, "1.1G"), (5 * MB, "0.1G")])
def test_gigabytes_are_rounded_up_so_that_they_suffice(size: int, text: str) -> None:
    assert gigabytes(size) == text


def test_groups_of_bands_keep_their_tokens_and_features_side_by_side() -> None:
    one, three = (ladder(FOOTPRINT.times(n), GRID, 0, False, Wishes("host", 1))[0] for n in (1, 3))
    assert three.host_bytes - one.host_bytes == 2 * 100 * (1 + 10) * MB
