"""The trainer: AdamW with warm-up and cosine, an average of the weights, checkpoints that resume exactly.

The curriculum goes from single patches (haze as such) to crops of several (what the mixer is for).
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.models import build
from dehazexl_cli.models.base import compose
from dehazexl_cli.models.checkpoint import save
from dehazexl_cli.training.data import Recipe, Sampler, Scene, load_scenes, split
from dehazexl_cli.training.haze import Haze
from dehazexl_cli.training.losses import restoration_loss

FARTHEST = 320  # tokens from the origin up to which position codes are trained: 10240 pixels


class Lesson(NamedTuple):
    """A part of the curriculum."""

    side: int  # patches per side of a crop
    crops: int  # per step
    steps: int


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does."""

    data: tuple[str, ...]
    out: str
    held_out: tuple[str, ...] = ()
    model: str = "dehazexl-s"
    start: str | None = None  # weights to begin from
    lessons: tuple[Lesson, ...] = (Lesson(1, 12, 3000), Lesson(2, 3, 800), Lesson(3, 1, 400))
    rate: float = 8e-4
    warm_up: int = 150
    weight_decay: float = 0.02
    average: float = 0.998
    frequency_weight: float = 0.05
    clip: float = 1.0
    precision: str = "bf16"  # or "fp32"; weights and their updates are float32 either way
    device: str = "cpu"
    threads: int = 0  # 0 leaves it to torch
    seed: int = 22
    validate_every: int = 250
    checkpoint_every: int = 100
    time_limit: float = math.inf  # seconds
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def steps(self) -> int:
        """Steps of the whole curriculum."""
        return sum(lesson.steps for lesson in self.lessons)

    def lesson(self, step: int) -> Lesson:
        """The lesson that a step belongs to."""
        for lesson in self.lessons:
            if step < lesson.steps:
                return lesson
            step -= lesson.steps
        return self.lessons[-1]

    def rate_at(self, step: int) -> float:
        """Learning rate: linear warm-up, then a cosine down to a hundredth."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        share = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


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
    return Trainer(config).run(show)


class Trainer:
    """One run in one folder; made anew from the folder's checkpoint, it goes on where that ended."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        if config.threads:
            torch.set_num_threads(config.threads)
        training, validation = split(load_scenes([Path(d) for d in config.data]), config.held_out)
        if not training:
            raise InputError("every image is held out for validation", "hold out fewer name prefixes")
        self.sampler = Sampler(training, config.recipe, config.seed)
        self.trials = validation_pairs(validation)
        torch.manual_seed(config.seed)
        self.model = build(config.model).to(config.device).train()
        self.average = build(config.model).to(config.device).eval()
        self.step = 0
        self.seconds = 0.0
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self._begin()

    def run(self, show: Callable[[Progress], None]) -> Path:
        """Train until the curriculum or the time is over."""
        config = self.config
        began = time.monotonic()
        waiting = 0.0
        with ThreadPoolExecutor(1) as ahead:
            samples = ahead.submit(self._samples, self.step)
            while self.step < config.steps and time.monotonic() - began < config.time_limit:
                started = time.monotonic()
                hazy, clear = samples.result()
                samples = ahead.submit(self._samples, self.step + 1)
                waiting += time.monotonic() - started
                loss = self._learn(hazy.to(config.device), clear.to(config.device))
                self.seconds += time.monotonic() - started
                self.step += 1
                metrics = None
                if self.trials and (self.step % config.validate_every == 0 or self.step == config.steps):
                    metrics = self.validate()
                share = waiting / (time.monotonic() - began)
                show(Progress(self.step, config.steps, loss, config.rate_at(self.step - 1), share, metrics))
                self._log(loss, metrics)
                if self.step % config.checkpoint_every == 0:
                    self.checkpoint()
        self.checkpoint()
        return self.export()

    def _samples(self, step: int) -> tuple[Tensor, Tensor]:
        lesson = self.config.lesson(step)
        return self.sampler.batch(step, lesson.crops, lesson.side * self.model.patch)

    def _learn(self, hazy: Tensor, clear: Tensor) -> float:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate_at(self.step)
        rng = np.random.default_rng((config.seed, self.step, 0xC0DE))
        down, right = (32 * int(rng.integers(FARTHEST)) for _ in range(2))
        with autocast(config):
            output = compose(self.model, hazy, origin=(down, right))
        loss = restoration_loss(output, clear, config.frequency_weight)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if torch.isfinite(norm):  # one bad batch is not to spoil the run
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        for mean, current in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(current, 1 - keep)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Mean PSNR, dB, on held-out scenes: hazy input, output, and haze-free input against its output."""
        sums = dict.fromkeys(("hazy", "output", "clear"), 0.0)
        with autocast(self.config):
            for hazy, clear in self.trials:
                hazy, clear = hazy.to(self.config.device), clear.to(self.config.device)
                sums["hazy"] += psnr(hazy, clear)
                sums["output"] += psnr(self.average(hazy), clear)
                sums["clear"] += psnr(self.average(clear), clear)
        return {key: value / len(self.trials) for key, value in sums.items()}

    def checkpoint(self) -> None:
        """Write all that is needed to go on exactly: samples follow from the step's number."""
        content = {
            "name": self.config.model,
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "config": config_text(self.config),
        }
        temporary = self.out / ".checkpoint.part"
        torch.save(content, temporary)
        temporary.replace(self.out / "checkpoint.pth")

    def export(self) -> Path:
        """Write the averaged weights as a file that `dehazexl run --weights` takes."""
        path = self.out / f"{self.config.model}.safetensors"
        settings = asdict(self.config) | {"data": [Path(d).name for d in self.config.data]}
        about = {
            "training": {key: value for key, value in settings.items() if key not in ("out", "start")},
            "steps": self.step,
            "seconds": round(self.seconds),
            "metrics": self.validate() if self.trials else {},
        }
        save(path, self.average, self.config.model, about, torch.float16)
        return path

    def _begin(self) -> None:
        path = self.out / "checkpoint.pth"
        if path.exists():
            content = torch.load(path, map_location=self.config.device, weights_only=True)
            if content["config"] != config_text(self.config):
                raise UsageError(
                    f"{self.out} holds a run with other settings",
                    "repeat its settings, or name another --out",
                )
            self.model.load_state_dict(content["model"])
            self.average.load_state_dict(content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.step, self.seconds = content["step"], content["seconds"]
        else:
            if self.config.start:
                from dehazexl_cli.models.checkpoint import load

                state = load(Path(self.config.start), self.config.model).model.state_dict()
                self.model.load_state_dict(state)
            self.average.load_state_dict(self.model.state_dict())

    def _log(self, loss: float, metrics: dict[str, float] | None) -> None:
        path = self.out / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("step", "seconds", "rate", "loss", "hazy", "output", "clear"))
            values = [f"{metrics[key]:.3f}" for key in ("hazy", "output", "clear")] if metrics else [""] * 3
            rate = self.config.rate_at(self.step - 1)
            writer.writerow((self.step, f"{self.seconds:.1f}", f"{rate:.3e}", f"{loss:.5f}", *values))


