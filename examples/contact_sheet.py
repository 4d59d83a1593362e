"""Draw what dehazing is likely to get wrong, haze it, dehaze it, and lay it all out at full size.

Rows: a village; the same at dusk, which must stay dark; open water and bright sand, which are even and must
not be taken for haze; steps of neutral grey, which must get no cast. Columns: clear, dehazed though clear,
then for each level of haze hazy and dehazed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from before_after import save
from make_scene import SAND, WATER, Ground, draw, soften

import dehazexl_cli
from dehazexl_cli.grid import Box
from dehazexl_cli.training.haze_presets import Origin, draw_sky

SIDE, SHOWN = 768, 256  # pixels of a scene, and of its middle in the sheet
GAP = 4  # pixels of white between pictures


def scenes() -> dict[str, np.ndarray]:
    """Clear scenes [SIDE, SIDE, 3] in [0, 1] by name, always the same."""
    rng = np.random.default_rng(11)
    village = draw(SIDE, SIDE, rng)
    return {
        "village": village,
        "dusk": 0.35 * village,
        "water": even(WATER, 0.05, rng),
        "sand": even(1.2 * SAND, 0.03, rng),
        "greys": greys(rng),
    }


def even(color: np.ndarray, roughness: float, rng: np.random.Generator) -> np.ndarray:
    """A surface of one colour, with ripples and broad shades."""
    ground = Ground(SIDE, SIDE, rng)
    light = 1 + roughness * (ground.noise(6, 1, 0.7) + ground.noise(300, 40, 2))
    return soften(np.clip(color * light[..., None], 0, 1))


def greys(rng: np.random.Generator) -> np.ndarray:
    """Squares of grey from dark to light, slightly rough."""
    steps = np.linspace(0.1, 0.75, 16).reshape(4, 4).repeat(SHOWN // 4, 0).repeat(SHOWN // 4, 1)
    tiled = np.tile(steps, (SIDE // SHOWN, SIDE // SHOWN)) + 0.01 * rng.standard_normal((SIDE, SIDE))
    return np.clip(soften(tiled[..., None].repeat(3, 2)), 0, 1)


def bytes_of(photo: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as 8-bit pixels."""
    return np.rint(np.clip(photo, 0, 1) * 255).astype(np.uint8)


def hazed(photo: np.ndarray, name: str, level: int) -> np.ndarray:
    """The 8-bit scene under a sky of that level, as `dehazexl synth` draws it."""
    haze = draw_sky(Origin(3, name, level), SIDE, SIDE)[1]
    clear = photo.transpose(2, 0, 1).astype(np.float32)
    return bytes_of(haze.apply(clear, Box(0, 0, SIDE, SIDE)).transpose(1, 2, 0))


def middle(image: np.ndarray) -> np.ndarray:
    """What the sheet shows of a scene, with a white rim."""
    start = (SIDE - SHOWN) // 2
    shown = image[start : start + SHOWN, start : start + SHOWN]
    return np.pad(shown, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def main() -> None:
    """Write the sheet, and print how far each output is from the clear scene."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path, help="the PNG to write")
    parser.add_argument("--model", help="default: the one that `dehazexl run` takes")
    parser.add_argument("--levels", default="1,2,4", help="of haze, 1 to 4 (default: 1,2,4)")
    overrides = parser.parse_args()
    model = dehazexl_cli.load_model(overrides.model)
    rows = []
    for name, photo in scenes().items():
        clear = bytes_of(photo)
        inputs = [clear, *(hazed(photo, name, int(level)) for level in overrides.levels.split(","))]
        outputs = [dehazexl_cli.dehaze(image, model=model) for image in inputs]
        shown = [picture for pair in zip(inputs, outputs, strict=True) for picture in pair]
        rows.append(np.hstack([middle(picture) for picture in shown]))
        errors = [(output.astype(int) - clear).mean((0, 1)).round(1).tolist() for output in outputs]
        print(f"{name}: mean error of red, green, blue, of 255: {errors}")
    save(overrides.sheet, np.vstack(rows).transpose(2, 0, 1))


if __name__ == "__main__":
    main()
