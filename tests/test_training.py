"""The trainer resumes bit by bit, learns, keeps validation apart, and writes weights that run."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import TINY
from test_samples import scenes
from torch import Tensor

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.models.base import DehazeModel, forward_in_memory, forward_some_patches
from dehazexl_cli.models.bilateral_grid import BILATERAL_GRID, BilateralGridModel
from dehazexl_cli.models.checkpoint import load
from dehazexl_cli.models.dehazexl import DehazeXL
from dehazexl_cli.models.dehazexl_s import DEFAULT, DehazeXLS
from dehazexl_cli.training.data import Recipe, Sampler, load_scenes, split
from dehazexl_cli.training.loop import TrainConfig, Trainer, config_text, train
from dehazexl_cli.training.losses import Loss
from dehazexl_cli.training.validation import make_pairs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("town__1", "town__2", "field__1"):
        coarse = rng.integers(0, 200, (3, 20, 20), dtype=np.uint8)
        pixels = coarse.repeat(15, 1).repeat(15, 2) + rng.integers(0, 50, (3, 300, 300), dtype=np.uint8)
        with rasterio.open(folder / f"{name}.tif", "w", "GTiff", 300, 300, 3, dtype="uint8") as file:
            file.write(pixels)
    return folder


def config(pictures: Path, out: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        data=(str(pictures),),
        out=str(out),
        held_out=("field",),
        steps=4,
        patches=1,
        crop_sides=(1, 2),
        warm_up=1,
        precision="fp32",
        validate_every=100,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_run_that_was_stopped_ends_with_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    whole = train(config(pictures, tmp_path / "whole"), lambda progress: None)

    def stop(progress: object) -> None:
        if progress.step == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    pieces = config(pictures, tmp_path / "pieces", checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(pieces, stop)
    resumed = train(pieces, lambda progress: None)
    expected = load(whole).model.state_dict()
    for key, value in load(resumed).model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert load(resumed).about["steps"] == 4
    assert "output" in load(resumed).about["metrics"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_folder_of_other_settings_is_not_gone_on_with(pictures: Path, tmp_path: Path) -> None:
    train(config(pictures, tmp_path, time_limit=0.0), lambda progress: None)
    with pytest.raises(UsageError, match="other settings"):
        train(config(pictures, tmp_path, weight_decay=0.5), lambda progress: None)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("model", ["dehazexl-s", "mgbl-s"])
def test_training_lowers_the_error_under_skies_it_did_not_train_on(
    pictures: Path, tmp_path: Path, model: str
) -> None:
    # Few steps: no more than haze to learn.
    recipe = Recipe(
        clear_share=0.0, linear_share=0.0, dark_share=0.0, even_share=0.0, grey_share=0.0, wide_share=0.0
    )
    settings = config(
        pictures, tmp_path, model=model, steps=40, patches=2, crop_sides=(1,), rate=1e-4, recipe=recipe
    )
    trainer = Trainer(settings)
    hazy, clear, _ = trainer.sampler.batch(1000, 24, 256)

    def error() -> float:
        with torch.inference_mode():
            return float((trainer.model(hazy) - clear).abs().mean())

    before = error()
    trainer.run(lambda progress: None)
    assert error() < 0.85 * before


def test_the_learning_rate_warms_up_is_steady_and_falls_to_nothing(pictures: Path, tmp_path: Path) -> None:
    settings = config(pictures, tmp_path, steps=100, warm_up=10, rate=1.0, cool_down=0.2)
    rates = [settings.rate_at(step) for step in (0, 4, 10, 79, 80, 90, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_a_run_can_be_made_longer_while_its_rate_is_steady(pictures: Path, tmp_path: Path) -> None:
    short, long = (config(pictures, tmp_path, steps=n, warm_up=10) for n in (100, 900))
    assert all(short.rate_at(step) == long.rate_at(step) for step in range(65))
    assert config_text(short) == config_text(long)


def test_each_step_takes_about_as_many_patches_in_crops_of_one_of_the_sides(
    pictures: Path, tmp_path: Path
) -> None:
    settings = config(pictures, tmp_path, patches=16, crop_sides=(1, 2, 2, 3, 5))
    drawn = [settings.crops(step) for step in range(1000)]
    assert set(drawn) == {(16, 1), (4, 2), (2, 3), (1, 5)}
    assert 350 < drawn.count((4, 2)) < 450
    assert drawn == [settings.crops(step) for step in range(1000)]


@pytest.mark.parametrize("network", [DehazeXL(TINY), DehazeXLS(DEFAULT), BilateralGridModel(BILATERAL_GRID)])
def test_patches_decoded_alone_are_those_of_the_whole_crop(network: DehazeModel) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    side, origin = network.patch, (64, 320)
    crop = torch.rand(1, 3, 3 * side, 3 * side)
    with torch.no_grad():
        whole = forward_in_memory(network, crop, origin=origin)
        patches = forward_some_patches(network, crop, (7, 0), origin=origin)
    for patch, top, left in zip(patches, (2, 0), (1, 0), strict=True):
        part = (slice(None), slice(top * side, (top + 1) * side), slice(left * side, (left + 1) * side))
        torch.testing.assert_close(patch, whole[0][part], atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_large_crop_teaches_by_some_of_its_patches(pictures: Path, tmp_path: Path) -> None:
    judged: list[torch.Size] = []

    class Watched(Loss):
        def __call__(
            self, output: Tensor, clear: Tensor, patch: int, transmission: Tensor | None = None
        ) -> Tensor:
            judged.append(output.shape)
            assert transmission is not None
            assert output.shape == torch.cat([clear, transmission], dim=1).shape
            return super().__call__(output, clear, patch, transmission)

    settings = config(
        pictures, tmp_path, model="dehazexl-s", steps=2, patches=3, crop_sides=(4,), loss=Watched()
    )
    trainer = Trainer(settings)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.run(lambda progress: None)
    assert judged == [(3, 4, 256, 256)] * 2
    assert any(not torch.equal(p, old) for p, old in zip(trainer.model.parameters(), before, strict=True))


def test_sampling_leaves_the_threads_of_others_alone() -> None:
    sampler = Sampler(scenes(), Recipe(), seed=1)
    within: list[int] = []
    sampler.sample = lambda rng, side: within.append(torch.get_num_threads()) or (torch.zeros(1),) * 3  # type: ignore[method-assign, func-returns-value]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(sampler.batch, 0, 2, 32).result()
            assert thread.submit(torch.get_num_threads).result() == 2
        assert (within, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_validation_scenes_are_not_trained_on() -> None:
    training, validation = split(scenes(), ["b"])
    assert {s.source for s in training} == {"a"}
    assert {s.source for s in validation} == {"b"}
    assert split(scenes(), [])[1] == []


def test_validation_pairs_are_the_same_each_time() -> None:
    for one, other in zip(make_pairs(scenes()), make_pairs(scenes()), strict=True):
        assert torch.equal(one[0], other[0])
        assert not torch.equal(one[0], one[1])


def test_unusable_data_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        load_scenes([tmp_path])
    with pytest.raises(InputError, match="held out"):
        train(config(pictures, tmp_path, held_out=("town", "field")), lambda progress: None)


def write(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", "PNG", pixels.shape[2], pixels.shape[1], 3, dtype="uint8") as file:
        file.write(pixels)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_real_pairs_are_cropped_alike_and_not_hazed_again(tmp_path: Path) -> None:
    clear = np.random.default_rng(0).integers(0, 200, (3, 120, 150), dtype=np.uint8)
    write(tmp_path / "clear" / "a.png", clear)
    for level in (1, 2):
        write(tmp_path / f"cloud_L{level}" / "a.png", clear + np.uint8(20 * level))
    (scene,) = load_scenes([tmp_path])
    assert len(scene.hazy) == 2
    hazy, same, transmission = Sampler([scene], Recipe(clear_share=0.25), seed=0).batch(0, 24, 64)
    steps = {round(float((h - c).mean()) * 255) for h, c in zip(hazy, same, strict=True)}
    assert steps == {0, 20, 40}
    known = [bool(each.isfinite().all()) for each in transmission]
    assert known == [torch.equal(h, c) for h, c in zip(hazy, same, strict=True)]
    assert all((h - c).std() < 1e-3 for h, c in zip(hazy, same, strict=True))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_large_pictures_are_read_crop_by_crop_with_equal_results(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = Sampler(load_scenes([pictures]), Recipe(), seed=3).batch(0, 3, 64)
    monkeypatch.setattr("dehazexl_cli.training.data.IN_MEMORY", 0)
    scenes = load_scenes([pictures])
    assert scenes[0].clear.info.driver == "GTiff"
    for one, other in zip(in_memory, Sampler(scenes, Recipe(), seed=3).batch(0, 3, 64), strict=True):
        assert torch.equal(one, other)


def test_two_processes_learn_what_one_with_twice_the_crops_learns(pictures: Path, tmp_path: Path) -> None:
    """Started as torchrun does; gradients are averaged, so only rounding may differ."""
    common = ["train", "--data", pictures, "--hold-out", "field", "--precision", "fp32", "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for folder, crops, start in (("one", 2, ["-m"]), ("two", 1, launcher)):
        options = ["--out", tmp_path / folder, "--crop-sides", "1", "--patches", crops, "--steps", 2, "-q"]
        command = [sys.executable, *start, "dehazexl_cli", *common, *options]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    first, second = (
        load(tmp_path / folder / "dehazexl-s.safetensors").model.state_dict() for folder in ("one", "two")
    )
    change = max((first[key] - second[key]).abs().max() for key in first)
    assert change < 1e-3


def test_the_loss_counts_pixels_spectrum_and_seams() -> None:
    clear = torch.zeros(1, 3, 8, 8)

    def loss(frequency: float, seam: float, output: Tensor, patch: int = 4) -> float:
        return Loss(frequency, cells=0, seam=seam, knee=0)(output, clear, patch).item()

    assert loss(0, 0, clear + 0.5) == pytest.approx(0.5)
    # A constant error is one Fourier coefficient, 0.5·sqrt(64), of the 8·5·2 real numbers of each band.
    assert loss(1, 0, clear + 0.5) == pytest.approx(0.5 + 4 / 80)
    assert loss(0, 1, clear + 0.5) == pytest.approx(0.5)
    stepped = clear.clone()
    stepped[..., 4:] = 0.5  # right where two of the four patches meet two others
    assert loss(0, 1, stepped) == pytest.approx(0.5 * 0.5**0.5 + 0.5 / 2)
    assert loss(0, 1, stepped, patch=8) == pytest.approx(0.5 * 0.5**0.5)


def test_the_loss_weighs_images_by_their_share_of_error() -> None:
    clear = torch.zeros(2, 3, 8, 8)
    output = (clear + torch.tensor([0.001, 0.4]).view(2, 1, 1, 1)).requires_grad_()
    Loss(0, cells=0, knee=0.05)(output, clear, 8).backward()
    assert output.grad is not None
    light, dense = output.grad.abs().sum((1, 2, 3)).tolist()
    assert light == pytest.approx(0.5 / 1.02, rel=0.01)  # as it is, but for the knee's first bend
    assert dense == pytest.approx(0.5 / 9)
    assert math.isfinite(Loss(1, 1, seam=1)(clear, clear, 4).item())


def test_the_loss_counts_mean_colours_beside_pixels() -> None:
    clear = torch.zeros(1, 3, 64, 64)
    output = clear.clone()
    output[..., ::2] = 0.2
    output[..., 1::2] = -0.2  # no change of any mean
    loss = Loss(0, cells=1, knee=0)
    assert loss(output, clear, 64).item() == pytest.approx(0.2, abs=1e-4)
    assert loss(clear + 0.2, clear, 64).item() == pytest.approx(0.2 + 0.2, abs=1e-4)


def test_the_loss_counts_transmission_where_it_is_told_and_known() -> None:
    clear, known = torch.zeros(2, 3, 8, 8), torch.full((2, 1, 8, 8), 0.5)
    told = torch.cat([clear, known + 0.25], dim=1)
    loss = Loss(0, cells=0, haze=0.1)
    assert loss(told, clear, 8, known).item() == pytest.approx(loss(clear, clear, 8, known).item() + 0.025)
    assert loss(told, clear, 8).item() == loss(clear, clear, 8, known).item()
    half_known = known.clone()
    half_known[0] = torch.nan
    told[0, 3] = 0.0
    assert loss(told, clear, 8, half_known).item() == pytest.approx(
        loss(told[1:], clear[1:], 8, known[1:]).item()
    )
    told.requires_grad_()
    loss(told, clear, 8, torch.full_like(known, torch.nan)).backward()
    assert told.grad is not None
    assert not told.grad[:, 3].any()
