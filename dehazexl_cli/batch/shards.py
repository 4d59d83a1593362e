"""A batch in parts of about equal size, each for a task of its own; clusters say which task this is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.errors import UsageError

WHOLE = "give --shard i/n, or --shard 1/1 for all scenes"


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1."""

    index: int
    count: int
    origin: str = "--shard"  # what said so

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def choose(self, scenes: Sequence[Scene]) -> list[Scene]:
        """This part of the scenes, in their order.

        The largest is dealt first, each to the part that has least so far; so all parts must be shown the
        same scenes, and then each scene is in exactly one.
        """
        loads = [0] * self.count
        mine = set()
        for scene in sorted(scenes, key=lambda scene: (-scene.size, str(scene.target))):
            # One more byte for each: scenes of unknown size are dealt out by number.
            part = loads.index(min(loads))
            loads[part] += scene.size + 1
            if part == self.index - 1:
                mine.add(scene)
        return [scene for scene in scenes if scene in mine]


def choose_shard(text: str | None, environment: Mapping[str, str], named: int = 0) -> Shard | None:
    """The part that is wanted, "3/8" or "/8" with its number from the cluster; None for all scenes.

    Without a text, the part that SLURM, AWS Batch or PBS has this task do, unless so many scenes were `named`
    one by one that they are its own. Raises UsageError for a part that is none, or where the cluster does not
    tell enough.
    """
    if text is None:
        return None if are_own(named, environment) else of_cluster(environment)
    match = re.fullmatch(r"(\d*)/(\d+)", text)
    if not match or not int(match[2]):
        raise UsageError(f"--shard {text!r} is no part", "write it like 3/8: the third of eight")
    count = int(match[2])
    if not match[1]:
        return numbered(count, environment)
    if not 1 <= int(match[1]) <= count:
        raise UsageError(f"--shard {text}: there are parts 1 to {count}", "count from 1")
    return Shard(int(match[1]), count)


def are_own(named: int, environment: Mapping[str, str]) -> bool:
    """Tell whether scenes that were named one by one are this task's alone: one, or fewer than tasks."""
    tasks = [environment.get(name, "") for name in ("SLURM_ARRAY_TASK_COUNT", "AWS_BATCH_JOB_ARRAY_SIZE")]
    return named == 1 or any(0 < named < int(count) for count in tasks if count.isdecimal())


def of_cluster(environment: Mapping[str, str]) -> Shard | None:
    """The part that a task of an array is to do; None outside of arrays."""
    if "SLURM_ARRAY_TASK_ID" in environment:
        return of_slurm(environment)
    if "AWS_BATCH_JOB_ARRAY_INDEX" in environment:
        index, count = numbers(environment, "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE")
        return Shard(index + 1, count, "AWS_BATCH_JOB_ARRAY_INDEX")
    for name in ("PBS_ARRAY_INDEX", "PBS_ARRAYID"):
        if name in environment:
            raise UsageError(
                f"{name} says which task of an array this is, but PBS does not say of how many",
                "give --shard /N with the number of tasks, or --shard 1/1 for all scenes",
            )
    return None


def of_slurm(environment: Mapping[str, str]) -> Shard:
    """The part of a SLURM task: `--array=0-7`, `1-8` and `0-14:2` are all eight parts."""
    names = [f"SLURM_ARRAY_TASK_{key}" for key in ("ID", "COUNT", "MIN")]
    task, count, first = numbers(environment, *names)
    step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1") or "1")
    last = int(environment.get("SLURM_ARRAY_TASK_MAX", "") or first + (count - 1) * step)
    if last != first + (count - 1) * step or (task - first) % step:
        raise UsageError("the tasks of this SLURM array are not numbered evenly", WHOLE)
    return Shard((task - first) // step + 1, count, "SLURM_ARRAY_TASK_ID")


def numbered(count: int, environment: Mapping[str, str]) -> Shard:
    """The part of `count` whose number the cluster says, wherever it begins to count."""
    names = ("SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX", "PBS_ARRAY_INDEX", "PBS_ARRAYID")
    for name in names:
        if name in environment:
            # Of `count` numbers that follow each other, each has another remainder.
            return Shard(numbers(environment, name)[0] % count + 1, count, name)
    raise UsageError(f"--shard /{count}: no cluster says which part this is", "write it like 3/8")


def numbers(environment: Mapping[str, str], *names: str) -> list[int]:
    """Variables that are to be numbers."""
    for name in names:
        if not environment.get(name, "").isdecimal():
            raise UsageError(f"{name} is {environment.get(name, 'missing')!r}, no number", WHOLE)
    return [int(environment[name]) for name in names]
