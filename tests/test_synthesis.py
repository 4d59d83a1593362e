"""Hazy images are what their records say: repeatable, by rows as in one, and as dense as their level."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster.base import ValueRange
from dehazexl_cli.raster.jpeg import rows_around, through_jpeg
from dehazexl_cli.raster.memory import ArrayReader
from dehazexl_cli.training.haze_presets import CLOSED, LEVELS, Origin, draw_sky
from dehazexl_cli.training.synthesis import Camera, Hazing, in_type, keep_off_nodata, require_usable

EIGHT_BITS = ValueRange(0.0, 255.0, "dtype")


def clear_scene(height: int = 150, width: int = 200, count: int = 3, **options: object) -> ArrayReader:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (height // 10 + 1, width // 10 + 1, count), dtype=np.uint8)
    pixels = coarse.repeat(10, 0).repeat(10, 1)[:height, :width]
    return ArrayReader(pixels + rng.integers(0, 30, pixels.shape, dtype=np.uint8), **options)  # type: ignore[arg-type]


def hazing(level: int = 2, seed: int = 0, name: str = "a", camera: Camera | None = None) -> Hazing:
    origin = Origin(seed, name, level)
    return Hazing.draw(origin, clear_scene().info, (1, 2, 3), EIGHT_BITS, camera or Camera())


def green(origin: Origin, height: int = 300, width: int = 400) -> np.ndarray:
    _, haze = draw_sky(origin, height, width)
    return haze.transmission(Box(0, 0, height, width))[1]


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_s_skies_are_as_dense_as_its_range(level: int) -> None:
    low, high = LEVELS[level].transmission
    means = [float(green(Origin(0, f"scene {n}", level)).mean()) for n in range(25)]
    # The densest level also promises closed parts, and may be denser for them.
    assert low - (0.01 if level < 4 else 0.05) < min(means)
    assert max(means) < high + 0.01
    assert max(means) - min(means) > (high - low) / 2


def test_levels_are_ordered_and_do_not_overlap() -> None:
    ranges = [LEVELS[level].transmission for level in sorted(LEVELS)]
    assert all(low < high for low, high in ranges)
    assert all(denser[1] < lighter[0] for lighter, denser in pairwise(ranges))
    for level in LEVELS.values():
        assert sum(share for _, share in level.weathers) == pytest.approx(1)
        assert np.exp(-level.limit[0]) < level.transmission[0]  # the limit lets it become that dense


def test_the_densest_level_is_white_and_hides_some_ground_in_every_scene() -> None:
    kinds = set()
    for n in range(25):
        origin = Origin(1, f"scene {n}", 4)
        _, haze = draw_sky(origin, 300, 400)
        kinds.add(haze.kind)
        assert (green(origin) < CLOSED).mean() > 0.1
        assert min(haze.airlight) > 0.9
        assert max(haze.airlight) - min(haze.airlight) < 0.05
    assert kinds == {"cloud", "field"}


@pytest.mark.parametrize("level", [1, 2])
def test_thin_haze_is_a_bluish_or_a_grey_veil_alike(level: int) -> None:
    skies = [draw_sky(Origin(0, f"scene {n}", level), 64, 64) for n in range(100)]
    bluish, grey = (
        [haze for weather, haze in skies if weather == f"{hue} veil"] for hue in ("bluish", "grey")
    )
    assert 27 < len(bluish) < 53
    assert 27 < len(grey) < 53
    for haze in bluish:
        red, _, blue = haze.transmission(Box(0, 0, 8, 8)).mean((1, 2))
        assert red > blue
        assert haze.airlight[0] < haze.airlight[2]
    assert all(-0.1 <= haze.exponent <= 0.1 for haze in grey)
    assert np.mean([haze.exponent for haze in grey]) == pytest.approx(0, abs=0.03)
    assert min(haze.contrast for haze in grey) < 0.05


def test_smoke_is_brown() -> None:
    skies = [draw_sky(Origin(0, f"scene {n}", 3), 64, 64) for n in range(40)]
    smokes = [haze for weather, haze in skies if weather == "smoke"]
    assert smokes
    assert all(haze.airlight[0] > haze.airlight[1] > haze.airlight[2] for haze in smokes)


def test_equal_origins_give_equal_pixels_and_others_do_not() -> None:
    reader = clear_scene()
    first = hazing().rows(reader, 0, 150).pixels
    assert np.array_equal(first, hazing().rows(reader, 0, 150).pixels)
    for other in (hazing(seed=1), hazing(name="b"), hazing(level=3)):
        assert not np.array_equal(first, other.rows(reader, 0, 150).pixels)


@pytest.mark.parametrize("camera", [Camera(), Camera(0.02), Camera(0.02, 60)])
@pytest.mark.parametrize("level", LEVELS)
def test_rows_made_apart_are_those_made_at_once(level: int, camera: Camera) -> None:
    reader = clear_scene()
    made = hazing(level, camera=camera)
    whole = made.rows(reader, 0, 150)
    cuts = [0, 1, 17, 64, 100, 149, 150]
    parts = [made.rows(reader, top, end - top) for top, end in pairwise(cuts)]
    assert np.array_equal(np.concatenate([part.pixels for part in parts], axis=1), whole.pixels)
    assert np.array_equal(np.concatenate([part.transmission for part in parts]), whole.transmission)


def test_pixels_are_ground_and_airlight_by_transmission() -> None:
    reader = clear_scene()
    made = hazing(3)
    box = Box(0, 0, 150, 200)
    t = made.haze.transmission(box)
    airlight = np.array(made.haze.airlight)[:, None, None] * 255
    expected = reader.read(box, (1, 2, 3)) * t + airlight * (1 - t)
    assert np.abs(made.rows(reader, 0, 150).pixels - expected).max() <= 0.51


def test_a_record_as_json_makes_the_same_image_again() -> None:
    reader = clear_scene()
    made = hazing(4, seed=2**40, camera=Camera(0.01, 75))
    again = Hazing.from_dict(json.loads(json.dumps(made.to_dict())))
    assert np.array_equal(again.rows(reader, 0, 150).pixels, made.rows(reader, 0, 150).pixels)
    assert again.to_dict() == made.to_dict()


def with_power(made: Hazing, veil_power: float, stretch: float) -> Hazing:
    noise = dataclasses.replace(made.haze.noise, stretch=stretch)
    return dataclasses.replace(made, haze=dataclasses.replace(made.haze, noise=noise, veil_power=veil_power))


def test_a_record_holds_how_the_veil_grows_and_its_streaks() -> None:
    made = with_power(hazing(2), 1.7, 3.0)
    record = json.loads(json.dumps(made.to_dict()))
    assert (record["format"], record["veil_power"], record["stretch"]) == ("dehazexl-haze/2", 1.7, 3.0)
    reader = clear_scene()
    pixels = made.rows(reader, 0, 150).pixels
    assert np.array_equal(Hazing.from_dict(record).rows(reader, 0, 150).pixels, pixels)
    assert not np.array_equal(hazing(2).rows(reader, 0, 150).pixels, pixels)


@pytest.mark.parametrize("veil_power", [0.4, 1.7])
def test_rows_of_veils_of_any_power_are_equal_however_cut(veil_power: float) -> None:
    reader = clear_scene(width=203)
    made = with_power(hazing(4), veil_power, 0.5)
    cuts = [0, 1, 17, 64, 99, 149, 150]
    parts = [made.rows(reader, top, end - top).pixels for top, end in pairwise(cuts)]
    assert np.array_equal(np.concatenate(parts, axis=1), made.rows(reader, 0, 150).pixels)


def test_a_record_of_another_format_is_refused() -> None:
    with pytest.raises(InputError, match="format 'x/2'"):
        Hazing.from_dict(hazing().to_dict() | {"format": "x/2"})


def test_what_is_no_ground_stays_and_does_not_count() -> None:
    array = np.random.default_rng(0).integers(1, 255, (60, 80, 3), dtype=np.uint8)
    array[:20] = 0
    reader = ArrayReader(array, nodata=0)
    made = Hazing.draw(Origin(0, "a", 4), reader.info, (1, 2, 3), EIGHT_BITS, Camera(0.3, 50))
    rows = made.rows(reader, 0, 60)
    assert np.array_equal(rows.pixels[:, :20], np.zeros((3, 20, 80)))
    assert (rows.pixels[:, 20:] != 0).all()  # noise and compression make no holes
    assert rows.transmission.size == 40 * 80
    empty = made.rows(ArrayReader(np.zeros((60, 80, 3), np.uint8), nodata=0), 0, 60)
    assert empty.transmission.size == 0


def test_other_bands_and_alpha_stay() -> None:
    reader = clear_scene(count=5, alpha=5)
    made = Hazing.draw(Origin(0, "a", 4), reader.info, (4, 2, 1), EIGHT_BITS, Camera(0.01))
    before = reader.read(Box(0, 0, 150, 200), range(1, 6))
    after = made.rows(reader, 0, 150).pixels
    changed = [band + 1 for band in range(5) if not np.array_equal(before[band], after[band])]
    assert changed == [1, 2, 4]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_other_types_are_hazed_in_their_own_range(dtype: str) -> None:
    top = 1.0 if dtype == "float32" else 4000.0
    values = (np.random.default_rng(0).random((80, 90, 3)) * top).astype(dtype)
    reader = ArrayReader(values)
    sky = hazing(3)
    made = dataclasses.replace(sky, radiometry=ValueRange(0.0, top, "given"))
    t = sky.haze.transmission(Box(0, 0, 80, 90))
    expected = values.transpose(2, 0, 1) / top * t + np.array(sky.haze.airlight)[:, None, None] * (1 - t)
    rows = made.rows(reader, 0, 80).pixels
    assert rows.dtype == dtype
    assert np.abs(rows / top - expected).max() < (1e-6 if dtype == "float32" else 0.51 / top)


def test_noise_has_the_strength_asked_for() -> None:
    reader = clear_scene()
    still, noisy = (hazing(3, camera=Camera(noise)).rows(reader, 0, 150).pixels for noise in (0.0, 0.02))
    difference = noisy.astype(float) - still
    assert difference.std() == pytest.approx(0.02 * 255, rel=0.05)
    assert abs(difference.mean()) < 0.1


def test_jpeg_of_some_rows_is_that_of_the_whole() -> None:
    pixels = clear_scene().read(Box(0, 0, 150, 200), (1, 2, 3))
    whole = through_jpeg(pixels, 40)
    assert 1 < np.abs(whole.astype(int) - pixels).mean() < 20
    for top, height in ((0, 10), (37, 50), (149, 1)):
        first, last = rows_around(top, height, 150)
        part = through_jpeg(pixels[:, first:last], 40)[:, top - first : top - first + height]
        assert np.array_equal(part, whole[:, top : top + height])


def test_values_are_rounded_and_held_within_their_type() -> None:
    values = np.array([-3.0, 0.4, 0.6, 254.9, 300.0], np.float32)
    assert in_type(values, np.dtype("uint8")).tolist() == [0, 0, 1, 255, 255]
    assert in_type(values, np.dtype("float32")).tolist() == values.tolist()


def test_ground_that_becomes_nodata_is_moved_beside_it() -> None:
    values, before = np.array([255, 255, 7], np.uint8), np.array([255, 9, 7], np.uint8)
    keep_off_nodata(values, before, 255.0)
    assert values.tolist() == [255, 254, 7]


def test_scenes_that_cannot_be_hazed_are_refused() -> None:
    grey = ArrayReader(np.zeros((8, 8), np.uint8)).info
    wide = ArrayReader(np.zeros((8, 8, 3), np.float64)).info
    deep = ArrayReader(np.zeros((8, 8, 3), np.uint16)).info
    huge = dataclasses.replace(clear_scene().info, width=70_000)
    for info, bands, camera, word in (
        (grey, (1,), Camera(), "one grey band"),
        (wide, (1, 2, 3), Camera(), "float64"),
        (deep, (1, 2, 3), Camera(jpeg=90), "8 bits"),
        (huge, (1, 2, 3), Camera(jpeg=90), "more than a JPEG can hold"),
    ):
        with pytest.raises(InputError, match=word):
            require_usable(info, bands, camera)


@pytest.mark.parametrize(("noise", "quality"), [(-0.1, None), (2.0, None), (float("nan"), None), (0.0, 0)])
def test_impossible_cameras_are_refused(noise: float, quality: int | None) -> None:
    with pytest.raises(UsageError):
        Camera(noise, quality)


def test_a_sky_over_a_reduced_scene_is_as_dense_as_over_the_scene() -> None:
    origin = Origin(0, "large", 2)
    _, haze = draw_sky(origin, 1000, 1500)
    reduced = haze.thinned(10).transmission(Box(0, 0, 100, 150))[1]
    assert green(origin, 1000, 1500)[::10, ::10] == pytest.approx(reduced, abs=1e-5)
