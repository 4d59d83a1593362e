"""How a scene will be run, decided beforehand by arithmetic alone: no pixels, no device is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from dehazexl_cli.errors import DeviceError, UsageError
from dehazexl_cli.grid import PatchGrid

SkipPolicy = Literal["device", "host", "disk", "recompute"]

# Largest first: larger batches keep a device busier, smaller ones need less memory.
GPU_BATCHES = (32, 16, 8, 4, 2, 1)
CPU_BATCHES = (8, 4, 2, 1)
# Exact attention grows with the square of the tokens: on a CPU, a third of what the patches themselves take
# at 160 of them, and nearly as much at 361. GPUs take 102,400 tokens exactly in about a second.
EXACT_PATCHES_ON_CPU = 160
# That attend at once where memory is short: enough to keep every core busy, few enough to need nothing.
QUERIES = 2048
# Where fewer would be kept, keeping some features and computing the others again is not worth its trouble.
LEAST_KEPT = 0.1
# What allocators take for the many pieces that wait, measured.
KEPT_SHARE = 1.05
# Interpreter, torch, rasterio and what they load and start at work, measured.
PROCESS_BYTES = 352 << 20
# What of these is loaded or allocated only while a scene runs.
LATER_BYTES = 40 << 20
# What an image in one pass takes as pixels: itself, its patches before and after, their sum, the change.
PASS_BYTES = 7 * 3 * 4  # per pixel
# Pixels finished at a time on a GPU, and what each takes: as shown, as stored, and the steps between.
FINISHED_ON_GPU = 2**19
FINISH_BYTES = 8 * 3 * 4
FINE_BYTES = 10 << 30  # below, sizes are told in megabytes


@dataclass(frozen=True)
class Footprint:
    """Bytes a model needs, as it declares them for one dtype."""

    weight_bytes: int
    token_bytes: int  # kept per patch from encoding to the end
    skip_bytes: int  # per patch, waiting between encoding and decoding unless recomputed
    work_bytes: int  # per patch in flight through the encoder or decoder: the tensors there at once
    bottleneck_bytes: int  # per patch while the mixer runs
    bottleneck_part_bytes: int | None = (
        None  # the same where a part of the queries attends at a time; None: cannot
    )
    bottleneck_sampled_bytes: int | None = None  # the same with sampled attention; None: it has no such form
    bottleneck_fixed_bytes: int = 0  # while the mixer runs, however large the scene
    bottleneck_fixed_patches: int = 0  # of scenes of fewer patches these are less, in proportion
    bottleneck_pilot_bytes: int = 0  # beside that while attention is sampled: what a pilot of queries hears
    bottleneck_copied_bytes: int = (
        0  # per patch of tokens whose place a mixer takes that spares memory: on the host
    )
    kernel_bytes: int = 0  # that libraries keep for its layers on a CPU: compiled code, packed weights
    freed_bytes: int = 0  # per patch in flight, that the C library keeps on a CPU of what was freed

    def times(self, groups: int) -> Footprint:
        """What groups of bands need that go through the model one after the other, each kept to the end."""
        return replace(self, token_bytes=groups * self.token_bytes, skip_bytes=groups * self.skip_bytes)

    def without_bottleneck(self) -> Footprint:
        """What a process needs that leaves the bottleneck to another."""
        sampled = None if self.bottleneck_sampled_bytes is None else 0
        return replace(
            self,
            bottleneck_bytes=0,
            bottleneck_part_bytes=0,
            bottleneck_sampled_bytes=sampled,
            bottleneck_fixed_bytes=0,
            bottleneck_fixed_patches=0,
            bottleneck_pilot_bytes=0,
            bottleneck_copied_bytes=0,
        )


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes a run may use."""

    host_bytes: int
    device_bytes: int | None  # None: the device is the host and shares its memory


@dataclass(frozen=True)
class PlanOverrides:
    """What the user decided; None is left to the plan."""

    skips: SkipPolicy | None = None
    batch: int | None = None
    exact_attention: bool | None = None
    seed: int = 0


