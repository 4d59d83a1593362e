"""What `quality.py` measures on: held-out places under veils that stay as they are.

Only the four levels of `dehazexl synth` follow the package, as what users can make is to be measured. All
else is written out here, so that a change of the training's haze cannot change what it is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from imagecodecs import png_encode
from numpy.typing import NDArray

from dehazexl_cli.dataset_pairs import find_pairs
from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.training.data import COLOURS, SUFFIXES, open_picture, source_of
from dehazexl_cli.training.haze_presets import LEVELS, Origin, draw_sky

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Veil = Callable[[str, Floats], dict[str, Floats]]  # name and clear picture to hazy ones by variant

# Beginnings of file names that no training may use: whole places, since neighbours show the same ground.
HELD_OUT = (
    "i-sfm_nadir",
    "aerial_cars_KIT_AIS",
    "landsat-wallpapers",
    "neon__SJER",
    "urbantree__claremont",
    "odm_boruszyn_kap__img_4937",
    "odm_boruszyn_kap__img_494",
    "odm_boruszyn_kap__img_495",
    "odm_boruszyn_kap__img_496",
    "odm_boruszyn_kap__img_497",
    "earth_as_art__l",
    "s2_clear",
    "s2_natural_color",
    "usgs_planecam_coast__planecam_08",
    "usgs_planecam_coast__planecam_09",
)
# Nor measured on: seen from above the atmosphere and not corrected, they lie under a bluish veil themselves
# (their darkest blue is 42 to 94 of 255), and a method that removes it would be told that it should not have.
VEILED = ("s2_clear", "s2_natural_color")
IMAGES, QUICK_IMAGES, PER_SOURCE = 24, 8, 3
SIDE = 512  # pixels, at most, of a picture's middle
SEED = 5  # of the skies of the four levels
AIRLIGHTS = (0.45, 0.58, 0.71, 0.84, 0.97)  # of even veils; what is bright is not always haze, nor dark clear
WAVELENGTHS = np.array([0.65, 0.55, 0.46])  # red, green, blue, micrometres
GROUND, GROUND_SIDE = "even ground", 768  # three patches of the small networks
FINEST = 6  # pixels, of uneven haze


class Picture(NamedTuple):
    """A clear picture [height, width, 3]."""

    name: str
    clear: Bytes


class Case(NamedTuple):
    """One input, and what it should become; both [height, width, 3]."""

    set_name: str
    image: str
    variant: str
    hazy: Bytes
    clear: Bytes


def held_out_pictures(folders: Sequence[Path], quick: bool = False) -> list[Picture]:
    """Read the middles of up to IMAGES held-out images, or of QUICK_IMAGES of them.

    Raises InputError if there is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder", "check --data")
    found = [path for folder in folders for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    usable = [path for path in found if path.name.startswith(HELD_OUT) and not path.name.startswith(VEILED)]
    chosen = spread(usable)
    if not chosen:
        raise InputError(f"no held-out image in {', '.join(map(str, folders))}", "check --data")
    if quick:
        chosen = evenly(chosen, min(QUICK_IMAGES, len(chosen)))
    return [Picture(path.stem, middle(path)) for path in chosen]


def spread(paths: Sequence[Path]) -> list[Path]:
    """Choose at most IMAGES files, PER_SOURCE of a source at most, ordered by source and name."""
    stock: dict[str, list[Path]] = {}
    for path in sorted(paths, key=lambda path: (source_of(path), path.name)):
        stock.setdefault(source_of(path), []).append(path)
    shares = {source: min(PER_SOURCE, len(same)) for source, same in stock.items()}
    while sum(shares.values()) > IMAGES:
        # Of those with the largest share, the one with most files: its images resemble each other most.
        shares[max(shares, key=lambda source: (shares[source], len(stock[source])))] -= 1
    return [path for source, share in shares.items() for path in evenly(stock[source], share)]


def evenly(paths: Sequence[Path], count: int) -> list[Path]:
    """Take the middle of each of `count` equal parts: the first of a flight overlaps what is trained on."""
    return [paths[(2 * i + 1) * len(paths) // (2 * count)] for i in range(count)]


def middle(path: Path) -> Bytes:
    """Read the middle of an 8-bit image, SIDE pixels a side at most."""
    reader = open_picture(path)
    height, width = reader.info.height, reader.info.width
    box = Box(max(0, height - SIDE) // 2, max(0, width - SIDE) // 2, min(SIDE, height), min(SIDE, width))
    pixels: Bytes = np.ascontiguousarray(reader.read(box, COLOURS).transpose(1, 2, 0))
    reader.close()
    return pixels


def set_names(real: Path | None = None, wanted: Sequence[str] = ()) -> list[str]:
    """List the sets whose names begin with one of the wanted words, all if there is none.

    Raises UsageError for a word that no name begins with.
    """
    names = [*veils(AIRLIGHTS), GROUND, *(f"real {folder.name}" for folder in folders_of(real))]
    for word in wanted:
        if not any(name.startswith(word) for name in names):
            raise UsageError(f"no set is named {word!r}", f"the sets are: {', '.join(names)}")
    return [name for name in names if not wanted or name.startswith(tuple(wanted))]


def make_cases(
    pictures: Sequence[Picture], names: Sequence[str], real: Path | None = None, quick: bool = False
) -> Iterator[Case]:
    """Make the inputs of the named sets, set by set; each depends on nothing but its own picture."""
    # Of the airlights, the darkest and the brightest: what fails, fails there first.
    for name, veil in veils(AIRLIGHTS[:: len(AIRLIGHTS) - 1] if quick else AIRLIGHTS).items():
        for picture in pictures if name in names else ():
            for variant, hazy in veil(picture.name, picture.clear / 255).items():
                yield Case(name, picture.name, variant, as_bytes(hazy), picture.clear)
    for picture in even_grounds() if GROUND in names else ():
        yield Case(GROUND, picture.name, "", picture.clear, picture.clear)
    for folder in folders_of(real):
        for pair in find_pairs(folder) if f"real {folder.name}" in names else ():
            hazy, clear = (whole(path) for path in (pair.hazy, pair.clear))
            yield Case(f"real {folder.name}", pair.hazy.stem, "", hazy, clear)


def veils(airlights: Sequence[float]) -> dict[str, Veil]:
    """Name the ways in which pictures are hazed."""
    return {
        **{f"synth L{level}": partial(synthesise, level=level) for level in LEVELS},
        "even t=0.4": partial(lay_even, t=0.4, airlights=airlights),
        "even t=0.6": partial(lay_even, t=0.6, airlights=airlights),
        "even lifted": lay_lifted,
        "white uneven thin": partial(lay_white_uneven, depth=0.27),
        "white uneven moderate": partial(lay_white_uneven, depth=0.68),
        "aerosol": lay_aerosol,
        "haze-free": lambda name, clear: {"": clear},
    }


def synthesise(name: str, clear: Floats, level: int) -> dict[str, Floats]:
    """Haze as `dehazexl synth --seed 5` does."""
    height, width, _ = clear.shape
    weather, haze = draw_sky(Origin(SEED, name, level), height, width)
    hazy = haze.apply(clear.transpose(2, 0, 1).astype(np.float32), Box(0, 0, height, width))
    return {weather: hazy.transpose(1, 2, 0)}


def lay_even(name: str, clear: Floats, t: float, airlights: Sequence[float]) -> dict[str, Floats]:
    """Let the share t of all light through, with grey light of each brightness added."""
    return {f"A={airlight}": clear * t + airlight * (1 - t) for airlight in airlights}


def lay_lifted(name: str, clear: Floats) -> dict[str, Floats]:
    """Add less light than is lost, as in pictures whose darkest level was subtracted."""
    return {"": clear * 0.5 + 0.9 * (1 - 0.5) ** 2}


def lay_white_uneven(name: str, clear: Floats, depth: float) -> dict[str, Floats]:
    """White haze of that median depth, with features from the picture's size down to FINEST pixels."""
    height, width, _ = clear.shape
    noise = smooth_noise((height, width), f"white uneven/{name}", max(height, width), FINEST)
    t = np.exp(-depth * np.exp(0.6 * noise))[..., None]
    return {"": clear * t + 0.95 * (1 - t)}


def lay_aerosol(name: str, clear: Floats) -> dict[str, Floats]:
    """Scatter as fine particles do: much blue light added, little of any lost."""
    ratio = WAVELENGTHS / WAVELENGTHS[1]
    return {"": clear * np.exp(-0.15 * ratio**-1.3) + 0.12 * ratio**-2.0}


def even_grounds() -> list[Picture]:
    """Draw ground that is even and clear, which is easily taken for haze."""
    grounds = {
        "lake": np.array([0.23, 0.29, 0.28]) * ripples("lake", 0.05),
        "sand": np.array([0.79, 0.72, 0.59]) * ripples("sand", 0.03),
        "snow": np.array([0.90, 0.92, 0.95]) * ripples("snow", 0.02),
        "steps of grey": grey_steps() + 0.25 * (ripples("steps of grey", 0.03) - 1),
    }
    return [Picture(name, as_bytes(ground)) for name, ground in grounds.items()]


def ripples(name: str, strength: float) -> Floats:
    """Brightness [side, side, 1] around 1 of waves, and of broad shades."""
    shape = (GROUND_SIDE, GROUND_SIDE)
    fine, broad = smooth_noise(shape, f"fine/{name}", 12, 2), smooth_noise(shape, f"broad/{name}", 600, 80)
    brightness: Floats = (1 + strength * (fine + broad))[..., None]
    return brightness


def grey_steps() -> Floats:
    """Squares of 64 pixels in 16 steps from dark to light, again and again."""
    steps = np.linspace(0.1, 0.75, 16).reshape(4, 4).repeat(64, 0).repeat(64, 1)
    tiled: Floats = np.tile(steps, (GROUND_SIDE // 256, GROUND_SIDE // 256))[..., None].repeat(3, 2)
    return tiled


def smooth_noise(shape: tuple[int, int], name: str, coarsest: float, finest: float) -> Floats:
    """Noise of mean 0 and standard deviation 1, with waves from `finest` to `coarsest` pixels long.

    Each octave is 0.6 times as strong as the one before. The name is the seed.
    """
    white = np.random.default_rng(list(name.encode())).standard_normal(shape)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))  # waves per pixel
    inside = (frequency >= 0.999 / coarsest) & (frequency <= 1 / finest)
    # An octave's share of the plane of frequencies grows with their square, hence the 1 beside log2(1 / 0.6).
    gain = np.where(inside, np.maximum(frequency, 1e-9) ** -(1 + np.log2(1 / 0.6)), 0)
    waves: Floats = np.fft.irfft2(np.fft.rfft2(white) * gain, s=shape)
    return waves / waves.std()


def as_bytes(picture: Floats) -> Bytes:
    """Round a picture in [0, 1] to 8 bits, as real inputs are."""
    return np.ascontiguousarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))


def whole(path: Path) -> Bytes:
    """Read all of an 8-bit image."""
    reader = open_picture(path)
    pixels = reader.read(Box(0, 0, reader.info.height, reader.info.width), COLOURS)
    reader.close()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def folders_of(real: Path | None) -> list[Path]:
    """List the folders of real pairs."""
    if real is None:
        return []
    if not real.is_dir():
        raise InputError(f"{real}: no such folder", "check --real")
    return sorted(folder for folder in real.iterdir() if folder.is_dir())


def fingerprint(cases: Sequence[Case]) -> str:
    """Tell sets apart by their pixels: figures of different inputs are not to be compared."""
    digest = sha256()
    for case in cases:
        digest.update(repr((case.set_name, case.image, case.variant, case.hazy.shape)).encode())
        digest.update(case.hazy.tobytes() + case.clear.tobytes())
    return digest.hexdigest()[:8]


def write_pairs(cases: Sequence[Case], folder: Path) -> None:
    """Write each set as PNG files, hazy/ beside clear/, as `dehazexl evaluate --data` reads them."""
    for case in cases:
        inside = folder / case.set_name.replace(" ", "-")
        ending = f"_{case.variant.replace(' ', '-')}" if case.variant else ""
        for part, name, pixels in (
            ("hazy", case.image + ending, case.hazy),
            ("clear", case.image, case.clear),
        ):
            (inside / part).mkdir(parents=True, exist_ok=True)
            (inside / part / f"{name}.png").write_bytes(png_encode(pixels))
