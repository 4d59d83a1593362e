"""Plans are arithmetic: a table of what fits where."""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields, replace

import pytest
import torch

from dehazexl_cli.errors import DeviceError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.plan import (
    KEPT_SHARE,
    PROCESS_BYTES,
    Footprint,
    MemoryBudget,
    Plan,
    PlanInputs,
    PlanOverrides,
    candidate_plans,
    choose,
    gigabytes,
    next_smaller,
)

MB = 1 << 20
FOOTPRINT = Footprint(
    weight_bytes=10 * MB,
    token_bytes=1 * MB,
    skip_bytes=10 * MB,
    work_bytes=50 * MB,
    bottleneck_bytes=2 * MB,
    bottleneck_sampled_bytes=2 * MB,
)
GRID = PatchGrid(2560, 2560, 256)  # 100 patches
CANVAS = 12 * 256 * 2560  # of patches that do not overlap
CPU, GPU = PlanInputs(0), PlanInputs(0, on_gpu=True)
WITHOUT_SKIPS = PROCESS_BYTES + 10 * MB + 100 * MB + CANVAS  # weights, tokens, one row of changes

WAITING = int(KEPT_SHARE * 1000 * MB)  # features of all patches


@pytest.mark.parametrize(
    ("host", "skips", "batch"),
    [
        (WITHOUT_SKIPS + WAITING + 400 * MB, "host", 8),
        (WITHOUT_SKIPS + WAITING + 399 * MB, "host", 4),
        # The mixer needs 200 MB too, so smaller batches than 4 would not help.
        (WITHOUT_SKIPS + WAITING + 200 * MB, "host", 4),
        (WITHOUT_SKIPS + 400 * MB, "recompute", 8),
        (WITHOUT_SKIPS + 200 * MB, "recompute", 4),
    ],
)
def test_a_cpu_keeps_skips_while_they_fit_then_shrinks_batches_then_recomputes(
    host: int, skips: str, batch: int
) -> None:
    plans = candidate_plans(FOOTPRINT, GRID, CPU, PlanOverrides())
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
    plans = candidate_plans(FOOTPRINT, GRID, GPU, PlanOverrides())
    assert plans[choose(plans, MemoryBudget(host, device))].skips == skips


def test_what_does_not_fit_at_all_names_what_would() -> None:
    plans = candidate_plans(FOOTPRINT, GRID, CPU, PlanOverrides())
    with pytest.raises(DeviceError) as caught:
        choose(plans, MemoryBudget(500 * MB, None))
    needed = min(plan.host_bytes for plan in plans)
    assert f"--max-ram {gigabytes(needed)}" in caught.value.hint
    gpu = candidate_plans(FOOTPRINT, GRID, GPU, PlanOverrides())
    with pytest.raises(DeviceError, match="device memory"):
        choose(gpu, MemoryBudget(64 << 30, 100 * MB))


def test_wishes_are_kept_in_every_rung() -> None:
    plans = candidate_plans(
        FOOTPRINT, GRID, CPU, PlanOverrides(skips="recompute", batch=3, exact_attention=False, seed=7)
    )
    assert {(p.skips, p.batch, p.seed) for p in plans} == {("recompute", 3, 7)}


def test_attention_is_exact_where_it_is_cheap() -> None:
    small, large = PatchGrid(2560, 4096, 256), PatchGrid(2560, 4352, 256)
    assert candidate_plans(FOOTPRINT, small, CPU, PlanOverrides())[0].attention == "exact"
    assert candidate_plans(FOOTPRINT, large, CPU, PlanOverrides())[0].attention == "sampled"
    assert candidate_plans(FOOTPRINT, large, GPU, PlanOverrides())[0].attention == "exact"


def test_rungs_differ_from_each_other() -> None:
    plans = candidate_plans(FOOTPRINT, PatchGrid(100, 300, 256), GPU, PlanOverrides())
    assert len(set(plans)) == len(plans)


def test_footprint_of_the_published_network_is_as_measured() -> None:
    with torch.device("meta"):
        footprint = build("dehazexl-paper").footprint(torch.float16)
    assert footprint.token_bytes == 98_304
    assert footprint.skip_bytes == 1_474_560
    assert footprint.weight_bytes == pytest.approx(251e6 + 29e6, rel=0.01)  # and tables of positions


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1 << 30, "1024M"),
        ((1 << 30) + 1, "1025M"),
        (5 * MB, "5M"),
        (40 << 30, "40.0G"),
        ((40 << 30) + 1, "40.1G"),
    ],
)
def test_gigabytes_are_rounded_up_so_that_they_suffice(size: int, text: str) -> None:
    assert gigabytes(size) == text