@dataclass(frozen=True)
class PlanInputs:
    """Where a scene is run: what its files take in memory, and what there is to use."""

    band_bytes: int  # of one row of patches in the source's own numbers
    on_gpu: bool = False
    budget: MemoryBudget | None = None  # for plans made to measure; None: only those that need no measure
    disk_bytes: int = 0  # free where features may wait; 0: they may not
    process_bytes: int = PROCESS_BYTES
    loading_bytes: int = 0  # held before anything else is, while a weight file is read
    cache_bytes: int = 0  # what the library that reads and writes files may keep of them
    held_bytes: int = 0  # of the result, where it is an array and no file
    replicas: int = 1  # of the model, each with a batch of its own in flight
    groups: int = 1  # of bands, each with a change of its own
    tells_haze: bool = False  # whether transmission is blended beside that of the first group
    wanted: tuple[int, int] | None = None  # rows and columns of patches that are written; None: all


@dataclass(frozen=True)
class Plan:
    """One way to run a scene, and what it is expected to need."""

    skips: SkipPolicy  # where encoder features wait for the decoder
    batch: int  # patches at a time
    seed: int | None  # of the sampled attention; None: attention is exact
    host_bytes: int = 0
    device_bytes: int = 0  # 0 where the device is the host
    cached_patches: int | None = None  # whose features wait; the others' are computed again. None: all
    query_chunk: int | None = None  # that attend at once; None: all
    tile: int | None = None  # pixels: the scene is not judged as one, but by tiles of this side
    patch_phase_bytes: int = 0  # of the above, where the network runs: while patches are encoded and decoded
    bottleneck_phase_bytes: int = 0  # and while they are mixed
    disk_bytes: int = 0  # of features that wait in a file

    @property
    def attention(self) -> str:
        """The kind of global attention, in a word."""
        return "exact" if self.seed is None else "sampled"

    @property
    def degradation(self) -> int:
        """How far the scene's view of itself is cut to save memory; less is better."""
        return 3 if self.tile else 2 if self.seed is not None else 1 if self.query_chunk else 0

    def fits(self, budget: MemoryBudget) -> bool:
        """Whether the expected need is within the budget."""
        return self.host_bytes <= budget.host_bytes and self.device_bytes <= (budget.device_bytes or 0)

    def needs(self, phase: str) -> int:
        """Bytes expected in a phase of the run, where the network runs; or on disk, for "disk"."""
        if phase == "disk":
            return self.disk_bytes
        return (
            self.bottleneck_phase_bytes if phase == "bottleneck" and not self.tile else self.patch_phase_bytes
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self) | {"attention": self.attention}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that is told in a report."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def candidate_plans(
    footprint: Footprint, grid: PatchGrid, setting: PlanInputs, overrides: PlanOverrides
) -> list[Plan]:
    """Every way to run the scene as one within the overrides, best first."""
    rungs = CandidatePlans(footprint, grid, setting, overrides)
    return [*rungs.all_kept(), *rungs.some_kept(), *rungs.none_kept(), *rungs.sampled_at_last()]


