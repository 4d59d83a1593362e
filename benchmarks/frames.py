"""Seconds for a 3840 x 2160 frame, array to array, with the bilateral networks; and what slicing costs.

    python benchmarks/frames.py [--device cuda] [--repeat 5] [--models mgbl-s mgbl-paper]

Models and precisions take turns, so that whatever else the machine does falls on all alike; the median of
each is printed, with its ratio to the first. Slicing is compared with torch's own trilinear lookup,
`grid_sample`, on the same grid and the same pixels. Speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import run
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import cut_batches
from dehazexl_cli.models.bilateral_grid import ROW, BilateralGridModel, Thumbnail
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter

HEIGHT, WIDTH = 2160, 3840


def make_frame() -> np.ndarray:
    """[HEIGHT, WIDTH, 3] uint8; what it shows does not matter to the clock."""
    return np.random.default_rng(0).integers(60, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def framer(name: str, device: str, precision: str) -> Callable[[], None]:
    """Dehazes one frame per call, the model being ready."""
    model = build(name).eval()
    frame = ArrayReader(make_frame())
    options = EngineOptions(device=device, precision=precision, input_range=(0, 255))

    def dehaze() -> None:
        run(frame, lambda: ArrayWriter(frame.info), model, options)

    return dehaze


def slicers() -> dict[str, Callable[[], object]]:
    """The slicing of a frame by strips of matrix products, and by `grid_sample`."""
    model = build("mgbl-s").eval()
    assert isinstance(model, BilateralGridModel)
    image = torch.from_numpy(make_frame()).permute(2, 0, 1)[None].float() / 255
    grid = PatchGrid(HEIGHT, WIDTH, model.patch)
    view = Thumbnail.of(grid, model.config.view)
    rows, cols = view.cells
    scene = torch.randn(1, model.config.depth * ROW * 3 * rows * cols)
    batches = cut_batches(image, grid, 1)
    cells = scene.view(model.config.depth, ROW, 3, rows, cols).permute(2, 1, 0, 3, 4).contiguous()
    across = torch.linspace(-1, 1, model.patch)

    def strips() -> None:
        for batch in batches:
            model.decode(batch, scene, ())

    def lookup(pixels: Tensor) -> Tensor:
        guides = model.guide(pixels)[0]
        down, right = torch.meshgrid(across, across, indexing="ij")
        at = torch.stack([right.expand_as(guides), down.expand_as(guides), guides * 2 - 1], dim=-1)
        found = F.grid_sample(cells, at[:, None], align_corners=True)[:, :, 0]
        distance = pixels[0] - model.airlight.view(3, 1, 1)
        return pixels[0] + (found[:, :3] * distance).sum(1) + found[:, 3]

    def plain() -> None:
        for batch in batches:
            lookup(batch.pixels)

    return {"slicing, strips": strips, "slicing, grid_sample": plain}


def in_turn(tasks: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Median seconds of each task, after one call of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(repeat + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(title: str, medians: dict[str, float]) -> None:
    """A table of medians and their ratios to the first."""
    first = next(iter(medians.values()))
    print(f"\n| {title} | seconds | frames a second | times the first |\n|---|---|---|---|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.3f} | {1 / seconds:.1f} | {seconds / first:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mgbl-s", "mgbl-paper"])
    parser.add_argument("--precisions", nargs="+", help="default: fp32 and bf16; on a GPU fp16 too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    precisions = arguments.precisions or ["fp32", "bf16", *(["fp16"] if on_gpu else [])]
    card = torch.cuda.get_device_name() if on_gpu else platform.machine()
    print(f"{date.today()}, {card}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    frames = {
        f"{model}, {precision}": framer(model, arguments.device, precision)
        for model in arguments.models
        for precision in precisions
    }
    with torch.inference_mode():
        show(f"{WIDTH} x {HEIGHT}, array to array", in_turn(frames, arguments.repeat))
        show("a frame on the CPU", in_turn(slicers(), arguments.repeat))


if __name__ == "__main__":
    main()