def validation_pairs(scenes: Sequence[Scene], per_source: int = 7) -> list[tuple[Tensor, Tensor]]:
    """Fixed pairs (hazy, clear) [1, 3, ≤ 768, ≤ 768], as many from each source, each under its own sky."""
    pairs = []
    for number, scene in enumerate(thinned(scenes, per_source)):
        _, full_height, full_width = scene.pixels.shape
        height, width = min(768, full_height), min(768, full_width)
        top, left = (full_height - height) // 2, (full_width - width) // 2
        clear = scene.pixels[:, top : top + height, left : left + width] / np.float32(255)
        haze = Haze.draw(np.random.default_rng((1, number)), max(height, width))
        hazy = (haze.apply(clear, Box(0, 0, height, width)) * 255).round() / 255
        pairs.append((torch.from_numpy(hazy)[None], torch.from_numpy(clear)[None]))
    return pairs


def thinned(scenes: Sequence[Scene], per_source: int) -> list[Scene]:
    """At most so many scenes of each source, evenly chosen."""
    chosen: list[Scene] = []
    for source in sorted({scene.source for scene in scenes}):
        same = [scene for scene in scenes if scene.source == source]
        count = min(per_source, len(same))
        chosen += [same[i * len(same) // count] for i in range(count)]
    return chosen


def psnr(output: Tensor, clear: Tensor) -> float:
    """Peak signal-to-noise ratio, dB, of images in [0, 1], the output clamped; at most 100."""
    error = (output.float().clamp(0, 1) - clear).square().mean().item()
    return -10 * math.log10(max(error, 1e-10))


def autocast(config: TrainConfig) -> torch.autocast:
    """The context in which networks compute at the configured precision."""
    device = torch.device(config.device).type
    return torch.autocast(device, torch.bfloat16, enabled=config.precision != "fp32")


def config_text(config: TrainConfig) -> str:
    """The settings that must not change between the pieces of one run."""
    values: dict[str, Any] = asdict(config)
    for free in (
        "data",
        "out",
        "start",
        "device",
        "threads",
        "time_limit",
        "validate_every",
        "checkpoint_every",
    ):
        values.pop(free)
    return repr(sorted(values.items()))