@dataclass(frozen=True)
class CandidatePlans:
    """The rungs of a ladder, by where the encoder's features wait."""

    footprint: Footprint
    grid: PatchGrid
    setting: PlanInputs
    overrides: PlanOverrides

    @cached_property
    def batches(self) -> list[int]:
        """Patches at a time, most first."""
        if self.overrides.batch:
            return [self.overrides.batch]
        sizes = GPU_BATCHES if self.setting.on_gpu else CPU_BATCHES
        # A batch larger than a row of patches would be the same plan under another name.
        return [size for size in sizes if size <= self.grid.cols] or [1]

    @cached_property
    def exact(self) -> bool:
        """Whether attention is to be exact."""
        if self.footprint.bottleneck_sampled_bytes is None:
            return True
        if self.overrides.exact_attention is not None:
            return self.overrides.exact_attention
        return self.setting.on_gpu or len(self.grid) <= EXACT_PATCHES_ON_CPU

    def all_kept(self) -> Iterator[Plan]:
        """Features of all patches wait, on the fastest memory first."""
        for policy in self._policies():
            for form in self._forms():
                yield from (self._plan(replace(form, skips=policy, batch=size)) for size in self.batches)

    def some_kept(self) -> Iterator[Plan]:
        """Features of as many patches wait as the budget has room for."""
        if self.overrides.skips or self.setting.budget is None or not self.footprint.skip_bytes:
            return
        for form in self._forms():
            made = [self._made_to_measure(form, size) for size in self.batches]
            yield from [plan for plan in made if plan is not None][:1]

    def none_kept(self) -> Iterator[Plan]:
        """All features are computed again."""
        if self.overrides.skips == "recompute" or (
            self.overrides.skips is None and self.footprint.skip_bytes
        ):
            for form in self._forms():
                yield from (self._plan(replace(form, batch=size)) for size in self.batches)

    def sampled_at_last(self) -> Iterator[Plan]:
        """Sampled attention where exact attention was meant, for when the device cannot do it after all."""
        has_form = self.footprint.bottleneck_sampled_bytes is not None
        if has_form and self.exact and self.overrides.exact_attention is None:
            policy = self.overrides.skips or ("recompute" if self.footprint.skip_bytes else "host")
            for size in self.batches:
                yield self._plan(Plan(policy, size, self.overrides.seed))

    def _policies(self) -> Sequence[SkipPolicy]:
        """Where all features may wait."""
        if self.overrides.skips:
            return [self.overrides.skips] if self.overrides.skips != "recompute" else []
        found: list[SkipPolicy] = ["device", "host"] if self.setting.on_gpu else ["host"]
        waiting = self.footprint.skip_bytes * most_kept(self.batches[0], self.grid, self.setting)
        if not waiting:
            return found[:1]
        return [*found, "disk"] if waiting <= self.setting.disk_bytes else found

    def _forms(self) -> list[Plan]:
        """The ways to attend, all else being left open."""
        if not self.exact:
            return [Plan("recompute", 0, self.overrides.seed)]
        whole = Plan("recompute", 0, None)
        in_parts = self.footprint.bottleneck_part_bytes is not None
        return [whole, replace(whole, query_chunk=QUERIES)] if in_parts else [whole]

    def _made_to_measure(self, form: Plan, size: int) -> Plan | None:
        budget = self.setting.budget
        assert budget is not None
        bare = self._plan(replace(form, batch=size))
        room: dict[SkipPolicy, int] = {"host": budget.host_bytes - bare.host_bytes}
        if self.setting.on_gpu:
            room["device"] = (budget.device_bytes or 0) - bare.device_bytes
        policy = max(room, key=room.__getitem__)
        cached_patches = int(room[policy] / (KEPT_SHARE * self.footprint.skip_bytes))
        most = most_kept(size, self.grid, self.setting)
        if not bare.fits(budget) or not LEAST_KEPT * most <= cached_patches < most:
            return None
        return self._plan(replace(bare, skips=policy, cached_patches=cached_patches))

    def _plan(self, plan: Plan) -> Plan:
        return estimated(plan, self.footprint, self.grid, self.setting)


def estimated(plan: Plan, footprint: Footprint, grid: PatchGrid, setting: PlanInputs) -> Plan:
    """The plan with the memory it is expected to need."""
    patches = len(grid)
    cached_patches = (
        most_kept(plan.batch, grid, setting) if plan.cached_patches is None else plan.cached_patches
    )
    waiting = int(KEPT_SHARE * footprint.skip_bytes * cached_patches)
    plan = replace(plan, disk_bytes=waiting if plan.skips == "disk" else 0)
    tokens = footprint.token_bytes * patches
    per_patch = (
        footprint.bottleneck_bytes if plan.query_chunk is None else footprint.bottleneck_part_bytes or 0
    )
    if plan.seed is not None and footprint.bottleneck_sampled_bytes is not None:
        per_patch = footprint.bottleneck_sampled_bytes
    fixed = footprint.bottleneck_fixed_bytes * min(patches, footprint.bottleneck_fixed_patches or patches)
    fixed //= footprint.bottleneck_fixed_patches or patches
    # Smaller scenes attend exactly.
    if plan.seed is not None and patches >= footprint.bottleneck_fixed_patches:
        fixed += footprint.bottleneck_pilot_bytes
    # While the bottleneck runs no patch is in flight, and while patches run it does not.
    replicas = 1 if setting.on_gpu else setting.replicas  # each GPU has its own memory
    weights = footprint.weight_bytes * replicas
    always = weights + tokens
    flow = always + for_patches(plan, footprint, grid, setting)
    in_bottleneck = always + per_patch * patches + fixed
    # A row being read, one waiting and one being worked on, each with a copy where gaps are to be filled;
    # what came of one, one that waits to be written and one being written, cut anew into the file's blocks.
    rows = 10 * setting.band_bytes
    files = setting.held_bytes + min(setting.cache_bytes, 2 * grid.rows * setting.band_bytes)
    on_host = waiting if plan.skips == "host" else 0
    copied = (
        0 if plan.seed is None and plan.query_chunk is None else footprint.bottleneck_copied_bytes * patches
    )
    if not setting.on_gpu:
        on_host += waiting if plan.skips == "device" else 0
        lasting = setting.process_bytes + files + footprint.kernel_bytes * replicas
        flow, in_bottleneck = flow + rows + on_host + lasting, in_bottleneck + copied + on_host + lasting
        host, device = max(flow, in_bottleneck, setting.loading_bytes), 0
    else:
        on_device = waiting if plan.skips == "device" else 0
        flow, in_bottleneck = flow + on_device, in_bottleneck + on_device
        host = max(setting.process_bytes + files + max(rows, copied) + on_host, setting.loading_bytes)
        device = max(flow, in_bottleneck)
    return replace(
        plan,
        host_bytes=host,
        device_bytes=device,
        patch_phase_bytes=flow,
        bottleneck_phase_bytes=in_bottleneck,
    )


