"""How far results in float16 are from float32, and whether anything overflows: on a simulated GPU.

    python benchmarks/half.py --scenes 30 --data FOLDER…

Arithmetic is the processor's, in true float16 (`tests/helpers`). Scenes are the middles of the folders'
images, evenly chosen (without folders drawn ground with noise), under haze from thin to closed. The last line
asks for the scores of exact attention in a scene of 102,400 tokens: 128 queries, of tokens as large as those
of the network.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import formula
from helpers.simulated_cuda import simulated_cuda
from quality_sets import evenly, middle

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.models import build
from dehazexl_cli.models.base import DehazeModel, PatchBatch
from dehazexl_cli.models.checkpoint import bundled, load
from dehazexl_cli.models.dehazexl import DehazeXL
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.training.data import SUFFIXES

TOKENS, QUERIES = 102_400, 128


def scenes_of(folders: Sequence[Path], count: int, side: int) -> list[NDArray[np.uint8]]:
    """Hazy scenes [up to side, up to side, 3]: of the folders' images, or drawn where there are none."""
    found = sorted(path for folder in folders for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        return [hazy(drawn(seed, side), seed) for seed in range(count)]
    chosen = evenly(found, count)
    return [hazy(cut(middle(path), side), seed) for seed, path in enumerate(chosen)]


def cut(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle of an image, `side` pixels a side at most."""
    top, left = (max(0, length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def drawn(seed: int, side: int) -> NDArray[np.uint8]:
    """Coarse ground with noise, dark or bright [side, side, 3]."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (-(-side // 16), -(-side // 16), 3)).repeat(16, 0).repeat(16, 1)
    ground = cells[:side, :side] * rng.uniform(0.1, 1) + rng.normal(0, 6, (side, side, 3))
    return ground.clip(0, 255).astype(np.uint8)


def hazy(ground: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The ground under a veil that closes from left to right."""
    rng = np.random.default_rng(seed)
    haze = np.linspace(rng.uniform(0, 0.5), rng.uniform(0.5, 1), ground.shape[1])[None, :, None]
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

    report = run(reader, make_writer, model, EngineOptions(device=device, precision=precision))
    return writers[-1].array, report.redone_batches


class Compared(NamedTuple):
    """How far results in float16 are from float32, in levels of 255."""

    redone: int  # batches that were done again in float32
    worst: int
    mean: float
    beyond: float  # numbers, of a million, that differ by more than a level


def compare(model: DehazeModel, scenes: Sequence[NDArray[np.uint8]]) -> Compared:
    """Dehaze scenes in float32 on the processor and in float16 on the simulated device."""
    levels, redone = [], 0
    for image in scenes:
        expected, _ = dehazed(image, copy.deepcopy(model), device="cpu", precision="fp32")
        half = copy.deepcopy(model)
        with simulated_cuda():
            output, again = dehazed(image, half, device="cuda", precision="fp16")
        levels.append(np.abs(expected.astype(int) - output))
        redone += again
    worst, mean = max(int(each.max()) for each in levels), np.mean([each.mean() for each in levels])
    return Compared(redone, worst, float(mean), float(1e6 * np.mean([(each > 1).mean() for each in levels])))


@torch.inference_mode()
def scores(model: DehazeXL, tokens: int = TOKENS, queries: int = QUERIES) -> tuple[float, bool]:
    """Of a bottleneck's first block in float16: the largest score before scaling; whether all are numbers."""
    image = torch.from_numpy(hazy(drawn(0, model.patch), 0)).permute(2, 0, 1)[None] / 255
    encoded, _ = model.float().encode(PatchBatch((0,), None, image))
    block = copy.deepcopy(model.mixer.layers[0]).half()
    many = encoded.flatten(0, 1).half()[torch.arange(tokens) % encoded.shape[1]][None]
    many += 0.1 * torch.randn(many.shape, generator=torch.Generator().manual_seed(0)).half()
    q, k, _ = block._told(many, *block._by_heads())
    made = q[:, :, :: tokens // queries] @ k.mT
    attended = (made.float() / q.shape[-1] ** 0.5).softmax(-1)
    return made.abs().max().item(), bool(made.isfinite().all() and attended.isfinite().all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--side", type=int, default=512, help="pixels, at most")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="folders of images")
    parser.add_argument("--models", nargs="+", default=["dehazexl-paper", "dehazexl-s", "mgbl-s"])
    arguments = parser.parse_args()
    print("| network | scenes | done again in float32 | most, of 255 levels | mean | of a million beyond 1 |")
    print("|---|---|---|---|---|---|")
    scenes = scenes_of(arguments.data, arguments.scenes, arguments.side)
    for name in arguments.models:
        redone, worst, mean, beyond = compare(network(name), scenes)
        print(f"| {name} | {len(scenes)} | {redone} | {worst} | {mean:.3f} | {beyond:.1f} |", flush=True)
    if "dehazexl-paper" in arguments.models:
        largest, finite = scores(network("dehazexl-paper"))
        print(f"\nthe largest score before scaling is {largest:.1f}, of 65504; all are numbers: {finite}")


if __name__ == "__main__":
    main()
