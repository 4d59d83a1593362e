"""How true haze maps are: the error of transmission on haze that is known, beside the dark channel prior's.

    python benchmarks/transmission.py FOLDER … [--weights FILE] [--out FILE.md]

Of the middles of held-out images, hazed as for `quality.py`. The prior (He, Sun, Tang, CVPR 2009) is told
no airlight, but takes it from the image, as it is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from dark_channel import THINNEST, haze_of
from quality_sets import SEED, Floats, as_bytes, held_out_pictures, lay_even, lay_white_uneven
from torch import Tensor

from dehazexl_cli import load_model
from dehazexl_cli.grid import Box
from dehazexl_cli.models.base import forward_in_memory
from dehazexl_cli.training.haze_presets import LEVELS, Origin, draw_sky

GREEN = 1
OVERLAP = 32  # pixels
AIRLIGHTS = (0.6, 0.9)


class Case(NamedTuple):
    """An input [height, width, 3], and the share of green light that gets through [height, width]."""

    name: str
    hazy: Floats
    transmission: Floats


def cases(name: str, clear: Floats) -> Iterator[Case]:
    """Haze one picture in every way."""
    height, width, _ = clear.shape
    box = Box(0, 0, height, width)
    for level in LEVELS:
        _, haze = draw_sky(Origin(SEED, name, level), height, width)
        hazy = haze.apply(clear.transpose(2, 0, 1).astype(np.float32), box).transpose(1, 2, 0)
        yield Case(f"synth L{level}", hazy, haze.transmission(box)[GREEN])
    for share in (0.4, 0.6):
        for hazy in lay_even(name, clear, share, AIRLIGHTS).values():
            yield Case(f"even t={share}", hazy, np.full((height, width), share))
    for thickness, depth in (("thin", 0.27), ("moderate", 0.68)):
        # Of black ground the veil alone is seen, which is 0.95 of what does not get through.
        (veil,) = lay_white_uneven(name, np.zeros_like(clear), depth).values()
        (hazy,) = lay_white_uneven(name, clear, depth).values()
        yield Case(f"white uneven {thickness}", hazy, 1 - veil[..., GREEN] / 0.95)
    yield Case("haze-free", clear, np.ones((height, width)))


def by_prior(hazy: Tensor) -> Floats:
    """Transmission [height, width] by the dark channel prior."""
    found: Floats = haze_of(hazy)[1].clamp(THINNEST, 1)[0, 0].double().numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders of clear images")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, help="FILE.md")
    arguments = parser.parse_args()
    model = load_model("dehazexl-s", arguments.weights).model.eval()
    errors: dict[str, list[tuple[float, float, float]]] = {}
    for picture in held_out_pictures(arguments.data):
        for case in cases(picture.name, picture.clear / 255):
            hazy = torch.from_numpy(as_bytes(case.hazy)).permute(2, 0, 1)[None].float() / 255
            with torch.inference_mode():
                told = forward_in_memory(model, hazy, overlap=OVERLAP)[0, 3].double().numpy()
            off = told - case.transmission
            prior = np.abs(by_prior(hazy) - case.transmission).mean()
            errors.setdefault(case.name, []).append((np.abs(off).mean(), off.mean(), prior))
    lines = ["| haze | map | its bias | dark channel prior | quotient |", "|---|---|---|---|---|"]
    for name, found in errors.items():
        error, bias, prior = np.mean(found, axis=0)
        lines.append(f"| {name} | {error:.3f} | {bias:+.3f} | {prior:.3f} | {error / prior:.2f} |")
    print(*lines, sep="\n")
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
