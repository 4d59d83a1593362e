"""The trainer: AdamW at a steady rate that falls at last, an average of the weights, checkpoints that resume.

Each step takes crops of one size, single patches (haze as such) or squares of several (what the bottleneck
is for), drawn at random. A crop of more patches than a step decodes is seen whole and decoded in part. Lines
marked `torchrun` are all that several GPUs need: each process makes its share of a step's samples.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.atomic import replacing
from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models import build
from dehazexl_cli.models.base import cut_batches, forward_in_memory, forward_some_patches
from dehazexl_cli.models.checkpoint import load, save
from dehazexl_cli.models.residual import FixedNormConv2d
from dehazexl_cli.paths import make_folder, require_writable
from dehazexl_cli.training import ddp
from dehazexl_cli.training.data import Recipe, Sample, Sampler, load_scenes, split
from dehazexl_cli.training.losses import Loss
from dehazexl_cli.training.optimizer import make_optimizer, set_rate
from dehazexl_cli.training.validation import ValidationPair, make_pairs, mean_psnr

CHECKPOINT, LOG = "checkpoint.pth", "log.csv"
COLUMNS = ("step", "seconds", "rate", "loss", "hazy", "output", "clear")  # of the log
FARTHEST = 320  # tokens from the origin up to which position codes are trained: 10240 pixels


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does."""

    data: tuple[str, ...]
    out: str
    held_out: tuple[str, ...] = ()
    model: str = "dehazexl-s"
    start: str | None = None  # weights to begin from
    steps: int = 60_000
    patches: int = 16  # decoded per step, about
    crop_sides: tuple[int, ...] = (1, 2, 2, 3)  # of square crops, in patches; each step draws one
    rate: float = 2e-4
    warm_up: int = 200
    cool_down: float = 0.35  # share of all steps, the last, in which the rate falls to nothing
    weight_decay: float = 0.02
    average: float = 0.999
    loss: Loss = field(default_factory=Loss)
    clip: float = 1.0
    precision: str = "bf16"  # or "fp16", "fp32"; weights and their updates are float32 in any case
    device: str = "cpu"
    threads: int = 0  # 0 leaves it to torch
    seed: int = 22
    validate_every: int = 250
    checkpoint_every: int = 100
    time_limit: float = math.inf  # seconds
    recipe: Recipe = field(default_factory=Recipe)

    def crops(self, step: int) -> tuple[int, int]:
        """How many crops a step takes, and their side in patches."""
        side = int(np.random.default_rng((self.seed, step, 0xC409)).choice(self.crop_sides))
        return max(1, round(self.patches / side**2)), side

    def rate_at(self, step: int) -> float:
        """Learning rate: linear warm-up, steady, and half a cosine down at the end.

        While it is steady, it does not depend on how many steps there will be, so a run can be made longer.
        """
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        left = (self.steps - step) / max(1, round(self.cool_down * self.steps))
        return self.rate * (1 - math.cos(math.pi * min(1, left))) / 2


class Progress(NamedTuple):
    """Where a run stands, for whoever shows it."""

    step: int
    steps: int
    loss: float
    rate: float
    waiting_share: float  # of the time, spent waiting for samples
    metrics: dict[str, float] | None  # after a validation


def train(config: TrainConfig, show: Callable[[Progress], None]) -> Path:
    """Train, or go on training, and return the weight file `config.out`/NAME.safetensors."""
    with ddp.joined(config.device):  # torchrun
        return Trainer(config).run(show)


