"""Plans against what runs take on a simulated device: tensors alive, counted by shape alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from helpers.simulated_cuda import simulated_cuda

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import prepare, prepared, run
from dehazexl_cli.models import build
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.models.dehazexl import PAPER, DehazeXL
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

SIDES = {"mgbl-s": 1024}  # pixels; else four patches. Its view of smaller scenes is coarser than planned
# The published network, narrower and with fewer blocks.
NARROW = replace(
    PAPER, embed=32, depths=(2, 1, 1, 1), heads=(1, 2, 4, 8), decoder_heads=(8, 4, 2, 1), window=8
)


def check(plan: Plan, peak: int) -> None:
    """Hold a plan against what its run took."""
    assert 0.8 * plan.device_bytes < peak <= plan.device_bytes, (peak / plan.device_bytes, plan)


@cache
def fresh(name: str) -> DehazeModel:
    """A network with weights as drawn."""
    return (DehazeXL(NARROW) if name == "published" else build(name)).eval()


def with_plans(
    name: str, options: EngineOptions, use: Callable[[ArrayReader, DehazeModel], Plan]
) -> tuple[Plan, int]:
    """What is made of a scene, and the most that took of the device."""
    side = SIDES.get(name, 480)
    reader = ArrayReader(np.broadcast_to(np.uint8(0), (side, side, 3)))
    model = copy.deepcopy(fresh(name))
    with simulated_cuda(capacity=80 << 30, shapes=True) as machine:
        return use(reader, model), machine.peak_bytes[0]


def taken(name: str, options: EngineOptions, wanted: Plan) -> tuple[Plan, int]:
    """The plan of a run, which is the wanted one, and the most that it took of the device."""

    def use(reader: ArrayReader, model: DehazeModel) -> Plan:
        report = run(reader, lambda: ArrayWriter(reader.info), model, options)
        assert not any("out of memory" in told for told in report.fallbacks)
        return on_device(Plan.from_dict(report.plan))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prepared, "choose", lambda plans, budget: [*map(on_device, plans)].index(wanted))
        return with_plans(name, options, use)


def on_device(plan: Plan) -> Plan:
    """The plan without what hangs on how large this process has become."""
    return replace(plan, host_bytes=0)


def kinds(name: str, options: EngineOptions) -> list[Plan]:
    """The ladder's plans, of those that differ by the size of batches alone the last."""
    found: list[Plan] = []

    def use(reader: ArrayReader, model: DehazeModel) -> Plan:
        found[:] = map(on_device, prepare(reader, model, options).plans)
        return found[0]

    with_plans(name, options, use)
    return list({(p.skips, p.cached_patches is None, p.tile): p for p in found}.values())


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["dehazexl-s", "mgbl-s", "published"])
def test_each_plan_of_a_ladder_is_true(name: str, precision: str) -> None:
    options = EngineOptions(device="cuda", precision=precision)
    for plan in kinds(name, options):
        used, peak = taken(name, options, plan)
        assert used == plan
        check(used, peak)


def test_a_plan_that_is_a_fifth_too_small_is_found_out() -> None:
    options = EngineOptions(device="cuda", precision="fp16")
    plan, peak = taken("dehazexl-s", options, kinds("dehazexl-s", options)[0])
    check(plan, peak)
    for wrong in (0.8, 1.25):
        with pytest.raises(AssertionError):
            check(replace(plan, device_bytes=int(wrong * plan.device_bytes)), peak)
