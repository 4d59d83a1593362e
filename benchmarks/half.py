"""How far results in float16 are from float32, and whether anything overflows: on a simulated GPU.

    python benchmarks/half.py --scenes 30 --side 256

Arithmetic is the processor's, in true float16 (`tests/helpers`). Scenes are smooth ground with noise, from
dark to bright, in thin to closed haze. The last lines ask for the scores of exact attention in a scene of
102,400 tokens: 128 queries, of tokens drawn as large as those of the networks.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import formula
from helpers.simulated_cuda import simulated_cuda

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.models import build
from dehazexl_cli.models.base import DehazeModel, PatchBatch
from dehazexl_cli.models.checkpoint import bundled, load
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

TOKENS, QUERIES = 102_400, 128


def hazy(seed: int, side: int) -> NDArray[np.uint8]:
    """A scene [side, side, 3]."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (-(-side // 16), -(-side // 16), 3)).repeat(16, 0).repeat(16, 1)
    ground = cells[:side, :side] * rng.uniform(0.1, 1) + rng.normal(0, 6, (side, side, 3))
    haze = np.linspace(rng.uniform(0, 0.5), rng.uniform(0.5, 1), side)[None, :, None]
    return (ground * (1 - haze) + 230 * haze).clip(0, 255).astype(np.uint8)


def network(name: str) -> DehazeModel:
    """A bundled network, or the published one with weights by formula."""
    if name != "dehazexl-paper":
        return load(bundled(name), name).model
    model = build(name).eval()
    model.load_state_dict({key: formula(key, list(value.shape)) for key, value in model.state_dict().items()})
    return model


def dehazed(
    image: NDArray[np.uint8], model: DehazeModel, device: str, precision: str
) -> tuple[NDArray[np.uint8], int]:
    """The scene dehazed, and how many batches were done again in float32."""
    reader, writers = ArrayReader(image), []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info, "hwc"))
        return writers[-1]

    report = run(reader, make_writer, copy.deepcopy(model), EngineOptions(device=device, precision=precision))
    return writers[-1].array, report.redone_batches


def compare(name: str, scenes: int, side: int) -> str:
    """A line of the table."""
    model, levels, redone = network(name), [], 0
    for seed in range(scenes):
        image = hazy(seed, side)
        expected, _ = dehazed(image, model, device="cpu", precision="fp32")
        with simulated_cuda():
            output, again = dehazed(image, model, device="cuda", precision="fp16")
        levels.append(np.abs(expected.astype(int) - output))
        redone += again
    worst, mean = max(each.max() for each in levels), np.mean([each.mean() for each in levels])
    return f"| {name} | {scenes} | {redone} | {worst} | {mean:.3f} |"


@torch.inference_mode()
def scores(name: str) -> str:
    """Of the first block of a bottleneck: the largest score, and whether all are numbers."""
    model = network(name)
    image = torch.from_numpy(hazy(0, model.patch)).permute(2, 0, 1)[None] / 255
    tokens, _ = model.encode(PatchBatch((0,), None, image))
    model = model.half()
    many = tokens.flatten(0, 1).half()[torch.arange(TOKENS) % tokens.shape[1]][None]
    many += 0.1 * torch.randn(many.shape, generator=torch.Generator().manual_seed(0)).half()
    block = model.mixer.layers[0]
    q, k, _ = block._told(many, *block._by_heads())
    made = q[:, :, :: TOKENS // QUERIES] @ k.mT
    attended = (made.float() / q.shape[-1] ** 0.5).softmax(-1)
    finite = bool(made.isfinite().all() and attended.isfinite().all())
    return (
        f"{name}: largest score before scaling {made.abs().max().item():.1f} of 65504, all finite: {finite}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=["dehazexl-paper", "dehazexl-s", "mgbl-s"])
    arguments = parser.parse_args()
    print("| network | scenes | done again in float32 | most, of 255 levels | mean |\n|---|---|---|---|---|")
    for name in arguments.models:
        print(compare(name, arguments.scenes, arguments.side), flush=True)
    if "dehazexl-paper" in arguments.models:
        print(f"\n{scores('dehazexl-paper')}")


if __name__ == "__main__":
    main()