class Trainer:
    """One run in one folder; made anew from the folder's checkpoint, it goes on where that ended."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self._require_room()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = ddp.device(config.device)  # torchrun
        training, validation = split(load_scenes([Path(d) for d in config.data]), config.held_out)
        if not training:
            raise InputError("every image is held out for validation", "hold out fewer name prefixes")
        self.sampler = Sampler(training, config.recipe, config.seed)
        self.trials: list[ValidationPair] = make_pairs(validation)
        torch.manual_seed(config.seed)
        # Convolutions are a third faster in this order of numbers, which changes rounding only.
        self.model = build(config.model).to(self.device).train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
        self.average = build(config.model).to(self.device).eval()
        self.fixed_norm = [layer for layer in self.model.modules() if isinstance(layer, FixedNormConv2d)]
        self.step = 0
        self.seconds = 0.0
        self.optimizer = make_optimizer(self.model, config.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self._begin()

    def run(self, show: Callable[[Progress], None]) -> Path:
        """Train until all steps are taken or the time is over."""
        config = self.config
        began = time.monotonic()
        waiting = 0.0
        with ThreadPoolExecutor(1) as ahead:
            samples = ahead.submit(self._samples, self.step)
            while self.step < config.steps and not ddp.any_of(time.monotonic() - began > config.time_limit):
                started = time.monotonic()
                sample = Sample(*(each.to(self.device) for each in samples.result()))
                samples = ahead.submit(self._samples, self.step + 1)
                waiting += time.monotonic() - started
                loss = self._learn(sample)
                self.seconds += time.monotonic() - started
                self.step += 1
                if ddp.is_first():  # torchrun
                    self._tell(show, loss, waiting / (time.monotonic() - began))
        return self._finish()

    def _samples(self, step: int) -> Sample:
        crops, side = self.config.crops(step)
        first = ddp.number() * crops  # torchrun
        return self.sampler.batch(step, crops, side * self.model.patch, first)

    def _learn(self, sample: Sample) -> float:
        config = self.config
        set_rate(self.optimizer, config.rate_at(self.step))
        rng = np.random.default_rng((config.seed, self.step, 0xC0DE))
        down, right = (32 * int(rng.integers(FARTHEST)) for _ in range(2))
        with self._autocast():
            if sample.hazy[0, 0].numel() > config.patches * self.model.patch**2:
                output, sample = self._decode_some(sample, rng, (down, right))
            else:
                output = forward_in_memory(self.model, sample.hazy, origin=(down, right))
        loss = config.loss(output, sample.clear, self.model.patch, sample.transmission)
        self.scaler.scale(loss).backward()
        ddp.average_gradients(self.model.parameters())  # torchrun
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if self.scaler.is_enabled() or torch.isfinite(norm):  # one bad batch is not to spoil the run
            self.scaler.step(self.optimizer)
            for layer in self.fixed_norm:
                layer.restore_norm()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        return float(loss.detach())

    def _decode_some(
        self, sample: Sample, rng: np.random.Generator, origin: tuple[int, int]
    ) -> tuple[Tensor, Sample]:
        """Some patches of a large crop [1, 3, side, side], as the network made them and as they should be."""
        side = sample.hazy.shape[2]
        count = (side // self.model.patch) ** 2
        ids = rng.choice(count, self.config.patches, replace=False).tolist()
        grid = PatchGrid(side, side, self.model.patch)
        chosen = (cut_batches(each, grid, count)[0].pixels[ids] for each in sample)
        return forward_some_patches(self.model, sample.hazy, ids, origin=origin), Sample(*chosen)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        for mean, current in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(current, 1 - keep)
        for kept, newest in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(newest)

    def _tell(self, show: Callable[[Progress], None], loss: float, waiting_share: float) -> None:
        config = self.config
        metrics = None
        if self.trials and (self.step % config.validate_every == 0 or self.step == config.steps):
            metrics = self.validate()
        rate = config.rate_at(self.step - 1)
        show(Progress(self.step, config.steps, loss, rate, waiting_share, metrics))
        self._log(loss, rate, metrics)
        if self.step % config.checkpoint_every == 0:
            self.checkpoint()

    def validate(self) -> dict[str, float]:
        """Mean PSNR, dB, on held-out scenes: hazy input, output, and haze-free input against its output."""
        with torch.inference_mode(), self._autocast():
            return mean_psnr(self.average, self.trials, self.device)

    def checkpoint(self) -> None:
        """Write all that is needed to go on exactly: samples follow from the step's number."""
        content = {
            "name": self.config.model,
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "config": config_text(self.config),
        }
        with replacing(self.out / CHECKPOINT) as part:
            torch.save(content, part)

    def _finish(self) -> Path:
        path = self.out / f"{self.config.model}.safetensors"
        if ddp.is_first():  # torchrun
            self.checkpoint()
            self._export(path)
        return path

    def _export(self, path: Path) -> None:
        """Write the averaged weights as a file that `dehazexl run --weights` takes."""
        settings = asdict(self.config) | {"data": [Path(d).name for d in self.config.data]}
        about = {
            "training": {key: value for key, value in settings.items() if key not in ("out", "start")},
            "steps": self.step,
            "seconds": round(self.seconds),
            "metrics": self.validate() if self.trials else {},
        }
        save(path, self.average, self.config.model, about, torch.float16)

    def _require_room(self) -> None:
        """Make the folder; OutputError if it cannot be, or holds what this run would damage."""
        make_folder(self.out)
        log = self.out / LOG
        if (self.out / CHECKPOINT).exists():
            return
        require_writable(self.out / f"{self.config.model}.safetensors", False)
        if log.exists() and not log.read_text(errors="replace").startswith(",".join(COLUMNS)):
            raise OutputError(f"{log}: is there, and no log of a training", "name another --out")

    def _begin(self) -> None:
        path = self.out / CHECKPOINT
        if path.exists():
            self._resume(path)
            return
        if self.config.start:
            self.model.load_state_dict(load(Path(self.config.start), self.config.model).model.state_dict())
        self.average.load_state_dict(self.model.state_dict())

    def _resume(self, path: Path) -> None:
        content = torch.load(path, map_location=self.device, weights_only=True)
        if content["config"] != config_text(self.config):
            raise UsageError(
                f"{self.out} holds a run with other settings", "repeat its settings, or name another --out"
            )
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.step, self.seconds = content["step"], content["seconds"]

    def _log(self, loss: float, rate: float, metrics: dict[str, float] | None) -> None:
        path = self.out / LOG
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(COLUMNS)
            values = [f"{metrics[key]:.3f}" for key in ("hazy", "output", "clear")] if metrics else [""] * 3
            writer.writerow((self.step, f"{self.seconds:.1f}", f"{rate:.3e}", f"{loss:.5f}", *values))

    def _autocast(self) -> torch.autocast:
        half = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=self.config.precision != "fp32")


# What may change when a run is gone on with: how far it is to go and how fast, and where it runs.
FREE = {"data", "out", "start", "steps", "rate", "cool_down", "device", "threads", "time_limit"}
FREE |= {"validate_every", "checkpoint_every"}


def config_text(config: TrainConfig) -> str:
    """The settings that must not change between the pieces of one run."""
    values: dict[str, Any] = asdict(config)
    return repr(sorted(item for item in values.items() if item[0] not in FREE))
