"""Draw an aerial photograph of an invented village under uneven haze: hazy.tif, and clear.tif beside it.

The ground is painted as colour and relief; one sun then shades everything and casts every shadow.
Lengths are metres; points are (y, x), y growing southwards.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin


def palette(codes: str) -> np.ndarray:
    """Colours [n, 3] in [0, 1] from their hexadecimal names."""
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32) / 255


PIXEL = 0.5  # metres
NORTH_WEST = (392_000.0, 5_820_000.0)  # easting, northing of the corner in EPSG:32633
SUN = np.array([0.62, 0.34, 0.71], np.float32)  # unit vector to the sun: south, east, up
SKYLIGHT = np.array([0.42, 0.45, 0.52], np.float32)  # what a shadow leaves, bluish from the sky
AIRLIGHT = np.array([0.82, 0.85, 0.88], np.float32)
EXTINCTION = (np.array([0.64, 0.55, 0.46], np.float32) / 0.55) ** -0.9  # of red, green, blue, against green
CLEAREST, THICKEST = 0.85, 0.25  # transmission of green light
CROPS = palette("b09c6a 9f8d6a 786650 62553f 6a7346 4b5c37 5d6941 787a4b 8d8450")  # wheat … soil … rape
ROOFS = palette("935c4a 874f42 6e544a 5d5d61 9e9991")
CARS = palette("e6e6e6 26262b 8c1f1a 33476b 999ca1")
GRASS, ASPHALT, SAND, WATER, LEAF, POOL = palette("57633b 737375 a8997d 3a4a48 4d5c37 5b9da8")
CAR, KINDS = (4.4, 1.9), 4093  # length and width of a car; number of different parcels


class Ground:
    """What the camera will see, before light."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.color = np.zeros((height, width, 3), np.float32)  # display values in [0, 1]
        self.relief = np.zeros((height, width), np.float32)  # metres
        self.y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) * PIXEL  # metres
        self.x = (np.arange(width, dtype=np.float32)[None] + 0.5) * PIXEL
        self.extent = np.array([height, width]) * PIXEL

    def noise(self, coarsest: float, finest: float = 1.0, slope: float = 1.3) -> np.ndarray:
        """Fractal noise of unit variance with details from `finest` to `coarsest` metres."""
        white = self.rng.standard_normal(self.relief.shape, np.float32)
        down, across = np.fft.fftfreq(len(white), PIXEL)[:, None], np.fft.rfftfreq(white.shape[1], PIXEL)
        frequency = np.hypot(down, across).astype(np.float32) + 1e-6  # cycles per metre
        gain = frequency**-slope / (1 + (coarsest * frequency) ** -4) * (frequency < 1 / finest)
        waves = np.fft.irfft2(np.fft.rfft2(white) * gain, s=white.shape)
        return waves / (waves.std() + 1e-9)

    def paint(self, color: np.ndarray, alpha: np.ndarray, where: tuple = np.s_[:, :]) -> None:
        """Lay a colour over the ground, `alpha` in [0, 1] being how much of it covers a pixel."""
        self.color[where] += alpha[..., None].astype(np.float32) * (color - self.color[where])

    def window(self, at: np.ndarray, reach: float) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Pixels within `reach` of a point, and their offsets from it (south, east)."""
        side = int(2 * reach / PIXEL) + 2
        rows, cols = (slice(max(0, n), max(0, n + side)) for n in ((at - reach) / PIXEL).astype(int))
        return (rows, cols), self.y[rows] - at[0], self.x[:, cols] - at[1]

    def lay(self, at: np.ndarray, turn: float, size: tuple, color: np.ndarray, roof: tuple = (0, 0)) -> None:
        """A rectangle of `size`; with a roof (height of its eaves, pitch) it is a house or a car."""
        where, south, east = self.window(at, np.hypot(*size) / 2 + 1)
        ahead, aside = south * np.cos(turn) + east * np.sin(turn), east * np.cos(turn) - south * np.sin(turn)
        inside = np.minimum(size[0] / 2 - np.abs(ahead), size[1] / 2 - np.abs(aside))
        rough = 1 + 0.05 * self.rng.standard_normal((*inside.shape, 1), np.float32)
        top = roof[0] + roof[1] * (size[1] / 2 - np.abs(aside))
        self.paint(color * rough, cover(inside) * (top >= self.relief[where]), where)
        self.relief[where] = np.maximum(self.relief[where], top * (inside > 0))


def cover(inside: np.ndarray) -> np.ndarray:
    """How much of a pixel a shape covers whose edge is `inside` metres away (negative: it is outside)."""
    return np.clip(inside / PIXEL + 0.5, 0, 1)


def winding(ground: Ground, start: tuple, end: tuple, sway: float) -> np.ndarray:
    """Points and directions [n, 4] every two metres or so from start to end (fractions of the scene)."""
    first, way = start * ground.extent, np.subtract(end, start) * ground.extent
    s = np.linspace(0, 1, int(np.hypot(*way) / 2))[:, None]
    swing = sum(np.sin(2 * np.pi * (k * s + ground.rng.random())) / k**1.5 for k in (1, 2, 3))
    points = first + s * way + sway * swing * np.array([way[1], -way[0]]) / np.hypot(*way)
    steps = np.gradient(points, axis=0)
    return np.hstack([points, steps / np.hypot(*steps.T)[:, None]])


def beside(ground: Ground, line: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Of every pixel: its distance to a line (1000 beyond `reach`), and how far along the line it lies."""
    nearest, along = np.full_like(ground.relief, 1000), np.zeros_like(ground.relief)
    for index, (*point, down, across) in enumerate(line):
        where, south, east = ground.window(np.array(point), reach)
        ahead, aside = south * down + east * across, np.abs(south * across - east * down)
        closer = (aside < nearest[where]) & (np.abs(ahead) <= 2)
        nearest[where] = np.where(closer, aside, nearest[where])
        along[where] = np.where(closer, 2 * index + ahead, along[where])
    return nearest, along


