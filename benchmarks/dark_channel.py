"""The dark channel prior (He, Sun, Tang, CVPR 2009) with a guided filter (ECCV 2010): a baseline to print
beside a network's figures, on the trainer's own validation pairs.

    python benchmarks/dark_channel.py --data FOLDER … --hold-out PREFIX … [--weights FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dehazexl_cli import load_model
from dehazexl_cli.training.data import load_scenes, split
from dehazexl_cli.training.validation import make_pairs, psnr

WINDOW = 15  # pixels of the dark channel
KEPT = 0.95  # share of the haze that is removed
THINNEST = 0.1  # transmission is not taken for less
RADIUS, EPSILON = 40, 1e-3  # of the guided filter


def dark_channel_prior(hazy: Tensor) -> Tensor:
    """Dehazed images [1, 3, height, width] in [0, 1]."""
    airlight, transmission = haze_of(hazy)
    return (hazy - airlight) / transmission.clamp(min=THINNEST) + airlight


def haze_of(hazy: Tensor) -> tuple[Tensor, Tensor]:
    """Airlight [1, 3, 1, 1] and transmission [1, 1, height, width] of images [1, 3, height, width]."""
    dark = darkest(hazy)
    brightest = dark.flatten().topk(max(1, dark.numel() // 1000)).indices
    airlight = hazy.flatten(2)[0, :, brightest].mean(1).view(1, 3, 1, 1)
    return airlight, guided(hazy.mean(1, keepdim=True), 1 - KEPT * darkest(hazy / airlight))


def darkest(image: Tensor) -> Tensor:
    """The dark channel, [1, 1, height, width]."""
    negative = -image.min(1, keepdim=True).values
    # Along one axis and then the other, a pixel costs 2 · WINDOW comparisons instead of WINDOW².
    for size in ((WINDOW, 1), (1, WINDOW)):
        negative = F.max_pool2d(negative, size, 1, (size[0] // 2, size[1] // 2))
    return -negative


def guided(guide: Tensor, image: Tensor) -> Tensor:
    """`image` smoothed along the edges of `guide`."""

    def mean(x: Tensor) -> Tensor:
        down = F.avg_pool2d(x, (2 * RADIUS + 1, 1), 1, (RADIUS, 0), count_include_pad=False)
        return F.avg_pool2d(down, (1, 2 * RADIUS + 1), 1, (0, RADIUS), count_include_pad=False)

    slope = (mean(guide * image) - mean(guide) * mean(image)) / (
        mean(guide * guide) - mean(guide) ** 2 + EPSILON
    )
    return mean(slope) * guide + mean(mean(image) - slope * mean(guide))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--hold-out", nargs="+", required=True)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    model = load_model(weights=arguments.weights).model
    _, scenes = split(load_scenes(arguments.data), arguments.hold_out)
    rows = []
    with torch.inference_mode():
        for hazy, clear in make_pairs(scenes):
            outputs = (hazy, dark_channel_prior(hazy), model(hazy))
            rows.append([psnr(image, clear) for image in outputs] + [psnr(model(clear), clear)])
    table = np.array(rows)
    print(f"{len(table)} pairs; PSNR in dB, each at most 50")
    print("| | hazy | dark channel prior | network | network on haze-free |")
    print("|---|---|---|---|---|")
    for name, chosen in (
        ("all", table[:, 0] > 0),
        ("hazy below 14 dB", table[:, 0] < 14),
        ("14 to 20 dB", (table[:, 0] >= 14) & (table[:, 0] < 20)),
        ("above 20 dB", table[:, 0] >= 20),
    ):
        print(f"| {name} ({chosen.sum()}) | " + " | ".join(f"{v:.2f}" for v in table[chosen].mean(0)) + " |")
    worse = (table[:, 2] < table[:, 0]).sum()
    print(f"{worse} pairs are farther from the clear image than they were")


if __name__ == "__main__":
    main()
