"""The CUDA path, on devices that are simulated: what meets what, what memory it takes, who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers.simulated_cuda import Machine, simulated_cuda
from helpers.simulated_streams import StreamError
from imagecodecs import png_encode
from numpy.typing import NDArray
from torch import Tensor

from dehazexl_cli.attribution import Blend, Detector, Network, Part, Sight, attribute
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import PlanOverrides, run
from dehazexl_cli.engine.layout import InferenceMode
from dehazexl_cli.engine.skip_cache import PinnedHostCache
from dehazexl_cli.errors import DeviceError
from dehazexl_cli.grid import Box, PatchGrid
from dehazexl_cli.models.base import DehazeModel
from dehazexl_cli.models.checkpoint import bundled, load
from dehazexl_cli.models.dehazexl import DehazeXL
from dehazexl_cli.models.dehazexl_s import DEFAULT, DehazeXLS
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.report import Report
from dehazexl_cli.training.loop import TrainConfig, train

Picture = NDArray[np.uint8]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Two devices of 8 GiB."""
    with simulated_cuda(count=2) as made:
        yield made


def picture(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> NDArray[np.generic]:
    """Coarse ground with fine noise on it."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (-(-height // 32), -(-width // 32), bands))
    ground = coarse.repeat(32, 0).repeat(32, 1)[:height, :width] + rng.normal(0, 8, (height, width, bands))
    scale = 1 if dtype == "uint8" else 200
    return (np.clip(ground, 1, 254) * scale).astype(dtype)


def tiny_paper() -> DehazeXL:
    """The published network in small; its features wait for the decoder."""
    torch.manual_seed(0)
    return DehazeXL(TINY).eval()


def small_next() -> DehazeModel:
    """The default network in small, said to do something everywhere."""
    torch.manual_seed(0)
    shape = replace(DEFAULT, patch=128, widths=(8, 16, 16, 16), down_blocks=(1, 1, 1, 1), dim=16, wide_dim=16)
    model = DehazeXLS(replace(shape, encoder_widths=(8, 8, 8), token_dim=8, scene_dim=8, latents=4))
    for name, weight in model.named_parameters():
        if name.startswith("decoder.heads"):
            torch.nn.init.normal_(weight, std=0.05)
    return model.eval()


def fast() -> DehazeModel:
    """The fast network, as it comes."""
    return load(bundled("mgbl-s"), "mgbl-s").model


MODELS = {"published": tiny_paper, "default": small_next, "fast": fast}


def dehazed(image: NDArray[np.generic], model: DehazeModel, **options: object) -> tuple[Picture, Report]:
    """A picture dehazed by the engine, and what it tells."""
    nodata, watch = options.pop("nodata", None), options.pop("watch", None)
    reader = ArrayReader(image, nodata=nodata)  # type: ignore[arg-type]
    writers: list[ArrayWriter] = []

    def make_writer() -> ArrayWriter:
        writers.append(ArrayWriter(reader.info, "hwc"))
        return writers[-1]

    report = run(reader, make_writer, model, EngineOptions(**options), watch)  # type: ignore[arg-type]
    return writers[-1].array, report


def on_both(image: NDArray[np.generic], make: Callable[[], DehazeModel], **options: object) -> int:
    """The largest difference between a simulated device and the processor, in float32, of 255 levels."""
    expected, _ = dehazed(image, make(), **{**options, "device": "cpu", "precision": "fp32"})
    with simulated_cuda(count=2):
        output, report = dehazed(image, make(), **{"device": "cuda:0", **options})
    assert report.device.startswith("cuda:0") and not report.fallbacks
    changed = np.abs(expected.astype(float) - image).max()
    assert changed > 2 * np.iinfo(image.dtype).max / 255, "the model does something"
    worst = np.abs(expected.astype(float) - output).max()
    return int(np.ceil(worst * 255 / np.iinfo(image.dtype).max))


class TestTheSimulation:
    """What CUDA would refuse, the simulation does."""

    def test_devices_do_not_meet(self, machine: Machine) -> None:
        here = torch.ones(4, device="cuda:0")
        for strange in (torch.ones(4), torch.ones(4, device="cuda:1")):
            with pytest.raises(RuntimeError, match="same device"):
                here + strange
        assert (here + torch.tensor(1.0)).sum().item() == 8  # single numbers may
        assert here.device == torch.device("cuda", 0)
        with pytest.raises(TypeError, match="cpu"):
            here.numpy()

    def test_memory_is_counted_by_storage_and_ends(self) -> None:
        with simulated_cuda(capacity=10 << 20, count=2) as machine:
            held = torch.zeros(1024, 1024, device="cuda:1")
            view = held[10:20].T
            assert machine.live_bytes == [0, 4 << 20]
            held = held + 1
            assert machine.live_bytes == [0, 8 << 20]  # the view holds what it is of
            with pytest.raises(torch.OutOfMemoryError):
                held + 1
            del view
            assert machine.live_bytes == [0, 4 << 20] and machine.peak_bytes == [0, 8 << 20]
            assert (held + 1).sum().item() == 2 << 20

    def test_streams_wait_for_each_other(self, machine: Machine) -> None:
        made = torch.ones(4, device="cuda:0")
        side = torch.cuda.Stream("cuda:0")
        with torch.cuda.stream(side), pytest.raises(StreamError, match="not written"):
            made.clone()
        side.wait_stream(torch.cuda.current_stream("cuda:0"))
        with torch.cuda.stream(side):
            copy = made.clone()
        with pytest.raises(StreamError, match="still be reading"):
            made.add_(1)
        torch.cuda.current_stream("cuda:0").wait_stream(side)
        made.add_(1)
        assert copy.sum().item() == 4
        copy.record_stream(torch.cuda.current_stream("cuda:0"))

    def test_the_host_waits_for_copies(self, machine: Machine) -> None:
        pinned = torch.empty(4, pin_memory=True)
        pinned.copy_(torch.ones(4, device="cuda:0"), non_blocking=True)
        with pytest.raises(StreamError, match="being copied to"):
            pinned.sum()
        with pytest.raises(StreamError, match="being copied to"):
            pinned.numpy()
        torch.cuda.synchronize("cuda:0")
        assert pinned.sum() == 4
        sent = pinned.to("cuda:0", non_blocking=True)
        with pytest.raises(StreamError, match="being copied from"):
            pinned.fill_(0)
        assert sent.sum().item() == 4
        pinned.fill_(0)  # the number was waited for

    @pytest.mark.parametrize("recorded", [True, False])
    def test_memory_is_not_freed_under_a_stream_that_uses_it(self, recorded: bool) -> None:
        with nullcontext() if recorded else pytest.raises(StreamError, match="freed"), simulated_cuda():
            made = torch.ones(4, device="cuda:0")
            side = torch.cuda.Stream("cuda:0")
            side.wait_stream(torch.cuda.current_stream("cuda:0"))
            with torch.cuda.stream(side):
                assert (made * 2).sum().item() == 8
            side.clock += 1
            made.memory.read[side] = side.clock  # what is queued there goes on
            if recorded:
                made.record_stream(side)
            del made


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_gives_what_the_processor_gives(name: str, precision: str) -> None:
    # bfloat16 has three bits less than float16; bilinear networks and drawn weights make most of that.
    levels = {"fp32": 1, "fp16": 1, "bf16": 10}[precision]
    assert on_both(picture(200, 260), MODELS[name], precision=precision) <= levels


@pytest.mark.parametrize("mode", ["tile", "downsample", "whole"])
@pytest.mark.parametrize("name", ["default", "fast"])
def test_every_mode_does(name: str, mode: str) -> None:
    assert on_both(picture(200, 260), MODELS[name], mode=InferenceMode(mode)) <= 1


def test_ground_without_data_does() -> None:
    image = picture(200, 260)
    image[:80, :200] = 0
    assert on_both(image, small_next, nodata=0) <= 1


def test_many_bands_of_sixteen_bits_do() -> None:
    assert on_both(picture(200, 300, 5, "uint16"), small_next, all_bands=True) <= 1


def test_two_devices_share_the_work_and_give_the_same() -> None:
    image = picture(200, 260)
    with simulated_cuda(count=2):
        one, _ = dehazed(image, tiny_paper(), device="cuda:0", precision="fp32")
    with simulated_cuda(count=2) as machine:
        two, report = dehazed(image, tiny_paper(), device="cuda:0,cuda:1", precision="fp32")
        assert min(machine.peak_bytes) > 100_000
    assert report.device == "cuda:0,cuda:1"
    assert np.array_equal(one, two)


@pytest.mark.parametrize("skips", ["device", "host", "recompute", "disk"])
def test_wherever_features_wait_the_bits_are_the_same(skips: str, tmp_path: object) -> None:
    image = picture(200, 260)
    overrides = PlanOverrides("device", 2)
    with simulated_cuda():
        expected, _ = dehazed(image, tiny_paper(), device="cuda", precision="fp32", overrides=overrides)
        options = {"device": "cuda", "precision": "fp32", "tmp_dir": str(tmp_path)}
        output, report = dehazed(image, tiny_paper(), overrides=replace(overrides, skips=skips), **options)
    assert report.plan["skips"] == skips
    assert np.array_equal(expected, output)


def test_features_that_nobody_waits_for_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(shelf: PinnedHostCache, ids: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        return tuple(skip.to(device, non_blocking=True) for skip in shelf._skips.pop(ids))

    monkeypatch.setattr(PinnedHostCache, "take", take)
    with simulated_cuda(), pytest.raises(StreamError):
        dehazed(picture(200, 260), tiny_paper(), device="cuda", overrides=PlanOverrides("host", 2))


@pytest.mark.parametrize("allowed", [15, 14])
def test_a_device_that_runs_out_goes_on_with_a_smaller_plan(allowed: int) -> None:
    image = picture(400, 600)
    with simulated_cuda() as machine:
        expected, generous = dehazed(image, tiny_paper(), device="cuda", precision="fp32")
    assert not generous.fallbacks
    # The plan believes in 8 GiB, the device has less than what the run takes.
    with simulated_cuda(capacity=machine.peak_bytes[0] * allowed // 16) as machine:
        options = {"device": "cuda", "precision": "fp32", "max_vram": 8 << 30}
        output, report = dehazed(image, tiny_paper(), **options)
    assert report.fallbacks and all("out of memory while" in told for told in report.fallbacks)
    assert np.array_equal(expected, output)


def small_windows() -> DehazeModel:
    """The published network in small; what its windows keep takes little beside its batches."""
    torch.manual_seed(0)
    return DehazeXL(replace(TINY, window=8)).eval()


def test_a_device_that_runs_out_while_mixing_goes_on_to_the_same_result() -> None:
    image, peaks, last = picture(460, 130), {}, "encode"
    options = {"device": "cuda", "precision": "fp32", "overrides": PlanOverrides(None, 1)}
    options["max_vram"] = 8 << 30  # what the plan believes in

    def watch(now: str, done: int, total: int) -> None:
        nonlocal last
        peaks[last] = max(peaks.get(last, 0), machine.peak_bytes[0])
        machine.peak_bytes[0], last = machine.live_bytes[0], now

    with simulated_cuda() as machine:
        expected, generous = dehazed(image, small_windows(), watch=watch, **options)
    assert not generous.fallbacks
    with simulated_cuda(peaks["bottleneck"] - 512):  # a little less than the run takes in this phase
        output, report = dehazed(image, small_windows(), **options)
    assert report.fallbacks[0].startswith("out of memory while letting all patches see each other")
    assert report.mode == "global"  # nothing was given up that changes what is seen
    assert np.abs(expected.astype(int) - output).max() <= 1


def test_a_device_that_is_too_small_is_told_of() -> None:
    with simulated_cuda(capacity=1 << 20), pytest.raises(DeviceError):
        dehazed(picture(200, 260), tiny_paper(), device="cuda")


def test_an_attribution_map_is_the_same_as_on_the_processor(machine: Machine) -> None:
    side, window = 256, Box(100, 120, 40, 40)
    clear = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    maps = []
    for device in (torch.device("cpu"), torch.device("cuda:0")):
        model = small_next()
        grid = PatchGrid(side, side, model.patch, model.halo, model.overlap)
        part = Part(
            Sight.of(0.5 * clear + 0.4, clear, grid), Box(0, 0, side, side), {0: Detector.of(window, "sum")}
        )
        maps.append(attribute(Network(model.to(device), device), [part], Blend(), (side, side), 1)[0].map)
    assert (maps[0] - maps[1].cpu()).abs().max() < 1e-2 * maps[0].abs().max()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_training_in_half_precision_learns_and_goes_on(machine: Machine, tmp_path: Path) -> None:
    for name in ("town__1.png", "field__1.png"):
        (tmp_path / name).write_bytes(png_encode(np.ascontiguousarray(picture(300, 300))))
    (tmp_path / "data").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "data" / path.name)
    config = TrainConfig(
        data=(str(tmp_path / "data"),),
        out=str(tmp_path / "out"),
        model="mgbl-s",
        steps=2,
        patches=1,
        crop_sides=(1,),
        precision="fp16",
        device="cuda:0",
    )
    losses: list[float] = []
    for steps in (2, 3):
        train(replace(config, steps=steps), lambda progress: losses.append(progress.loss))
    assert len(losses) == 3 and np.isfinite(losses).all()