def lay_fields(ground: Ground) -> np.ndarray:
    """Blocks of parcels, each ploughed along its own direction; returns the distance to a block's edge."""
    rng, count = ground.rng, max(4, int(ground.extent.prod() / 45_000))
    sites = (rng.random((count, 2)) * ground.extent).astype(np.float32)
    wander = 6 * ground.noise(300, 60, 2)
    y, x = ground.y + wander, ground.x - wander
    distance = np.stack([np.hypot(y - site[0], x - site[1]) for site in sites])  # [site, height, width]
    block, rival = np.argpartition(distance, 1, axis=0)[:2]
    own, other = np.take_along_axis(distance, np.stack([block, rival]), 0)
    edge = (other**2 - own**2) / 2 / np.hypot(*(sites[block] - sites[rival]).T).T

    turn, wide, long = rng.uniform((0, 35, 140), (np.pi, 90, 300), (count, 3)).astype(np.float32).T[:, block]
    u, v = (y * np.cos(turn) + x * np.sin(turn)) / wide, (x * np.cos(turn) - y * np.sin(turn)) / long
    v += 0.37 * np.floor(u)  # neighbouring strips end at different places
    strip, part = np.floor(u), np.floor(v)
    parcel = (block * 7919 + strip * 104_729 + part * 1_299_709).astype(int) % KINDS
    to_side, to_end = (0.5 - np.abs(u - strip - 0.5)) * wide, (0.5 - np.abs(v - part - 0.5)) * long
    sow(ground, parcel, np.where((to_end < 9) & (to_side > 6), v * long, u * wide))
    ground.paint(GRASS * 0.95, 0.8 * cover(0.8 - np.minimum(to_side, to_end)))
    used = np.clip(0.7 + 0.5 * ground.noise(120, 60, 2), 0, 1)
    ground.paint(GRASS, np.maximum(0.8 * used * cover(3.2 - edge), cover(0.8 - edge)))
    ground.paint(SAND, 0.85 * used * cover(0.55 - np.abs(edge - 1)))  # two ruts between the blocks
    return edge


