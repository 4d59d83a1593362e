"""How much memory a run may use: what the user allows, or a share of what is free here and now.

What is free is the least of what the machine, the control groups (version 1 and 2) and the process limits
leave, and what a SLURM job was given: whoever goes beyond any of these is killed.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dehazexl_cli.plan import LATER_BYTES, PROCESS_BYTES, MemoryBudget

FREE_SHARE = 0.8  # of the memory that is free, unless the user says how much
START_BYTES = 240 << 20  # of a process that has loaded its libraries, measured
LOADING_SHARE = 1.45  # of the weights, with what is freed and kept meanwhile, measured
UNLIMITED = 1 << 60  # control groups of version 1 write a number beyond this where there is no limit
# Files that tell a group's limit and what it uses, and the name under which its statistics say how much of
# that are files' pages which the kernel gives up when memory is asked for.
GROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def measure_budget(
    devices: Sequence[torch.device], host_bytes: int | None, device_bytes: int | None
) -> MemoryBudget:
    """What the user allows, or a share of what is free now; of several devices, of the fullest."""
    host = host_bytes or share_of_host()
    if devices[0].type != "cuda":
        return MemoryBudget(host, None)
    vram = device_bytes or int(FREE_SHARE * min(torch.cuda.mem_get_info(device)[0] for device in devices))
    return MemoryBudget(host, vram)


def share_of_host(processes: int = 1, allowed: int | None = None) -> int:
    """What each of so many processes on this machine may use: of what is allowed, or of what is free.

    What is not free because this process holds it, is its own.
    """
    if allowed is not None:
        return allowed // processes
    return int(FREE_SHARE * (free_host_bytes() // processes + resident_bytes()))


def process_bytes(model: nn.Module) -> int:
    """What this process will hold beside what plans reckon: usual for a command, more for a host program."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type == "cpu")
    return max(PROCESS_BYTES, resident_bytes() - weights + LATER_BYTES)


def loading_bytes(model: nn.Module) -> int:
    """What a process holds while it reads a weight file: the weights in float32, and parts of the file."""
    return START_BYTES + int(LOADING_SHARE * 4 * sum(p.numel() for p in model.parameters()))


def free_host_bytes(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Memory this process may still take. `root` is where the system's files lie."""
    limits = [
        *system_free(root),
        *group_free(root),
        *process_free(root),
        *(limit - resident_bytes(root) for limit in slurm_limits(environ)),
    ]
    return max(0, min(limits))


def resident_bytes(root: Path = Path("/")) -> int:
    """Memory that this process holds now; 0 where the system does not tell."""
    return status(root).get("VmRSS", 0)


def trim() -> None:
    """Give back to the system what the C library keeps of freed memory; where it is not glibc, nothing.

    Between the phases of a run hundreds of megabytes would wait for requests of sizes that no longer come.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def system_free(root: Path) -> Iterator[int]:
    """What the machine has: all of it, and as far as the system tells, what is free."""
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = sizes(root / "proc/meminfo")
    if "MemAvailable" in found:
        yield found["MemAvailable"]


def group_free(root: Path) -> Iterator[int]:
    """What each control group that this process is in, and each around it, leaves free."""
    for version, folder in groups(root):
        limit_file, usage_file, cached_name = GROUP_FILES[version]
        try:
            limit, used = (int((folder / name).read_text()) for name in (limit_file, usage_file))
        except (OSError, ValueError):  # no such group here, or no limit ("max")
            continue
        if limit < UNLIMITED:
            yield limit - used + statistics(folder / "memory.stat").get(cached_name, 0)


def groups(root: Path) -> Iterator[tuple[int, Path]]:
    """Folders of the control groups for memory, from this process's own outwards: (version, folder).

    In a container the own group's name may be that on the host, which is not to be seen; then its outermost
    is the container's.
    """
    lines = read(root / "proc/self/cgroup").splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        version = 1 if "memory" in controllers.split(",") else 2
        if version == 2 and controllers:
            continue
        for mount in ["sys/fs/cgroup/memory"] if version == 1 else ["sys/fs/cgroup", "sys/fs/cgroup/unified"]:
            own = Path(name.lstrip("/"))
            for inner in (own, *own.parents) if name != "/" else (Path(),):
                yield version, root / mount / inner


def process_free(root: Path) -> Iterator[int]:
    """What `ulimit -v` and `ulimit -d` leave."""
    try:
        import resource
    except ImportError:  # Windows
        return
    held = status(root)
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY and name in held:
            yield soft - held[name]


def slurm_limits(environ: Mapping[str, str]) -> Iterator[int]:
    """What SLURM gave each task of this job on this machine; it counts in megabytes, 0 is all there is."""
    if "SLURM_JOB_ID" not in environ:
        return
    tasks = max(1, leading(environ, "SLURM_STEP_TASKS_PER_NODE"))
    gpus = len([gpu for gpu in environ.get("SLURM_JOB_GPUS", "").split(",") if gpu])
    for given, times in (
        ("SLURM_MEM_PER_NODE", 1),
        ("SLURM_MEM_PER_CPU", leading(environ, "SLURM_CPUS_ON_NODE")),
        ("SLURM_MEM_PER_GPU", leading(environ, "SLURM_GPUS_ON_NODE") or gpus),
    ):
        megabytes = leading(environ, given) * times
        if megabytes:
            yield (megabytes << 20) // tasks


def leading(environ: Mapping[str, str], name: str) -> int:
    """The number a variable begins with, as in "4(x2)"; 0 if it is not set."""
    found = re.match(r"\d+", environ.get(name, ""))
    return int(found[0]) if found else 0


def status(root: Path) -> dict[str, int]:
    """What the system says of this process, in bytes."""
    return sizes(root / "proc/self/status")


def sizes(path: Path) -> dict[str, int]:
    """The lines "Name:  123 kB" of a file, in bytes; none if there is no such file."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", read(path), re.MULTILINE)
    return {name: int(kilobytes) << 10 for name, kilobytes in found}


def statistics(path: Path) -> dict[str, int]:
    """The lines "name 123" of a file; none if there is no such file."""
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", read(path), re.MULTILINE)}


def read(path: Path) -> str:
    """A small file of the system; empty if there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
