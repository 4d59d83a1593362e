"""Which device and precision to use."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dehazexl_cli.errors import DeviceError, UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