def sow(ground: Ground, parcel: np.ndarray, across: np.ndarray) -> None:
    """Give every parcel a crop, furrows and tramlines; `across` runs at right angles to them."""
    rng, vigour, patchy = ground.rng, ground.noise(60, 1, 1.2), ground.noise(9, 1, 0.7)
    tint = 1 + 0.06 * rng.standard_normal((KINDS, 1)) + 0.02 * rng.standard_normal((KINDS, 3))
    crops = (rng.choice(CROPS, KINDS) * tint).astype(np.float32)
    spacing, strength = rng.uniform((1.6, 0.01), (3.6, 0.06), (KINDS, 2)).astype(np.float32).T[:, parcel]
    furrow = np.sin(2 * np.pi * across / spacing + 0.8 * patchy) * strength * (1 + 0.6 * patchy)
    tramline = cover(0.25 - np.abs(np.abs(across % 21 - 10.5) - 0.9)) * (rng.random(KINDS) < 0.6)[parcel]
    light = 1 + furrow + 0.055 * vigour + 0.03 * patchy - 0.13 * tramline
    ground.color[:] = crops[parcel] * light[..., None]


def dig_river(ground: Ground, line: np.ndarray) -> np.ndarray:
    """A river with a meadow and a soft sandy shore; returns the distance to the water's edge."""
    ragged, blades = ground.noise(30, 2, 1.5), ground.noise(8, 1, 0.6)[..., None]
    shore = beside(ground, line, 56)[0] - 13 - 1.3 * ragged - 2 * ground.noise(150, 40, 2)
    ground.paint(GRASS * (1 + 0.08 * blades), 0.9 * np.clip((24 + 5 * ragged - shore) / 5, 0, 1))
    ground.paint(SAND * 0.88, 0.75 * np.clip((2.2 + 1.2 * ragged - shore) / 2.5, 0, 1))
    shallow = 1.35 - 0.35 * np.clip(-shore / 7, 0, 1)[..., None]
    ground.paint(WATER * shallow * (1 + 0.02 * blades), np.clip(0.3 - shore / 2.2, 0, 1))
    return shore


def pave(ground: Ground, line: np.ndarray, half: float, marked: bool) -> np.ndarray:
    """An asphalt road with verges, and with white lines if marked; returns the distance to its axis."""
    (nearest, along), worn = beside(ground, line, 16), ground.noise(14, 1, 0.8)
    ground.paint(GRASS * (1 + 0.07 * worn)[..., None], np.clip((half + 3 + worn - nearest) / 1.5, 0, 0.85))
    driven = 1 + 0.04 * worn + 0.03 * np.cos(2 * np.pi * nearest / 1.7)
    ground.paint(ASPHALT * driven[..., None], cover(half - nearest))
    if marked:
        dashes, rims = cover(0.22 - nearest) * (along % 12 < 5), cover(0.18 - np.abs(nearest - half + 0.5))
        ground.paint(CARS[0], 0.8 * np.maximum(dashes, rims))
    return nearest


def settle(ground: Ground, streets: list[np.ndarray], free: np.ndarray) -> np.ndarray:
    """Houses with gardens on both sides of the streets; returns where the village is."""
    rng, village, center = ground.rng, np.zeros_like(free, bool), ground.extent * (0.42, 0.70)
    for site, side in itertools.product(np.vstack([line[4:-4:11] for line in streets]), (-1, 1)):
        ahead, away = site[2:], side * np.array([site[3], -site[2]])
        at = site[:2] + away * rng.uniform(15, 20) + ahead * rng.uniform(-3, 3)
        corners = (np.stack([at, at + 23 * away]) / PIXEL).astype(int)
        inside = (corners >= 0).all() and (corners < free.shape).all() and free[tuple(corners.T)].min() > 11
        occupied = ground.relief[ground.window(at, 14)[0]].any()
        if inside and not occupied and np.hypot(*(at - center)) < rng.uniform(130, 240):
            furnish(ground, at, away, np.arctan2(ahead[1], ahead[0]) + rng.normal(0, 0.06))
            village[ground.window(at, 30)[0]] = True
    return village


