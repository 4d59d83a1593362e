"""Which device and precision to use, and how source numbers become [0, 1] there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from dehazexl_cli.errors import DeviceError, UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Types whose every value float32 cannot hold are worked on in float64.
WIDE = {torch.uint32, torch.int32, torch.float64}
FARTHEST_FLOAT32 = 1e37  # a range; the distance between two numbers of a larger one may be infinite


def choose_device(wanted: str) -> torch.device:
    """The device a user named, or the best one for "auto".

    Raises UsageError for a name that is none, DeviceError for a device that is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"there is no device {wanted!r}", "use auto, cpu, cuda, cuda:1 or mps") from error
    there: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in there:
        raise UsageError(f"device {wanted!r} is not supported", "use auto, cpu, cuda, cuda:1 or mps")
    if not there[device.type]():
        raise DeviceError(
            f"device {wanted!r} is not available here", "use --device auto, or install a PyTorch built for it"
        )
    # Tensors tell their device by its number: "cuda" would be another one than theirs.
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def choose_devices(wanted: str) -> list[torch.device]:
    """The devices of "cuda:0,cuda:1", or the one of a single name; all must be of one kind.

    Raises as `choose_device` does.
    """
    devices = [choose_device(name.strip()) for name in wanted.split(",")]
    if len({device.type for device in devices}) > 1:
        raise UsageError(f"--device {wanted} names devices of several kinds", "name GPUs, or processors")
    return devices


def has_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16 in hardware, by AVX-512 BF16 or AMX.

    Networks here are then 1.2 times as fast in it and more, and without it slower than in float32.
    """
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Choose the dtype networks compute in: fp16 on CUDA, bf16 on CPUs that have it, else fp32."""
    if wanted == "auto":
        if device.type == "cuda":
            return torch.float16
        if device.type == "cpu" and has_bf16():
            return torch.bfloat16
        return torch.float32
    if wanted not in PRECISIONS:
        raise UsageError(f"there is no precision {wanted!r}", f"use auto, {', '.join(PRECISIONS)}")
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is for GPUs; CPUs compute it slowly", "use --precision bf16, fp32 or auto")
    return PRECISIONS[wanted]


def precision_name(dtype: torch.dtype) -> str:
    """The name a user knows a dtype by."""
    return next(name for name, value in PRECISIONS.items() if value == dtype)


class Scaling(Protocol):
    """Which source number is shown to the model as 0, and how many make up the way to 1.

    Numbers for all bands, or tensors [bands, 1, 1] that differ between them.
    """

    @property
    def low(self) -> float | Tensor: ...

    @property
    def scale(self) -> float | Tensor: ...


def to_unit(source: Tensor, levels: Scaling) -> Tensor:
    """Source numbers -> float32 in [0, 1]; what lies outside the range is held at its ends."""
    return as_units(source, levels).clamp(0, 1).float()


def as_units(source: Tensor, levels: Scaling) -> Tensor:
    """Source numbers in units of the range; what lies outside it is below 0 or above 1."""
    return (source.to(arithmetic(source.dtype, levels)) - levels.low) / levels.scale


def arithmetic(dtype: torch.dtype, levels: Scaling) -> torch.dtype:
    """The type in which numbers of a range are computed with: float32 unless they would not fit."""
    far = isinstance(levels.scale, float) and levels.scale > FARTHEST_FLOAT32
    return torch.float64 if far or dtype in WIDE else torch.float32


def to_source(source: Tensor, change: Tensor, levels: Scaling, bits: int | None = None) -> Tensor:
    """Source numbers with a change, in units of [0, 1], added; rounded and held within the source's type.

    The change is added to the original number, so no change gives back every bit, and what lay outside
    the range of the model keeps its distance from it. `bits` are those in use, if fewer than the type has.
    """
    dtype = source.dtype
    wide = arithmetic(dtype, levels)
    result = source.to(wide) + (change.to(wide) * levels.scale).to(wide)
    if dtype.is_floating_point:
        return result.to(dtype)
    limits = torch.iinfo(dtype)
    top = limits.max if bits is None else min(limits.max, 2**bits - 1)
    return result.round().clamp(limits.min, top).to(dtype)
