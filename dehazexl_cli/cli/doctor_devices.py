"""What checks of `dehazexl doctor` find, and those of GPUs, precisions and processors."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehazexl_cli import processors

if TYPE_CHECKING:
    import torch

LITTLE_DEVICE_MEMORY = 1 << 30  # bytes
GET_TORCH = "see https://pytorch.org/get-started"
# Largest error of a product of matrices that is still arithmetic and no fault, of its largest number. Current
# GPUs convolve float32 in 19 bits.
TOLERANCES = {"fp32": 5e-3, "bf16": 5e-2, "fp16": 1e-2}


class Verdict(StrEnum):
    """How a check ended."""

    passed = "PASS"
    warned = "WARN"
    failed = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""  # what to do, unless it passed
    facts: dict[str, Any] = field(default_factory=dict)  # the same for programs


def passed(name: str, detail: str, facts: dict[str, Any]) -> Finding:
    """All is well."""
    return Finding(name, Verdict.passed, detail, "", facts)


def warned(name: str, detail: str, remedy: str, facts: dict[str, Any]) -> Finding:
    """A run works, though not as it might."""
    return Finding(name, Verdict.warned, detail, remedy, facts)


def failed(name: str, detail: str, remedy: str, facts: dict[str, Any] | None = None) -> Finding:
    """No run works, or none gives what it should."""
    return Finding(name, Verdict.failed, detail, remedy, facts or {})


def check_device(wanted: str) -> Iterator[Finding]:
    """What a run would compute on, and whether a GPU that is there is used."""
    import torch

    from dehazexl_cli.engine.device import choose_device

    chosen = choose_device(wanted)
    driver = nvidia_driver()
    facts = {"device": str(chosen), "driver": driver, "torch_cuda": torch.version.cuda}
    if chosen.type != "cuda":
        detail = f"{chosen}, {processor()}"
        if driver is None or wanted != "auto":
            yield passed("device", detail, facts)
        elif torch.version.cuda is None:
            yield warned(
                "device",
                f"{detail}: there is an NVIDIA GPU (driver {driver}), and this PyTorch is built without CUDA",
                f"install one with it: {GET_TORCH}",
                facts,
            )
        else:
            yield warned(
                "device",
                f"{detail}: there is an NVIDIA driver {driver}, and PyTorch for CUDA "
                f"{torch.version.cuda} finds no GPU (CUDA_VISIBLE_DEVICES is "
                f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r})",
                "see that nvidia-smi works, and that the driver is new enough for that CUDA",
                facts,
            )
        return
    yield from check_gpu(chosen, facts)


def check_gpu(device: torch.device, facts: dict[str, Any]) -> Iterator[Finding]:
    """Whether PyTorch has code for the GPU, and its free memory."""
    import torch

    name = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    free, total = torch.cuda.mem_get_info(device)
    facts |= {"name": name, "capability": [major, minor], "free_bytes": free, "total_bytes": total}
    detail = (
        f"{device}, {name}, compute capability {major}.{minor}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GB free, "
        f"driver {facts['driver'] or 'unknown'}, CUDA {torch.version.cuda}"
    )
    built = [
        arch.removeprefix("sm_").removeprefix("compute_").rstrip("af") for arch in torch.cuda.get_arch_list()
    ]
    if torch.version.hip is None and built and not any(int(a) // 10 == major for a in built if a.isdecimal()):
        yield failed(
            "device",
            f"{detail}: this PyTorch has no code for it (it has {', '.join(built)})",
            f"install a PyTorch for that GPU: {GET_TORCH}",
            facts,
        )
    elif free < LITTLE_DEVICE_MEMORY:
        yield warned("device", f"{detail}: little is free", "see with nvidia-smi who uses it", facts)
    else:
        yield passed("device", detail, facts)


def check_precision(wanted: str) -> Iterator[Finding]:
    """Whether the device computes right in the precisions that networks may use."""
    import torch

    from dehazexl_cli.engine.device import PRECISIONS, choose_device, choose_precision, precision_name

    device = choose_device(wanted)
    auto = precision_name(choose_precision("auto", device))
    for name, dtype in PRECISIONS.items():
        if name == "fp16" and device.type == "cpu":
            continue  # runs refuse it there
        error = arithmetic_error(device, dtype)
        facts = {
            "precision": name,
            "relative_error": error if math.isfinite(error) else None,
            "auto": name == auto,
        }
        detail = f"{name} on {device}: " + ("right" if error < TOLERANCES[name] else "wrong")
        detail += f" to {error:.1g} of the largest number" + (", used by default" if name == auto else "")
        emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        if name == "bf16" and emulated:
            detail += ", but not in its hardware: it is slow there"
        if error < TOLERANCES[name]:
            yield passed("precision", detail, facts)
        else:
            verdict = Verdict.failed if name == auto else Verdict.warned
            yield Finding(
                "precision", verdict, detail, "use another --precision, and update driver and PyTorch", facts
            )


def arithmetic_error(device: torch.device, dtype: torch.dtype) -> float:
    """Largest error of a product and a convolution, of their largest number; inf where one is none."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(96, 96, generator=generator, dtype=torch.float64) for _ in range(2))
    kernel = torch.randn(8, 1, 3, 3, generator=generator, dtype=torch.float64)
    worst = 0.0
    exact = [a @ b, torch.nn.functional.conv2d(a[None, None], kernel)]
    x, y, k = (each.to(device, dtype) for each in (a, b, kernel))
    for right, found in zip(exact, [x @ y, torch.nn.functional.conv2d(x[None, None], k)], strict=True):
        error = (found.double().cpu() - right).abs().max() / right.abs().max()
        worst = max(worst, float(error)) if error.isfinite() else float("inf")
    return worst


def check_processors() -> Iterator[Finding]:
    """Whether as many threads run as there are processors for them."""
    import torch

    allowed, threads = allowed_processors(), torch.get_num_threads()
    facts = {"allowed": allowed, "threads": threads, "in_machine": os.cpu_count()}
    detail = f"{threads} threads on {allowed:g} of {os.cpu_count()} processors, {processor()}"
    if threads > max(1.0, allowed):
        yield warned(
            "processors",
            f"{detail}: threads wait for each other",
            f"set OMP_NUM_THREADS={max(1, int(allowed))}",
            facts,
        )
    else:
        yield passed("processors", detail, facts)


def allowed_processors() -> float:
    """Processors this process may use: by affinity, or less by its control group's quota."""
    allowed = float(processors.count())
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        share, _, period = quota.read_text().partition(" ")
        if share.isdecimal():
            allowed = min(allowed, int(share) / int(period))
    return allowed


def processor() -> str:
    """What PyTorch uses of the processor: AVX2, AVX512, …"""
    import torch

    return f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"


def nvidia_driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    return next((word for word in words if word.replace(".", "").isdecimal() and "." in word), "unknown")