def test_groups_of_bands_keep_their_tokens_and_features_side_by_side() -> None:
    one, three = (candidate_plans(FOOTPRINT.times(n), GRID, CPU, PlanOverrides("host", 1))[0] for n in (1, 3))
    assert three.host_bytes - one.host_bytes == 2 * (100 * MB + WAITING)


def test_overlapping_patches_leave_a_second_row_of_changes() -> None:
    apart, shared = (PatchGrid(2560, 2560, 256, overlap=overlap) for overlap in (0, 32))
    flow = [
        candidate_plans(FOOTPRINT, grid, CPU, PlanOverrides("recompute", 8))[0].patch_phase_bytes
        - 100 * MB * (len(grid) // 100)
        for grid in (apart, shared)
    ]
    tokens = (len(shared) - len(apart) - (len(shared) // 100 - 1) * 100) * MB
    assert flow[1] - flow[0] - tokens == CANVAS


def lean(footprint: Footprint) -> Footprint:
    return replace(footprint, bottleneck_part_bytes=MB)


def test_mixing_in_parts_comes_before_anything_else_is_given_up() -> None:
    plans = candidate_plans(lean(FOOTPRINT), GRID, CPU, PlanOverrides("recompute", 1))
    whole = next(plan for plan in plans if plan.query_chunk is None)
    plan = plans[choose(plans, MemoryBudget(whole.host_bytes - 1, None))]
    assert plan.query_chunk and plan.attention == "exact"
    assert whole.host_bytes - plan.host_bytes == 100 * MB  # mixing 2 MB a patch and not 1


def test_a_network_without_sampled_attention_attends_exactly_wherever_it_runs() -> None:
    large = PatchGrid(256 * 20, 256 * 20, 256)
    footprint = replace(FOOTPRINT, bottleneck_sampled_bytes=None)
    for overrides in (PlanOverrides(), PlanOverrides(exact_attention=False)):
        assert {plan.attention for plan in candidate_plans(footprint, large, CPU, overrides)} == {"exact"}


def test_features_wait_on_disk_where_a_folder_with_room_is_named() -> None:
    budget = MemoryBudget(WITHOUT_SKIPS + 400 * MB, None)
    for room, skips in ((1000 * MB, "disk"), (999 * MB, "recompute")):
        plans = candidate_plans(FOOTPRINT, GRID, PlanInputs(0, disk_bytes=room), PlanOverrides())
        assert plans[choose(plans, budget)].skips == skips


def test_as_many_features_wait_as_there_is_room_for() -> None:
    budget = MemoryBudget(WITHOUT_SKIPS + 400 * MB + 315 * MB, None)  # 400 MB are for the batch
    plans = candidate_plans(FOOTPRINT, GRID, PlanInputs(0, budget=budget), PlanOverrides())
    plan = plans[choose(plans, budget)]
    assert (plan.skips, plan.batch, plan.cached_patches) == ("host", 8, 30)
    assert plan.fits(budget)
    little = MemoryBudget(WITHOUT_SKIPS + 400 * MB + 90 * MB, None)  # for fewer it is not worth its trouble
    plans = candidate_plans(FOOTPRINT, GRID, PlanInputs(0, budget=little), PlanOverrides(batch=8))
    assert plans[choose(plans, little)].skips == "recompute"


def test_a_gpu_keeps_some_features_wherever_there_is_more_room() -> None:
    bare = candidate_plans(FOOTPRINT, GRID, GPU, PlanOverrides("recompute", 8))[0]
    for host, device, where in ((105, 525, "device"), (525, 105, "host")):
        budget = MemoryBudget(bare.host_bytes + host * MB, bare.device_bytes + device * MB)
        plans = candidate_plans(FOOTPRINT, GRID, PlanInputs(0, True, budget), PlanOverrides(batch=8))
        plan = plans[choose(plans, budget)]
        assert (plan.skips, plan.cached_patches) == (where, 50)
        assert plan.fits(budget)


def test_after_a_failure_comes_the_next_plan_that_needs_less_in_that_phase() -> None:
    plans = candidate_plans(lean(FOOTPRINT), GRID, PlanInputs(0, disk_bytes=1 << 40), PlanOverrides())
    index = next(i for i, plan in enumerate(plans) if (plan.skips, plan.batch) == ("host", 8))
    after_encode, after_mix = (
        plans[next_smaller(plans, index, phase) or 0] for phase in ("encode", "bottleneck")
    )
    assert (after_encode.skips, after_encode.batch, after_encode.query_chunk) == ("host", 4, None)
    assert (after_mix.skips, after_mix.batch) == ("host", 8) and after_mix.query_chunk
    names = []
    step: int | None = index
    while step is not None:
        plan = plans[step]
        names.append((plan.skips, plan.attention, plan.query_chunk is not None))
        step = next_smaller(plans, step, "bottleneck")
    assert names == [
        ("host", "exact", False),
        ("host", "exact", True),
        ("disk", "exact", True),
        ("recompute", "sampled", False),
    ]


def test_what_was_given_up_is_not_taken_back() -> None:
    plans = candidate_plans(lean(FOOTPRINT), GRID, PlanInputs(0, disk_bytes=1 << 40), PlanOverrides())
    for phase in ("encode", "bottleneck", "decode"):
        steps, step = [], 0
        while step is not None:
            steps.append(plans[step])
            step = next_smaller(plans, step, phase)  # type: ignore[assignment]
        assert len(steps) > 2
        for before, after in itertools.pairwise(steps):
            assert after.degradation >= before.degradation
            assert after.needs(phase) < before.needs(phase) or after.degradation > before.degradation
    assert next_smaller([Plan("host", 1, None)], 0, "encode") is None


def test_features_that_are_none_need_no_place() -> None:
    summed = Footprint(10 * MB, 0, 0, 50 * MB, 0)
    for setting in (CPU, GPU, PlanInputs(0, disk_bytes=1 << 40)):
        assert len({plan.skips for plan in candidate_plans(summed, GRID, setting, PlanOverrides())}) == 1
    assert candidate_plans(summed, GRID, CPU, PlanOverrides("recompute"))[0].skips == "recompute"


def test_only_what_is_written_waits() -> None:
    whole, part = (
        candidate_plans(FOOTPRINT, GRID, PlanInputs(0, wanted=wanted), PlanOverrides("host", 2))[0]
        for wanted in (None, (3, 4))
    )
    # Batches reach beyond what is wanted by a patch on either side.
    assert whole.host_bytes - part.host_bytes == int(KEPT_SHARE * 1000 * MB) - int(KEPT_SHARE * 180 * MB)


def test_replicas_and_results_that_are_arrays_count() -> None:
    footprint = replace(FOOTPRINT, kernel_bytes=3 * MB)
    one = candidate_plans(footprint, GRID, PlanInputs(0), PlanOverrides("recompute", 8))[0]
    two = candidate_plans(footprint, GRID, PlanInputs(0, replicas=2), PlanOverrides("recompute", 8))[0]
    held = candidate_plans(footprint, GRID, PlanInputs(0, held_bytes=7 * MB), PlanOverrides("recompute", 8))[
        0
    ]
    assert two.host_bytes - one.host_bytes == (400 + 10 + 3) * MB  # in flight, weights, kernels
    assert held.host_bytes - one.host_bytes == 7 * MB


def test_whoever_leaves_mixing_to_another_needs_nothing_for_it() -> None:
    whole = Footprint(*range(1, 1 + len(fields(Footprint))))
    for name, value in asdict(whole.without_bottleneck()).items():
        assert value == (0 if name.startswith("bottleneck_") else getattr(whole, name)), name


def test_the_copy_of_tokens_whose_place_is_taken_waits_on_the_host() -> None:
    footprint = replace(FOOTPRINT, bottleneck_part_bytes=MB)
    more = replace(footprint, bottleneck_copied_bytes=100 * MB)
    setting = PlanInputs(0, on_gpu=True)
    for plain, copying in zip(
        candidate_plans(footprint, GRID, setting, PlanOverrides()),
        candidate_plans(more, GRID, setting, PlanOverrides()),
        strict=True,
    ):
        spares = plain.query_chunk is not None or plain.seed is not None
        assert copying.host_bytes - plain.host_bytes == (100 * MB * len(GRID) if spares else 0)
        assert copying.device_bytes == plain.device_bytes
