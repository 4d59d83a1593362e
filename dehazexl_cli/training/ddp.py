"""One training run on several GPUs or machines, as `torchrun` starts it; alone, all of this does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def joined(wanted: str) -> Iterator[None]:
    """Inside, the processes that `torchrun` started know each other."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("nccl" if torch.device(wanted).type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # a process that leaves early is taken for a failure, and the others are stopped
    finally:
        dist.destroy_process_group()


def number() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that validates, shows and writes."""
    return number() == 0


def device(wanted: str) -> torch.device:
    """The device of this process: of several GPUs, its own."""
    chosen = torch.device(wanted)
    if chosen.type == "cuda" and dist.is_initialized():
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    return chosen


def any_of(here: bool) -> bool:
    """Whether it is so in any process; all get the same answer, so that all stop at the same step."""
    if not dist.is_initialized():
        return here
    flag = torch.tensor(float(here), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every process the mean of all gradients."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])  # one exchange, not hundreds
    dist.all_reduce(together)
    together /= dist.get_world_size()
    parts = together.split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view_as(gradient))
