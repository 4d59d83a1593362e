"""A survey: smaller pictures of a scene, dehazed too; the result is the mean of all looks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import Identity, Result, Toy
from test_stream import FP32, scene, streamed
from test_team import Here, dehazed
from torch import Tensor

from dehazexl_cli import load_model
from dehazexl_cli.engine import InferenceMode, Options, PlanOverrides, joints_of
from dehazexl_cli.errors import UsageError
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.models.checkpoint import bundled
from dehazexl_cli.plan import SURVEY_LEAVES_BYTES, Footprint, PlanInputs, candidate_plans
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.memory import ArrayReader

BANDS = {"stack": {}, "grey": {"bands": (2,)}, "groups": {"bands": (2,), "all_bands": True}}


class Surveying(Toy):
    """Asks for two looks where a scene is large enough."""

    looks = (64, 32)


def smooth(height: int, width: int) -> Pixels:
    """Haze-like: values that hold no detail a smaller picture would lose, float32 in [0.1, 0.7]."""
    down, right = np.mgrid[:height, :width] / max(height, width)
    colours = [0.4 + 0.3 * np.sin(3 * down + k) * np.cos(4 * right - k) for k in range(3)]
    return np.stack(colours, axis=-1).astype(np.float32)


def run(
    array: Pixels, mode: InferenceMode | None = None, model: DehazeModel | None = None, **options: object
) -> Pixels:
    chosen = Options(**(FP32 | {"mode": mode or InferenceMode(), "input_range": (0.0, 1.0)} | options))  # type: ignore[arg-type]
    return streamed(array, model or Surveying(), chosen)[0]


def accompanied() -> DehazeModel:
    """A network with a companion that sees otherwise and adds up its tokens, as the fast network does."""
    model = Surveying()
    model.companion = Toy(patch=32, halo=1, gather="sum")
    return model


def taken(survey: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(look["height"], look["width"], look["by"]) for look in survey]


def own(*sizes: tuple[int, int]) -> list[tuple[object, ...]]:
    return [(*size, "model") for size in sizes]


@pytest.mark.parametrize("options", BANDS.values(), ids=BANDS)
def test_the_result_is_the_mean_of_all_looks(options: dict[str, object]) -> None:
    array = smooth(70, 130)
    full = run(array, InferenceMode(survey=()), **options)
    one, two = (run(array, InferenceMode("downsample", long_side=side), **options) for side in (64, 32))
    assert abs(full - one).max() > 0.01 and abs(one - two).max() > 0.001
    assert run(array, InferenceMode(survey=(64,)), **options) == pytest.approx((full + one) / 2, abs=1e-5)
    # The smaller look's transforms pass through the larger picture on their way.
    assert run(array, **options) == pytest.approx((full + one + two) / 3, abs=2e-3)


def test_what_leaves_its_range_is_held_only_in_the_mean() -> None:
    class Darker(Surveying):
        def decode(self, *args: object) -> object:
            return super().decode(*args) - 0.5  # type: ignore[arg-type]

    array = np.full((60, 120, 3), 0.1, np.float32)
    output, report = streamed(array, Darker(), Options(**FP32, input_range=(0.0, 1.0)))
    assert (output == 0).all() and report.clipped_values == output.size


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("height", "width"), [(1, 90), (37, 130), (96, 96), (300, 41)])
def test_no_change_gives_back_every_bit(height: int, width: int, dtype: str) -> None:
    array = scene(height, width).astype(dtype)
    output, report = streamed(array, Identity(), Options(**FP32, mode=InferenceMode(survey=(48, 32))))
    assert report.plan["survey"]
    assert np.array_equal(output, array)


def test_pictures_that_would_be_hardly_smaller_than_the_scene_are_not_taken() -> None:
    expected = {86: own((64, 64), (32, 32)), 85: own((32, 32)), 43: own((32, 32)), 42: []}
    for side, looks in expected.items():
        _, report = streamed(scene(side, side), Surveying(), Options(**FP32))
        assert taken(report.plan["survey"]) == looks
    _, report = streamed(scene(40, 200), Surveying(), Options(**FP32))
    assert taken(report.plan["survey"]) == own((13, 64), (6, 32))


@pytest.mark.parametrize("options", BANDS.values(), ids=BANDS)
def test_a_companion_looks_too(options: dict[str, object]) -> None:
    array, model = smooth(70, 600), accompanied()
    assert model.companion is not None
    alone = run(array, InferenceMode(survey=(64, 32)), **options)
    theirs = run(array, InferenceMode("downsample", long_side=512), model.companion, **options)
    assert abs(alone - theirs).max() > 0.01
    # The smaller looks' transforms pass through the larger picture on their way.
    assert run(array, None, model, **options) == pytest.approx((3 * alone + theirs) / 4, abs=3e-3)
    # A scene that is no larger than its picture it sees as it is.
    small = smooth(30, 40)
    full, theirs = (
        run(small, InferenceMode(survey=()), **options),
        run(small, None, model.companion, **options),
    )
    assert run(small, None, model, **options) == pytest.approx((full + theirs) / 2, abs=2e-3)


@pytest.mark.parametrize(("value", "share"), [(0.1, 0.0), (0.2, 0.0), (0.25, 0.25), (0.36, 0.8), (0.9, 1.0)])
def test_where_haze_was_thick_the_survey_looks_again(value: float, share: float) -> None:
    class Halving(Surveying):
        def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
            return self.inner(batch.pixels) / 2

    array = np.full((90, 120, 3), value, np.float32)
    output = run(array, InferenceMode(survey=(64,)), Halving())
    looked_at = value * (0.5 * (1 - share) + 0.25 * share)
    assert output == pytest.approx((value / 2 + looked_at) / 2, abs=1e-5)


@pytest.mark.parametrize(
    "mode",
    [
        InferenceMode(survey=()),
        InferenceMode(survey=(64,)),
        InferenceMode("tile"),
        InferenceMode("downsample"),
    ],
)
def test_a_companion_is_asked_only_where_the_survey_is_left_to_the_model(mode: InferenceMode) -> None:
    array = smooth(70, 130)
    assert not mode.asks_companion
    assert np.array_equal(run(array, mode), run(array, mode, accompanied()))


def test_a_companion_gives_the_same_pixels_to_a_window_and_to_a_team(tmp_path: Path) -> None:
    array, window = scene(90, 120), Box(35, 20, 40, 70)
    expected, _ = dehazed(None, accompanied(), array=array)
    part, _ = dehazed(None, accompanied(), array=array, window=window)
    assert np.array_equal(part, expected[35:75, 20:90])
    workers: list[DehazeModel] = [accompanied(), accompanied()]
    shared, _ = dehazed(Here(tmp_path, workers, array), accompanied(), array=array)
    assert np.array_equal(shared, expected)


def test_bundled_weights_have_a_companion_and_others_none() -> None:
    loaded = load_model("dehazexl-s")
    assert loaded.companion is not None and loaded.companion.name == "mgbl-s"
    assert loaded.model.companion is loaded.companion.model
    assert loaded.companion.sha256 == load_model("mgbl-s").sha256
    assert load_model("mgbl-s").companion is None
    from_file = load_model(weights=bundled("dehazexl-s"))
    assert from_file.sha256 == loaded.sha256
    assert from_file.companion is None and from_file.model.companion is None


def test_only_networks_that_ask_for_it_are_shown_smaller_pictures() -> None:
    assert build("dehazexl-s").looks == (1024, 512)
    assert build("dehazexl-paper").looks == build("mgbl-s").looks == build("mgbl-paper").looks == ()


def test_neither_batches_nor_windows_nor_the_mode_change_a_survey() -> None:
    array = scene(90, 120)
    expected, _ = streamed(array, Surveying(), Options(**FP32, overlap=4))
    for batch in (1, 5):
        output, _ = streamed(
            array, Surveying(), Options(**FP32, overlap=4, wishes=PlanOverrides(batch=batch))
        )
        assert abs(output.astype(int) - expected).max() <= 1
    window = Box(35, 20, 40, 70)
    part, _ = dehazed(None, Surveying(), array=array, overlap=4, window=window, wishes=PlanOverrides())
    assert np.array_equal(part, expected[35:75, 20:90])
    once, _ = streamed(array, Surveying(), Options(**FP32, overlap=4, mode=InferenceMode("whole")))
    assert abs(once.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", BANDS.values(), ids=BANDS)
def test_a_team_gives_the_pixels_of_one(options: dict[str, object], tmp_path: Path) -> None:
    expected, alone = dehazed(None, Surveying(), **options)
    without, _ = dehazed(None, Surveying(), **options, mode=InferenceMode(survey=()))
    output, report = dehazed(Here(tmp_path, [Surveying(), Surveying()]), Surveying(), **options)
    assert np.array_equal(output, expected) and not np.array_equal(output, without)
    assert report.counts() == alone.counts()


def test_a_border_without_ground_changes_nothing() -> None:
    array = scene(90, 120, seed=3)
    array[array == 0] = 1
    framed = np.zeros((140, 180, 3), np.uint8)
    framed[20:110, 40:160] = array
    expected, _ = streamed(array, Surveying(), Options(**FP32))
    output, _ = streamed(framed, Surveying(), Options(**FP32), nodata=0)
    assert np.array_equal(output[20:110, 40:160], expected)
    assert not output[:20].any() and not output[:, 160:].any()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_plan_counts_what_a_survey_takes_and_keeps(on_gpu: bool) -> None:
    footprint = Footprint(100, token_bytes=1, skip_bytes=10**6, work_bytes=10**7, mix_bytes=10)
    grid, look = PatchGrid(512, 512, 256), PatchGrid(2560, 2560, 256)
    plain, surveyed = (
        candidate_plans(
            footprint, grid, PlanInputs(0, on_gpu, look=picture, groups=2), PlanOverrides(batch=2)
        )[0]
        for picture in (None, look)
    )
    kept = 2 * 24 * 2560**2  # factors and offsets of three colours, of each group
    left = kept + (0 if on_gpu else SURVEY_LEAVES_BYTES)
    assert surveyed.flow_bytes - plain.flow_bytes == surveyed.mixing_bytes - plain.mixing_bytes == left
    taken = 100 * (10**6 + 11) + 2 * 10**7 + 84 * 2560**2
    assert surveyed.survey_bytes - plain.survey_bytes == left + taken
    # It is larger than the scene here, and what it takes is what decides.
    assert (surveyed.device_bytes if on_gpu else surveyed.host_bytes) == surveyed.survey_bytes


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (InferenceMode("tile", survey=(64,)), "--survey has no meaning in mode tile"),
        (InferenceMode("downsample", survey=()), "--survey has no meaning in mode downsample"),
    ],
)
def test_a_survey_belongs_to_modes_that_see_the_scene_at_full_size(mode: InferenceMode, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        joints_of(ArrayReader(scene(40, 40)).info, Toy(), Options(mode=mode))


def test_pictures_too_small_to_look_at_are_refused() -> None:
    with pytest.raises(UsageError, match="--survey 8 is too small"):
        InferenceMode(survey=(64, 8))


def test_the_command_line_says_which_pictures(dehazexl: Callable[..., Result], tmp_path: Path) -> None:
    source = tmp_path / "scene.tif"
    with rasterio.open(source, "w", driver="GTiff", width=900, height=700, count=3, dtype="uint8") as file:
        file.write(np.moveaxis(scene(700, 900), -1, 0))
    both = [(398, 512, "model"), (398, 512, "companion")]
    for text, looks in {"auto": both, "off": [], "64,600": own((467, 600), (50, 64))}.items():
        result = dehazexl("plan", source, "--survey", text, "--json")
        assert taken(json.loads(result.out)["mode"]["survey"]) == looks
    words = "with a survey of 512 x 398 pixels, 512 x 398 pixels by its companion"
    assert words in dehazexl("plan", source).out
    assert "survey" not in dehazexl("plan", source, "--model", "mgbl-s").out
    refused = dehazexl("run", source, tmp_path / "out.tif", "--survey", "small")
    assert refused.code == 2 and "write auto, off, or pixels like 1024,512" in refused.err
    refused = dehazexl("run", source, tmp_path / "out.tif", "--mode", "tile", "--survey", "512")
    assert refused.code == 2 and "add --mode global" in refused.err
