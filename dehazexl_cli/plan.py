"""How a scene will be run, decided beforehand by arithmetic alone: no pixels, no device is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dehazexl_cli.errors import DeviceError
from dehazexl_cli.grid import PatchGrid

SkipPolicy = Literal["device", "host", "recompute"]

# Largest first: larger batches keep a device busier, smaller ones need less memory.
GPU_BATCHES = (32, 16, 8, 4, 2, 1)
CPU_BATCHES = (8, 4, 2, 1)
# Exact attention grows with the square of the tokens. On a CPU it is kept to where it costs no more than
# the patches themselves; GPUs take 102,400 tokens exactly in about a second.
EXACT_PATCHES_ON_CPU = 160
# Interpreter, torch, rasterio and what allocators keep, measured.
PROCESS_BYTES = 440 << 20
# GDAL's block cache fills up to this as a scene goes through it.
BLOCK_CACHE_BYTES = 128 << 20


@dataclass(frozen=True)
class Footprint:
    """Bytes a model needs, as it declares them for one dtype."""

    weight_bytes: int
    token_bytes: int  # kept per patch from encoding to the end
    skip_bytes: int  # per patch, waiting between encoding and decoding unless recomputed
    work_bytes: int  # per patch in flight through the encoder or decoder
    mix_bytes: int  # per patch while the mixer runs

    def times(self, groups: int) -> Footprint:
        """What groups of bands need that go through the model one after the other, each kept to the end."""
        return replace(self, token_bytes=groups * self.token_bytes, skip_bytes=groups * self.skip_bytes)


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes a run may use."""

    host_bytes: int
    device_bytes: int | None  # None: the device is the host and shares its memory


@dataclass(frozen=True)
class Wishes:
    """What the user decided; None is left to the plan."""

    skips: SkipPolicy | None = None
    batch: int | None = None
    exact_attention: bool | None = None
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """One way to run a scene, and what it is expected to need."""

    skips: SkipPolicy  # where encoder features wait for the decoder
    batch: int  # patches at a time
    seed: int | None  # of the sampled attention; None: attention is exact
    host_bytes: int
    device_bytes: int  # 0 where the device is the host

    @property
    def attention(self) -> str:
        """The kind of global attention, in a word."""
        return "exact" if self.seed is None else "sampled"

    def fits(self, budget: MemoryBudget) -> bool:
        """Whether the expected need is within the budget."""
        return self.host_bytes <= budget.host_bytes and self.device_bytes <= (budget.device_bytes or 0)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self) | {"attention": self.attention}


def ladder(
    footprint: Footprint, grid: PatchGrid, band_bytes: int, on_gpu: bool, wishes: Wishes
) -> list[Plan]:
    """Every way to run the scene within the wishes, best first.

    `band_bytes` is what one row of patches takes in the source's own numbers.
    """
    policies: Sequence[SkipPolicy] = ("device", "host", "recompute") if on_gpu else ("host", "recompute")
    batches: Sequence[int] = GPU_BATCHES if on_gpu else CPU_BATCHES
    exact = wishes.exact_attention
    if exact is None:
        exact = on_gpu or len(grid) <= EXACT_PATCHES_ON_CPU
    seed = None if exact else wishes.seed
    # A batch larger than a row of patches would be the same plan under another name.
    useful = [batch for batch in batches if batch <= grid.cols] or [1]
    return [
        estimated(footprint, grid, band_bytes, on_gpu, policy, batch, seed)
        for policy in ([wishes.skips] if wishes.skips else policies)
        for batch in ([wishes.batch] if wishes.batch else useful)
    ]


def estimated(
    footprint: Footprint,
    grid: PatchGrid,
    band_bytes: int,
    on_gpu: bool,
    skips: SkipPolicy,
    batch: int,
    seed: int | None,
) -> Plan:
    """The plan with the memory it is expected to need."""
    patches = len(grid)
    waiting = footprint.skip_bytes * patches
    tokens = footprint.token_bytes * patches
    # While the mixer runs no patch is in flight, and while patches run the mixer does not.
    busy = max(footprint.mix_bytes * patches, footprint.work_bytes * batch)
    # The change to a row of patches in float32, and what of it reaches into the next.
    canvas = 2 * 3 * 4 * grid.patch * grid.width
    network = footprint.weight_bytes + tokens + busy + canvas
    # A row being read, one being worked on, one waiting to be written; twice for what is cut and cast.
    rasters = 6 * band_bytes + min(BLOCK_CACHE_BYTES, grid.rows * band_bytes)
    if not on_gpu:
        kept = 0 if skips == "recompute" else waiting
        return Plan(skips, batch, seed, PROCESS_BYTES + rasters + network + kept, 0)
    host = PROCESS_BYTES + rasters + (waiting if skips == "host" else 0)
    return Plan(skips, batch, seed, host, network + (waiting if skips == "device" else 0))


def choose(plans: Sequence[Plan], budget: MemoryBudget) -> int:
    """Index of the first plan that fits the budget; DeviceError that names what would fit if none does."""
    for index, plan in enumerate(plans):
        if plan.fits(budget):
            return index
    host = min(plan.host_bytes for plan in plans)
    device = min(plan.device_bytes for plan in plans)
    if host > budget.host_bytes:
        raise DeviceError(
            f"this scene needs {gigabytes(host)} of memory, and {gigabytes(budget.host_bytes)} may be used",
            f"allow it with --max-ram {gigabytes(host)}, or use a smaller model",
        )
    raise DeviceError(
        f"this scene needs {gigabytes(device)} of device memory, and "
        f"{gigabytes(budget.device_bytes or 0)} may be used",
        f"allow it with --max-vram {gigabytes(device)}, or use --device cpu",
    )


def gigabytes(size: int) -> str:
    """A size as people write it in options, rounded up: 1.3G."""
    return f"{-(-size * 10 // 2**30) / 10:.1f}G"