def furnish(ground: Ground, at: np.ndarray, away: np.ndarray, turn: float) -> None:
    """One lot: lawn, drive and house, and perhaps a shed, a pool, a car; `away` points from the street."""
    rng, sideways = ground.rng, np.array([np.cos(turn), np.sin(turn)])
    roof = rng.choice(ROOFS) * rng.uniform(0.88, 1.1)
    drive = at - 7 * away + 6.5 * sideways
    ground.lay(at + 9 * away, turn, (20, 32), GRASS * rng.uniform(0.9, 1.25))
    ground.lay(drive, turn, (3.4, 15), SAND * rng.uniform(0.8, 1.05))
    ground.lay(at, turn, rng.permutation([rng.uniform(11, 17), rng.uniform(8, 11)]), roof, (5.5, 0.75))
    if rng.random() < 0.5:
        ground.lay(at + rng.uniform(14, 20) * away, turn, (5.5, 4), roof * 0.9, (2.3, 0.5))
    if rng.random() < 0.1:
        ground.lay(at + 11 * away - 5 * sideways, turn, (8, 4), POOL)
    if rng.random() < 0.5:
        ground.lay(drive, turn + np.pi / 2, CAR, rng.choice(CARS), (1.4, 0))


def plant(ground: Ground, density: np.ndarray, tallness: np.ndarray) -> None:
    """Trees where `density` (chance per 2.5 m cell) wants them, each crown a bumpy dome."""
    rng, leaves = ground.rng, ground.noise(3, 0.9, 0.3)
    cells = np.argwhere(np.ones((ground.extent // 2.5).astype(int)))
    spots = (cells + rng.random(cells.shape)) * 2.5
    rows, cols = (spots / PIXEL).astype(int).T
    radii = rng.uniform(1.5, 4.2, len(spots)) * tallness[rows, cols]
    for index in np.flatnonzero(rng.random(len(spots)) < density[rows, cols]):
        at, radius = spots[index], radii[index]
        where, south, east = ground.window(at, radius + 1)
        lobes = 1 + 0.14 * np.cos(3 * np.arctan2(south, east) + 6 * rng.random())
        bulge = 1 - (np.hypot(south, east) / radius / lobes) ** 2 + 0.22 * leaves[where]
        top = radius * (1 + 1.5 * np.sqrt(np.clip(bulge, 0, None))) + 0.5 * leaves[where]
        crown = (bulge > 0) & (top > ground.relief[where])
        green = LEAF * (1 + 0.12 * rng.standard_normal() + 0.025 * rng.standard_normal(3))
        ground.relief[where] = np.where(crown, top, ground.relief[where])
        ground.paint(green * (1 + 0.12 * leaves[where])[..., None], crown, where)


def sunlit(ground: Ground) -> np.ndarray:
    """The photograph [height, width, 3] without haze, in [0, 1]."""
    relief, lit = ground.relief, np.ones_like(ground.relief)
    down, across = np.gradient(relief, PIXEL)
    slant = (1 - (SUN[0] * down + SUN[1] * across) / SUN[2]) / np.sqrt(1 + down**2 + across**2)
    climb = PIXEL * SUN[2] / np.hypot(SUN[0], SUN[1])  # metres per pixel that a sunbeam passes over
    for step in range(1, int(relief.max() / climb) + 1):
        south, east = np.rint(step * SUN[:2] / np.hypot(SUN[0], SUN[1])).astype(int)
        here = np.s_[: -south or None, : -east or None]
        lit[here][relief[south:, east:] > relief[here] + step * climb] = 0
    lit = soften(lit)[..., None]
    grain = 1 + 0.025 * ground.noise(2, 1, 0.1) + 0.02 * ground.noise(250, 20, 1.5)
    light = SKYLIGHT * (1 - lit) + lit * np.clip(slant, 0.5, 1.5)[..., None]
    return np.clip(soften(ground.color * light * grain[..., None]), 0, 1)


def soften(image: np.ndarray) -> np.ndarray:
    """The slight blur of real optics."""
    for axis in (0, 1):
        here = np.arange(image.shape[axis])
        before, after = (image.take(here + step, axis, mode="clip") for step in (-1, 1))
        image = 0.6 * image + 0.2 * (before + after)
    return image


def draw(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """The clear scene [height, width, 3] in [0, 1]."""
    ground = Ground(height, width, rng)
    edge = lay_fields(ground)
    shore = dig_river(ground, winding(ground, (-0.1, 0.20), (1.1, 0.34), 38))
    ways = ((0.70, -0.1), (0.46, 1.1), 16), ((-0.1, 0.62), (1.1, 0.80), 14), ((0.20, 0.52), (0.28, 1.1), 9)
    main, street, lane = (winding(ground, *way) for way in ways)
    free = np.minimum(pave(ground, lane, 2.3, False), pave(ground, street, 2.8, False))
    free = np.minimum(free, pave(ground, main, 3.7, True))  # distance to the closest road
    village = settle(ground, [main, street, lane], np.minimum(free, shore))
    for y, x, down, across in rng.permutation(main)[:9]:
        ground.lay(np.array([y + 1.8, x]), np.arctan2(across, down), CAR, rng.choice(CARS), (1.4, 0))

    grove = ground.noise(220, 30, 2)
    bank = (shore > 1.5) & (shore < 15 + 8 * grove)
    hedge = (edge > 2.6) & (edge < 5) & (grove > 0.2)
    wood = (grove > 1.35) & ~village
    density = np.maximum(np.maximum(0.55 * wood, 0.42 * hedge), np.maximum(0.16 * bank, 0.05 * village))
    open_ground = (free > 6.5) & (shore > 0.5) & (ground.relief == 0)
    plant(ground, (density + 4e-4) * open_ground, np.where(wood | bank, 1, 0.7))
    return sunlit(ground)


def haze_over(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """I = J t + A (1 - t); t falls with an uneven optical depth, faster for shorter wavelengths."""
    sky = Ground(*photo.shape[:2], rng)
    veil = 0.9 * sky.x / sky.x.max() - 0.55 * sky.y / sky.y.max() + 0.3 * sky.noise(400, 12, 2)
    veil = np.clip((veil - np.quantile(veil, 0.02)) / np.ptp(np.quantile(veil, (0.02, 0.98))), 0, 1)
    depth = veil * np.log(CLEAREST / THICKEST) - np.log(CLEAREST)
    t = np.exp(-depth[..., None] * EXTINCTION)
    return photo * t + AIRLIGHT * (1 - t) + 0.004 * rng.standard_normal(photo.shape, np.float32)


def save(path: Path, image: np.ndarray) -> None:
    """Write [height, width, 3] in [0, 1] as a tiled 8-bit GeoTIFF."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": len(image), "width": len(image[0])}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(*NORTH_WEST, PIXEL, PIXEL)}
    with rasterio.open(path, "w", tiled=True, compress="deflate", predictor=2, **profile) as target:
        target.write(pixels)


def main() -> None:
    """Write both rasters and print the path of the hazy one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="default: demo")
    parser.add_argument("--height", type=int, default=1536, help="pixels")
    parser.add_argument("--width", type=int, default=2048, help="pixels")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another village")
    overrides = parser.parse_args()
    overrides.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(overrides.seed)
    photo = draw(overrides.height, overrides.width, rng)
    save(overrides.folder / "clear.tif", photo)
    save(overrides.folder / "hazy.tif", haze_over(photo, rng))
    print(overrides.folder / "hazy.tif")


if __name__ == "__main__":
    main()
