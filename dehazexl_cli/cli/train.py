"""`dehazexl train`: train a model on pairs, or on clear images that are hazed on the fly."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import UsageError
from dehazexl_cli.signals import hint_when_stopped

if TYPE_CHECKING:
    from rich.table import Table

    from dehazexl_cli.training.loop import Progress

SECONDS = {"s": 1, "m": 60, "h": 3600}


@shares("device")
def train(
    data: Annotated[
        list[Path], typer.Option("--data", help="Clear 8-bit images, or folders of pairs; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where checkpoint, log and weights go.")],
    held_out: Annotated[
        list[str] | None,
        typer.Option("--hold-out", metavar="PREFIX", help="Validate on files so named; repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The network to train.")] = "dehazexl-s",
    start: Annotated[Path | None, typer.Option("--start-from", help="Weights to begin from.")] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Steps in all; a run may be made longer.")
    ] = 60_000,
    patches: Annotated[int, typer.Option("--patches", min=1, help="Patches per step, about.")] = 16,
    crop_sides: Annotated[
        str,
        typer.Option("--crop-sides", metavar="1,2,2,3", help="Of crops, in patches; each step draws one."),
    ] = "1,2,2,3",
    rate: Annotated[float, typer.Option("--rate", help="Largest learning rate.")] = 2e-4,
    precision: Annotated[
        options.Precision, typer.Option("--precision", help="What the network computes in.")
    ] = options.Precision.bf16,
    *,
    shared: Shared,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 leaves it to PyTorch.")] = 0,
    frequency_weight: Annotated[
        float, typer.Option("--frequency-weight", help="Of the spectrum's error in the loss.")
    ] = 0.05,
    cell_weight: Annotated[
        float, typer.Option("--cell-weight", help="Of the mean colours of 32 x 32 pixels in the loss.")
    ] = 0.3,
    seam_weight: Annotated[
        float, typer.Option("--seam-weight", help="Of steps between patches in the loss.")
    ] = 0.0,
    knee: Annotated[
        float,
        typer.Option("--knee", help="Error of an image from which on only its logarithm counts; 0: none."),
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and samples.")] = 22,
    validate_every: Annotated[int, typer.Option("--validate-every", metavar="STEPS")] = 500,
    time_limit: Annotated[
        str | None, typer.Option("--time-limit", metavar="9m", help="Stop then; the same command resumes.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a model and write OUT/MODEL.safetensors for `dehazexl run --weights`.

    A folder of images is taken for clear scenes, which are hazed as training goes; folders inside it for
    pairs, as 8KDehaze, O-HAZE and others lay them out. A run that was stopped goes on from its last
    checkpoint when the same command is given again. Several GPUs: torchrun --nproc-per-node N -m
    dehazexl_cli train …

    Example: dehazexl train --data scenes --hold-out town --out runs/first --time-limit 2h
    """
    limit = float("inf") if time_limit is None else parse_duration(time_limit)
    sides = parse_sides(crop_sides)
    from dehazexl_cli.engine.device import choose_device
    from dehazexl_cli.training import loop
    from dehazexl_cli.training.losses import Loss

    config = loop.TrainConfig(
        data=tuple(map(str, data)),
        out=str(out),
        held_out=tuple(held_out or ()),
        model=model,
        start=None if start is None else str(start),
        steps=steps,
        patches=patches,
        crop_sides=sides,
        rate=rate,
        loss=Loss(frequency_weight, cell_weight, seam_weight, knee),
        precision=precision.value,
        device=str(choose_device(shared.device)),
        threads=threads,
        seed=seed,
        validate_every=validate_every,
        time_limit=limit,
    )
    hint = f"the same command goes on from the last checkpoint in {out}, or begins anew if there is none yet"
    with hint_when_stopped(hint), shown(quiet) as show:
        path = loop.train(config, show)
    output.put_path(path)


@contextmanager
def shown(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """What is told of each step: a live table on a terminal, lines elsewhere."""
    if quiet:
        yield lambda progress: None
    elif not sys.stderr.isatty():
        yield say_line
    else:
        from rich.console import Console
        from rich.live import Live

        table = LiveTable()
        with Live(console=Console(stderr=True), get_renderable=table.render, refresh_per_second=2):
            yield table.note


def say_line(progress: Progress) -> None:
    """A line every 20 steps, and one for each validation."""
    if progress.step % 20 == 0:
        output.say(
            f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}, rate {progress.rate:.1e}, "
            f"{progress.waiting_share:.0%} of the time waiting for samples"
        )
    if progress.metrics is not None:
        hazy, dehazed, clear = (progress.metrics[key] for key in ("hazy", "output", "clear"))
        output.say(f"validation: hazy {hazy:.2f} dB -> output {dehazed:.2f} dB; haze-free {clear:.2f} dB")


class LiveTable:
    """The run so far: a row for each validation, and where it stands now."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, ...]] = []
        self._now = "starting"
        self._loss: float | None = None  # running mean

    def note(self, progress: Progress) -> None:
        """Take in one step."""
        self._loss = progress.loss if self._loss is None else 0.98 * self._loss + 0.02 * progress.loss
        self._now = (
            f"step {progress.step} of {progress.steps}, loss {self._loss:.4f}, rate {progress.rate:.1e}, "
            f"{progress.waiting_share:.0%} waiting for samples"
        )
        if progress.metrics is not None:
            figures = (f"{progress.metrics[key]:.2f}" for key in ("hazy", "output", "clear"))
            self._rows.append((str(progress.step), f"{self._loss:.4f}", *figures))

    def render(self) -> Table:
        """The table as it is now."""
        from rich.table import Table

        table = Table("step", "loss", "hazy dB", "output dB", "haze-free dB", caption=self._now)
        for row in self._rows:
            table.add_row(*row)
        return table


def parse_duration(text: str) -> float:
    """Seconds of "9m", "1.5h" or "90s"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not match:
        raise UsageError(f"--time-limit {text!r} is no duration", "write it like 90s, 9m or 2h")
    return float(match[1]) * SECONDS[match[2]]


def parse_sides(text: str) -> tuple[int, ...]:
    """The sides of crops in "1,2,2,3"; UsageError for what is no such list."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text.replace(" ", "")):
        raise UsageError(f"--crop-sides {text!r} is no list of patches", "write it like 1,2,2,3")
    return tuple(map(int, text.split(",")))
