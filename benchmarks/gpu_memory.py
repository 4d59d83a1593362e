"""What scenes take of a GPU's memory, by simulation: tensors alive, without rounding and kernels' workspaces.

    python benchmarks/gpu_memory.py --side 10240

No GPU is needed: tensors of the simulated device have shapes and no numbers (`tests/helpers`). The second
table says up to which side a scene is seen as one on cards of several sizes, of which four fifths are free.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.simulated_cuda import simulated_cuda

from dehazexl_cli.engine import Options, PlanOverrides, run
from dehazexl_cli.engine.fallback import in_words
from dehazexl_cli.engine.layout import patches
from dehazexl_cli.engine.memory import FREE_SHARE
from dehazexl_cli.models import build
from dehazexl_cli.plan import MemoryBudget, Plan, PlanInputs, candidate_plans
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

RUNS = (("dehazexl-paper", True), ("dehazexl-paper", False), ("dehazexl-s", True), ("mgbl-s", True))
CARDS = (8, 12, 24, 80)  # GiB
HOST = 1 << 50  # bytes: enough
MOST = 1 << 18  # pixels: sides are not looked for beyond


def taken(name: str, side: int, exact: bool, allowed: int | None) -> str:
    """A line of the first table: what a run in float16 is expected to take and takes, and its plan."""
    reader = ArrayReader(np.broadcast_to(np.uint8(0), (side, side, 3)))
    options = Options(
        device="cuda",
        precision="fp16",
        wishes=PlanOverrides(exact_attention=exact),
        max_ram=HOST,
        max_vram=allowed,
    )
    with simulated_cuda(capacity=80 << 30, shapes=True) as machine:
        report = run(reader, lambda: ArrayWriter(reader.info), build(name).eval(), options)
    plan = Plan.from_dict(report.plan)
    limit = "" if allowed is None else f"`--max-vram {allowed >> 20}M`"
    peak = machine.peak_bytes[0]
    return f"| {name} | {limit} | {plan.device_bytes / 1e9:.2f} | {peak / 1e9:.2f} | {in_words(plan)} |"


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
    side = parser.parse_args().side
    print("| network, fp16 | | expected GB | simulated GB | plan |\n|---|---|---|---|---|")
    for name, exact in RUNS:
        for allowed in (None, 2 << 30, 1 << 30):
            print(taken(name, side, exact, allowed), flush=True)
    print(
        "\n| network, attention | " + " | ".join(f"{card} GB" for card in CARDS) + " |\n|---|---|---|---|---|"
    )
    for name, exact in RUNS:
        kind = "exact" if exact else "sampled"
        sides = " | ".join(str(largest_side(name, exact, card)) for card in CARDS)
        print(f"| {name}, {kind} | {sides} |", flush=True)


if __name__ == "__main__":
    main()
