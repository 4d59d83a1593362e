"""What scenes take of a GPU's memory, by simulation: tensors alive, without rounding and kernels' workspaces.

    python benchmarks/gpu_memory.py --side 10240 --quick

No GPU is needed: tensors of the simulated device have shapes and no numbers (`tests/helpers`). With `--quick`
a scene's tokens are mixed all, and of its patches two rows are encoded and decoded, to which the tokens and
features of the others are added, that only wait meanwhile. The second table says up to which side a scene is
seen as one on cards of several sizes, of which four fifths are free.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.simulated_cuda import simulated_cuda

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.engine.fallback import in_words
from dehazexl_cli.engine.fp32_fallback import Fp32Fallback
from dehazexl_cli.engine.layout import patches
from dehazexl_cli.engine.memory import FREE_SHARE
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import DehazeModel, PatchBatch
from dehazexl_cli.plan import MemoryBudget, Plan, PlanInputs, PlanOverrides, candidate_plans, choose
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.report import Report

RUNS = (("dehazexl-paper", True), ("dehazexl-paper", False), ("dehazexl-s", True), ("mgbl-s", True))
CARDS = (8, 12, 24, 80)  # GiB
CARD = 80 << 30  # bytes, that is simulated
HOST = 1 << 50  # bytes: enough
MOST = 1 << 18  # pixels: sides are not looked for beyond


def line(name: str, side: int, exact: bool, allowed: int | None, quick: bool) -> str:
    """A line of the first table: what a run in float16 is expected to take and takes, and its plan."""
    plan, peak = (in_parts if quick else as_one)(name, side, exact, allowed)
    limit = "" if allowed is None else f"`--max-vram {allowed >> 20}M`"
    return f"| {name} | {limit} | {plan.device_bytes / 1e9:.2f} | {peak / 1e9:.2f} | {in_words(plan)} |"


def as_one(name: str, side: int, exact: bool, allowed: int | None) -> tuple[Plan, int]:
    """The plan of a run, and the most bytes that it takes."""
    options = EngineOptions(
        device="cuda",
        precision="fp16",
        overrides=PlanOverrides(exact_attention=exact),
        max_ram=HOST,
        max_vram=allowed,
    )
    return ran((side, side), build(name).eval(), options)


def ran(shape: tuple[int, int], model: DehazeModel, options: EngineOptions) -> tuple[Plan, int]:
    """Run a scene without numbers: its plan, and the most bytes of the device that it takes."""
    reader = ArrayReader(np.broadcast_to(np.uint8(0), (*shape, 3)))
    with simulated_cuda(capacity=CARD, shapes=True) as machine:
        report = run(reader, lambda: ArrayWriter(reader.info), model, options)
    plan = Plan.from_dict(report.plan)
    return plan, machine.peak_bytes[0]


def in_parts(name: str, side: int, exact: bool, allowed: int | None) -> tuple[Plan, int]:
    """The same of a scene's parts: two rows of patches, and all of its tokens."""
    model = build(name).eval()
    footprint, grid = model.footprint(torch.float16), patches(side, side, model, None)
    budget = MemoryBudget(HOST, allowed or int(FREE_SHARE * CARD))
    setting = PlanInputs(0, on_gpu=True, budget=budget)
    plans = candidate_plans(footprint, grid, setting, PlanOverrides(exact_attention=exact))
    plan = plans[choose(plans, budget)]

    few = PatchGrid(grid.stride + grid.patch, side, grid.patch, grid.halo, grid.overlap)
    overrides = PlanOverrides(plan.skips, plan.batch, exact_attention=False)  # mixing them is to be the least
    options = EngineOptions(device="cuda", precision="fp16", overrides=overrides, max_ram=HOST)
    if model.token_reduction == "stack":
        options = replace(options, overlap=grid.overlap)
    _, flow = ran((few.height, side), copy.deepcopy(model), options)
    kept = len(grid) if plan.cached_patches is None else plan.cached_patches
    features = footprint.skip_bytes if plan.skips == "device" else 0
    flow += (len(grid) - len(few)) * footprint.token_bytes + max(0, kept - len(few)) * features
    return plan, max(flow, mixed(model, grid, plan) + kept * features)


@torch.inference_mode()
def mixed(model: DehazeModel, grid: PatchGrid, plan: Plan) -> int:
    """The most bytes of the device that mixing all of a scene's tokens takes."""
    side = model.patch + 2 * model.halo
    with simulated_cuda(capacity=CARD, shapes=True) as machine:
        model = model.half().to("cuda:0")
        model.query_chunk = plan.query_chunk
        one, _ = model.encode(PatchBatch((0,), grid, torch.zeros(1, 3, side, side, device="cuda:0")))
        shape = one.shape if model.token_reduction == "sum" else (1, len(grid), *one.shape[1:])
        said = one.new_empty(shape)
        machine.peak_bytes[0] = machine.live_bytes[0]
        Fp32Fallback(model, Report()).apply_bottleneck(said, grid, plan.seed)
    return machine.peak_bytes[0]


def largest_side(name: str, exact: bool | None, card: int) -> int:
    """The largest side of a scene, in steps of 1024 pixels, that a card of so many GiB sees as one.

    MOST less a step is no end.
    """
    model = build(name)
    footprint, vram = model.footprint(torch.float16), int(FREE_SHARE * (card << 30))

    def fits(side: int) -> bool:
        budget = MemoryBudget(HOST, vram)
        setting = PlanInputs(0, on_gpu=True, budget=budget)
        plans = candidate_plans(
            footprint, patches(side, side, model, None), setting, PlanOverrides(exact_attention=exact)
        )
        return any(plan.fits(budget) for plan in plans)

    below, above = 1, MOST // 1024
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(1024 * middle) else (below, middle)
    return 1024 * below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10240)
    parser.add_argument("--quick", action="store_true", help="run parts of the scenes")
    arguments = parser.parse_args()
    print("| network, fp16 | | expected GB | simulated GB | plan |\n|---|---|---|---|---|")
    for name, exact in RUNS:
        for allowed in (None, 2 << 30, 1 << 30) if name == "dehazexl-paper" else (None,):
            print(line(name, arguments.side, exact, allowed, arguments.quick), flush=True)
    print(
        "\n| network, attention | " + " | ".join(f"{card} GB" for card in CARDS) + " |\n|---|---|---|---|---|"
    )
    for name, exact in RUNS:
        kind = "exact" if exact else "sampled"
        sides = " | ".join(str(largest_side(name, exact, card)) for card in CARDS)
        print(f"| {name}, {kind} | {sides} |", flush=True)


if __name__ == "__main__":
    main()
