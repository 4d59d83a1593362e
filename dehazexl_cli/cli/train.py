"""`dehazexl train`: train a model on clear images, hazed on the fly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dehazexl_cli.cli import console, options
from dehazexl_cli.errors import UsageError

if TYPE_CHECKING:
    from dehazexl_cli.training.loop import Lesson, Progress

SECONDS = {"s": 1, "m": 60, "h": 3600}


def train(
    data: Annotated[list[Path], typer.Option("--data", help="A folder of clear 8-bit images; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="Where checkpoint, log and weights go.")],
    held_out: Annotated[
        list[str] | None,
        typer.Option("--hold-out", metavar="PREFIX", help="Validate on files so named; repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The network to train.")] = "dehazexl-s",
    start: Annotated[Path | None, typer.Option("--start", help="Weights to begin from.")] = None,
    lessons: Annotated[
        str,
        typer.Option(metavar="SIDExCROPSxSTEPS,…", help="Crop side in patches, crops per step, steps."),
    ] = "1x12x3400,2x3x1000,3x1x500",
    rate: Annotated[float, typer.Option("--rate", help="Largest learning rate.")] = 8e-4,
    precision: options.PrecisionName = options.Precision.bf16,
    device: options.Device = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 leaves it to PyTorch.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and samples.")] = 22,
    validate_every: Annotated[int, typer.Option("--validate-every", metavar="STEPS")] = 500,
    time_limit: Annotated[
        str | None, typer.Option("--time-limit", metavar="9m", help="Stop then; the same command resumes.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Train on folders of clear images and write OUT/MODEL.safetensors for `dehazexl run --weights`.

    A run that was stopped goes on from its last checkpoint when the same command is given again.

    Example: dehazexl train --data scenes --hold-out town --out runs/first --time-limit 2h
    """
    limit = float("inf") if time_limit is None else parse_duration(time_limit)
    curriculum = parse_lessons(lessons)
    if precision is options.Precision.fp16:
        raise UsageError("training in fp16 overflows", "use --precision bf16 or fp32")
    from dehazexl_cli.engine.transfer import choose_device
    from dehazexl_cli.training import loop

    config = loop.TrainConfig(
        data=tuple(map(str, data)),
        out=str(out),
        held_out=tuple(held_out or ()),
        model=model,
        start=None if start is None else str(start),
        lessons=curriculum,
        rate=rate,
        precision=precision.value,
        device=str(choose_device(device)),
        threads=threads,
        seed=seed,
        validate_every=validate_every,
        time_limit=limit,
    )
    typer.echo(loop.train(config, (lambda progress: None) if quiet else show))


def show(progress: Progress) -> None:
    """A line every 20 steps, and one for each validation."""
    if progress.step % 20 == 0:
        console.say(
            f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}, rate {progress.rate:.1e}, "
            f"{progress.waiting_share:.0%} of the time waiting for samples"
        )
    if progress.metrics is not None:
        hazy, output, clear = (progress.metrics[key] for key in ("hazy", "output", "clear"))
        console.say(f"validation: hazy {hazy:.2f} dB -> output {output:.2f} dB; haze-free {clear:.2f} dB")


def parse_duration(text: str) -> float:
    """Seconds of "9m", "1.5h" or "90s"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not match:
        raise UsageError(f"--time-limit {text!r} is no duration", "write it like 90s, 9m or 2h")
    return float(match[1]) * SECONDS[match[2]]


def parse_lessons(text: str) -> tuple[Lesson, ...]:
    """The curriculum of "1x12x3400,2x3x1000"."""
    from dehazexl_cli.training.loop import Lesson

    parts = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", part.strip()) for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--lessons {text!r} is no curriculum", "write it like 1x12x3400,2x3x1000")
    return tuple(Lesson(*map(int, part.groups())) for part in parts if part)