def for_patches(plan: Plan, footprint: Footprint, grid: PatchGrid, setting: PlanInputs) -> int:
    """Bytes of a batch in flight, or of rows being finished, and of what a row of patches changes."""
    one = 3 + setting.tells_haze
    channels = 3 * setting.groups + setting.tells_haze
    if setting.on_gpu:
        # A row of each group, what of the row before reaches into it, and of it into the next.
        line = 4 * ((grid.cols - 1) * grid.stride + grid.patch)
        buffer = line * (channels * (grid.patch + grid.overlap) + one * grid.overlap)
        return max(footprint.work_bytes * plan.batch, for_finishing(grid, setting)) + buffer
    in_flight = (footprint.work_bytes + footprint.freed_bytes) * plan.batch * setting.replicas
    # A row of each group, and one more for what allocators keep of such sizes, measured.
    return in_flight + 4 * grid.patch * grid.width * (channels + (one if grid.overlap else 0))


def for_finishing(grid: PatchGrid, setting: PlanInputs) -> int:
    """Bytes while rows of patches become rows of the result, which a CPU does in a few small pieces."""
    rows = max(min(grid.stride, grid.height), grid.height - (grid.rows - 1) * grid.stride)
    return FINISH_BYTES * min(FINISHED_ON_GPU, rows * grid.width) if setting.on_gpu else 0


def most_kept(batch: int, grid: PatchGrid, setting: PlanInputs) -> int:
    """Patches whose features wait if there is room: those of batches that reach into what is written."""
    if setting.wanted is None:
        return len(grid)
    rows, cols = setting.wanted
    return rows * min(grid.cols, cols + 2 * (batch - 1))


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


def next_smaller(plans: Sequence[Plan], index: int, phase: str) -> int | None:
    """Index of the plan to go on with when memory ran out in a phase; None if there is none.

    It is the next that needs less there, on the device or on its host, as libraries do not say which ran
    short; and it never takes back what was given up before: a way to attend that has failed fails again.
    """
    failed = plans[index]
    for later in range(index + 1, len(plans)):
        plan = plans[later]
        if plan.degradation < failed.degradation:
            continue
        less = plan.needs(phase) < failed.needs(phase)
        less_on_host = bool(plan.device_bytes) and phase != "disk" and plan.host_bytes < failed.host_bytes
        if less or less_on_host or (phase == "bottleneck" and plan.degradation > failed.degradation):
            return later
    return None


def gigabytes(size: int) -> str:
    """A size as people write it in options, rounded up so that it suffices: 612M, 12.3G."""
    return f"{-(-size // 2**20)}M" if size < FINE_BYTES else f"{-(-size * 10 // 2**30) / 10:.1f}G"


def parse_size(option: str, text: str | None) -> int | None:
    """Bytes of "8G", "512M" or "1.5GB" (powers of 1024); UsageError for anything else."""
    if text is None:
        return None
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(number[-1:], 0)
    try:
        size = int(float(number[:-1] if unit else number) * 2**unit)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"{option} {text!r} is no amount of memory", "write it like 8G or 512M")
    return size
