"""Streamed equals whole: for every size, batch, skip policy and model; and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Identity, Toy
from numpy.typing import NDArray

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, run
from dehazexl_cli.engine.fp32_fallback import Fp32Fallback
from dehazexl_cli.errors import DeviceError, UsageError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips, forward_in_memory
from dehazexl_cli.plan import SkipPolicy
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.report import Report

FP32 = {"device": "cpu", "precision": "fp32"}


def streamed(
    array: Pixels, model: DehazeModel, options: EngineOptions, **reading: object
) -> tuple[Pixels, Report]:
    reader = ArrayReader(array, **reading)  # type: ignore[arg-type]
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info, "hw" if array.ndim == 2 else "hwc"))
        return writers[-1]

    report = run(reader, make_writer, model, options)
    return writers[-1].array, report


def whole(array: NDArray[np.uint8], model: DehazeModel, overlap: int = 0) -> Pixels:
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = forward_in_memory(model, pixels, overlap=overlap)[0, :3].clamp(0, 1)
    result: Pixels = (output * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()
    return result


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (37, 5), (16, 16), (33, 50), (64, 48)])
@pytest.mark.parametrize("token_reduction", ["stack", "sum"])
def test_streamed_equals_whole_for_every_size(height: int, width: int, token_reduction: str) -> None:
    array = scene(height, width)
    output, _ = streamed(array, Toy(token_reduction=token_reduction), EngineOptions(**FP32))
    difference = abs(output.astype(int) - whole(array, Toy(token_reduction=token_reduction)).astype(int))
    # The change is added to the integer, the whole image rounded from its float: at a tie they may differ.
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 5), (28, 40), (33, 50), (64, 148)])
@pytest.mark.parametrize("overlap", [1, 4, 8])
def test_streamed_equals_whole_with_overlap_too(height: int, width: int, overlap: int) -> None:
    array = scene(height, width)
    output, report = streamed(array, Toy(), EngineOptions(**FP32, overlap=overlap))
    assert report.overlap == overlap
    difference = abs(output.astype(int) - whole(array, Toy(), overlap).astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_left_to_the_model_patches_share_what_fits_the_scene() -> None:
    class Sharing(Toy):
        overlap = 8

    array = scene(58, 58)  # 7 x 7 patches that share 8, 6 x 6 that share 7
    output, report = streamed(array, Sharing(), EngineOptions(**FP32))
    assert report.overlap == 7 and report.seam_lines["overlap"] == 7
    assert abs(output.astype(int) - whole(array, Toy(), 7).astype(int)).max() <= 1
    wanted, report = streamed(array, Sharing(), EngineOptions(**FP32, overlap=8))
    assert report.overlap == 8
    assert not np.array_equal(wanted, output)


def test_overlap_smooths_what_patches_disagree_about() -> None:
    class Moody(Identity):
        """Each patch is brightened by its number."""

        def decode(self, batch: PatchBatch, scene: torch.Tensor, skips: Skips) -> torch.Tensor:
            numbers = torch.tensor(batch.ids).view(-1, 1, 1, 1)
            return super().decode(batch, scene, skips) + 0.2 * (numbers % 2)

    even = np.full((16, 100, 3), 100, np.uint8)
    edged, _ = streamed(even, Moody(), EngineOptions(**FP32, overlap=0))
    feathered, _ = streamed(even, Moody(), EngineOptions(**FP32, overlap=8))
    steps = [int(abs(np.diff(image[:, :, 0].astype(int), axis=1)).max()) for image in (edged, feathered)]
    assert steps[0] == 51
    assert steps[1] <= 11


def test_overlap_a_model_cannot_have_is_refused() -> None:
    for model, overlap in ((Toy(token_reduction="sum"), 4), (Toy(), 9), (Toy(), -1)):
        with pytest.raises(UsageError, match="not possible with this model"):
            streamed(scene(40, 40), model, EngineOptions(overlap=overlap))


@pytest.mark.parametrize("skips", ["device", "host", "recompute"])
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_batch_and_skip_policy_do_not_change_a_bit(skips: SkipPolicy, batch: int) -> None:
    array = scene(50, 120)
    first, _ = streamed(array, Toy(), EngineOptions(**FP32, overrides=PlanOverrides("device", 1)))
    other, report = streamed(array, Toy(), EngineOptions(**FP32, overrides=PlanOverrides(skips, batch)))
    assert np.array_equal(first, other)
    assert (report.plan["skips"], report.plan["batch"]) == (skips, batch)


@pytest.mark.parametrize("name", ["dehazexl-s", "dehazexl-paper"])
def test_the_real_networks_stream_as_they_run_whole(name: str) -> None:
    torch.manual_seed(0)
    model = build(name).eval()
    if name == "dehazexl-s":
        torch.nn.init.normal_(model.decoder.heads[-1].weight, std=0.05)  # type: ignore[union-attr]
    array = scene(300, 520)
    expected = whole(array, model, model.overlap).astype(int)
    for overrides in (PlanOverrides("host", 2), PlanOverrides("recompute", 1)):
        output, _ = streamed(array, model, EngineOptions(**FP32, overrides=overrides))
        assert abs(output.astype(int) - expected).max() <= 1
    assert abs(expected - array).mean() > 1  # the network does something


def test_each_patch_is_encoded_and_mixed_once() -> None:
    model = Toy()
    streamed(scene(50, 120), model, EngineOptions(**FP32, overrides=PlanOverrides("host", 4)))
    assert sorted(model.encoded) == list(range(4 * 8))
    assert model.mixed == 1


DTYPES = ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def values(dtype: str, shape: tuple[int, ...]) -> Pixels:
    rng = np.random.default_rng(1)
    if dtype.startswith("float"):
        return (rng.standard_normal(shape) * 1e4).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 3), (35, 17, 3), (20, 40), (20, 21, 5), (9, 50, 1)])
def test_identity_gives_back_every_bit(dtype: str, shape: tuple[int, ...], identity: Identity) -> None:
    array = values(dtype, shape)
    output, _ = streamed(array, identity, EngineOptions(device="cpu"))
    assert output.dtype == array.dtype
    assert output.tobytes() == array.tobytes()


def test_strength_zero_changes_nothing_and_half_changes_half() -> None:
    array = scene(33, 50)
    full, none, half = (
        streamed(array, Toy(), EngineOptions(**FP32, strength=s))[0].astype(int) for s in (1.0, 0.0, 0.5)
    )
    assert np.array_equal(none, array)
    assert abs(half - (array + full) / 2).max() <= 1


def test_grey_is_shown_as_three_equal_bands_and_averaged_back() -> None:
    grey = scene(33, 50)[:, :, 0]
    output, report = streamed(grey, Toy(), EngineOptions(**FP32))
    colour, _ = streamed(np.repeat(grey[:, :, None], 3, 2), Toy(), EngineOptions(**FP32))
    assert report.bands == (1,)
    assert abs(output.astype(int) - colour[:, :, 0]).max() <= 1


def test_chosen_bands_change_and_the_others_stay_bit_equal() -> None:
    array = values("uint16", (33, 50, 5))
    output, _ = streamed(array, Toy(), EngineOptions(**FP32, bands=(4, 3, 2)))
    assert np.array_equal(output[:, :, [0, 4]], array[:, :, [0, 4]])
    assert not np.array_equal(output[:, :, 1], array[:, :, 1])
    rgb, _ = streamed(array[:, :, [3, 2, 1]], Toy(), EngineOptions(**FP32))
    assert np.array_equal(output[:, :, [3, 2, 1]], rgb)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("float32", 0.0)]
)
def test_ground_never_becomes_nodata(dtype: str, nodata: float) -> None:
    class Flat(Identity):
        """Makes everything the nodata value."""

        def decode(self, batch: PatchBatch, scene: torch.Tensor, skips: Skips) -> torch.Tensor:
            return torch.full_like(batch.pixels, 1.0 if nodata else 0.0)

    array = np.full((20, 20, 3), 100, dtype)
    array[4, 4] = nodata
    top = 65535 if dtype == "uint16" else 255
    output, _ = streamed(array, Flat(), EngineOptions(**FP32, input_range=(0, top)), nodata=nodata)
    holes = (output == nodata).all(2)
    assert holes[4, 4]
    assert holes.sum() == 1
    assert abs(output.astype(float) - nodata).max() <= 1


def test_nan_and_infinity_stay_and_spread_nowhere() -> None:
    array = np.random.default_rng(0).random((40, 60, 3), dtype=np.float32)
    array[3, 4] = np.nan
    array[20, 50, 1] = np.inf
    output, report = streamed(array, Toy(), EngineOptions(**FP32))
    assert report.invalid_pixels == 2
    assert np.array_equal(np.isfinite(output), np.isfinite(array))
    assert np.isinf(output[20, 50, 1])


class Overflowing(Toy):
    """Overflows where the input is bright, unless it runs in float32, as networks in half precision do."""

    def decode(self, batch: PatchBatch, scene: torch.Tensor, skips: Skips) -> torch.Tensor:
        out = super().decode(batch, scene.float(), skips)
        if self.anchor.dtype != torch.float32:
            out = torch.where(self.inner(batch.pixels) > 0.9, torch.inf, out)
        return out


def test_a_batch_that_overflows_is_done_again_in_float32_and_counted() -> None:
    array = scene(40, 60) // 2
    array[0, 0] = 255
    expected, _ = streamed(array, Toy(), EngineOptions(**FP32, overrides=PlanOverrides(batch=1)))
    output, report = streamed(
        array, Overflowing(), EngineOptions(device="cpu", precision="bf16", overrides=PlanOverrides(batch=1))
    )
    assert report.redone_batches == 1
    assert abs(output.astype(int) - expected).max() <= 1


class OverflowingMixer(Toy):
    """Overflows in half precision; where memory is to be spared it mixes where the tokens lie."""

    def apply_bottleneck(self, tokens: torch.Tensor, grid: PatchGrid, seed: int | None) -> torch.Tensor:
        factor = 2 if tokens.dtype == torch.float32 else torch.inf
        sparing = seed is not None or self.query_chunk is not None
        return tokens.mul_(factor) if sparing else tokens * factor


@pytest.mark.parametrize(("seed", "queries"), [(None, None), (3, None), (None, 2)])
def test_a_scene_that_overflows_is_mixed_again_from_what_its_tokens_were(
    seed: int | None, queries: int | None
) -> None:
    report = Report()
    tokens = torch.rand(1, 4, 3).half()
    model = OverflowingMixer().half()
    model.query_chunk = queries
    mixed = Fp32Fallback(model, report).apply_bottleneck(tokens.clone(), PatchGrid(32, 32, 16), seed)
    assert torch.equal(mixed, 2 * tokens)
    assert report.redone_batches == 1


class Hungry(Toy):
    """Runs out of memory for batches larger than it can hold."""

    limit = 2

    def encode(self, batch: PatchBatch) -> tuple[torch.Tensor, Skips]:
        if len(batch.ids) > self.limit:
            raise MemoryError("planned for a test")
        return super().encode(batch)


def test_lack_of_memory_goes_down_the_ladder_and_is_reported() -> None:
    array = scene(50, 200)
    expected, _ = streamed(array, Toy(), EngineOptions(**FP32))
    output, report = streamed(array, Hungry(), EngineOptions(**FP32))
    assert np.array_equal(output, expected)
    assert report.plan["batch"] == 2
    assert len(report.fallbacks) == 2


def test_lack_of_memory_with_a_given_batch_fails_instead_of_changing_it() -> None:
    with pytest.raises(DeviceError):
        streamed(scene(50, 200), Hungry(), EngineOptions(**FP32, overrides=PlanOverrides("recompute", 4)))


@pytest.mark.parametrize("bands", [(0,), (1, 2), (1, 2, 4), (1, 1, 2), (-1, 2, 3)])
def test_bands_that_are_no_colours_are_refused(bands: tuple[int, ...], identity: Identity) -> None:
    with pytest.raises(UsageError):
        streamed(scene(5, 5), identity, EngineOptions(bands=bands))


def test_sixteen_bit_ramps_keep_their_levels() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    output, _ = streamed(ramp, Identity(64), EngineOptions(**FP32))
    assert len(np.unique(output)) == 65536
