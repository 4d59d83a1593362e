"""Going on with a run that was killed: only with the same input, weights, options and machine."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dehazexl_cli.config import OF_THE_MACHINE, EngineOptions
from dehazexl_cli.engine.executor import EncodedRow, RowExecutor, SceneContext
from dehazexl_cli.engine.prepared import PreparedRun
from dehazexl_cli.engine.run_checkpoint import RunCheckpoint
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.plan import Plan
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.report import Report


@dataclass(frozen=True)
class Resume:
    """Where what is done is kept, and what it is made of that the engine does not know."""

    folder: str
    identity: Mapping[str, Any]  # "the input", "the weights", … -> what tells one from another


class Resumable:
    """Yields what an earlier run has saved, and saves what another executor computes; see RowExecutor."""

    def __init__(
        self, executor: RowExecutor, checkpoint: RunCheckpoint, scene: Scene, run: RunContext
    ) -> None:
        self._executor, self._checkpoint, self._scene, self._run = executor, checkpoint, scene, run
        self.has_context = executor.has_context
        self._patches = len(scene.groups) * scene.grid.cols  # of a row, in each group

    def encode(self, rows: range) -> Generator[EncodedRow, None, None]:
        """See RowExecutor.encode; nothing if no group needs its tokens any more."""
        groups, progress, done = len(self._scene.groups), self._run.progress, rows.start
        if all(map(self._checkpoint.has_context, range(groups))):
            return progress.advance(self._patches * len(rows))
        for row in self._checkpoint.encoded(groups):
            yield row
            done = row.number + 1
            progress.advance(self._patches)
        with closing(self._executor.encode(range(done, rows.stop))) as rest:
            for row in rest:
                self._checkpoint.save_encoded(row)
                yield row

    def apply_bottleneck(self, group: int, tokens: Tensor | None, empty: frozenset[int]) -> Tensor | None:
        """See RowExecutor.apply_bottleneck."""
        context = self._checkpoint.context(group)
        if context is not None:
            return context.to(self._scene.device)
        context = self._executor.apply_bottleneck(group, tokens, empty)
        if context is not None:
            self._checkpoint.save_context(group, context)
        return context

    def decode(self, rows: range, context: SceneContext) -> Generator[Pixels, None, None]:
        """See RowExecutor.decode; the report counts what it had counted."""
        report, done = self._run.report, rows.start
        for strip, counts in self._checkpoint.strips():
            yield strip
            report.set_counts(counts)
            done += 1
            self._run.progress.advance(self._patches)
        with closing(self._executor.decode(range(done, rows.stop), context)) as rest:
            for strip in rest:
                self._checkpoint.save_strip(strip, report.counts())
                yield strip


@dataclass(frozen=True)
class Resumption:
    """How a run goes on: by which plan it begins, and from what; without a checkpoint it begins anew."""

    plan: Plan
    checkpoint: RunCheckpoint | None = None

    def over(self, executor: RowExecutor, scene: Scene, run: RunContext) -> RowExecutor:
        """The executor of an attempt, which need not do what is done."""
        if self.checkpoint is None:
            return executor
        self.checkpoint.set_plan(bit_relevant(run.plan))
        return Resumable(executor, self.checkpoint, scene, run)


@contextmanager
def resumption(
    resume: Resume | None, job: PreparedRun, options: EngineOptions, report: Report
) -> Iterator[Resumption]:
    """How to go on; what is done is kept if the run fails, and left to nobody when it has succeeded."""
    if resume is None:
        yield Resumption(job.plan)
        return
    going_on = opened(Path(resume.folder), identity_of(resume, job, options), job, report)
    assert going_on.checkpoint is not None
    try:
        yield going_on
    finally:
        going_on.checkpoint.close()
    going_on.checkpoint.discard()


def opened(folder: Path, identity: Mapping[str, Any], job: PreparedRun, report: Report) -> Resumption:
    """The checkpoint of a run, and the plan to begin with: that of the run before, if it is gone on with."""
    before, plan = RunCheckpoint.plan_in(folder), job.plan
    # Results are the same to the bit only if patches go through the network as they did before.
    if before is not None:
        plan = next((each for each in fitting(job) if bit_relevant(each) == before), plan)
    checkpoint = RunCheckpoint(folder, identity, bit_relevant(plan))
    if checkpoint.changed:
        report.warn(
            f"{' and '.join(checkpoint.changed)} changed since the run that was stopped: started anew"
        )
    elif not checkpoint.is_new:
        report.warn("went on with a run that was stopped")
    return Resumption(plan, checkpoint)


def identity_of(resume: Resume, job: PreparedRun, options: EngineOptions) -> dict[str, Any]:
    """Everything a result is made of, by names that a message can use."""
    chosen = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in OF_THE_MACHINE}
    return {
        **resume.identity,
        "the options": repr(chosen),
        "what was made of the options": repr((job.scene.groups, job.scene.wanted, str(job.dtype))),
        "the machine": {
            "torch": torch.__version__,
            "devices": [kind_of(device) for device in job.devices],
            "threads": torch.get_num_threads(),
        },
    }


def kind_of(device: torch.device) -> str:
    """A device such that two of one kind compute alike."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )


def fitting(job: PreparedRun) -> list[Plan]:
    """The plans within the budget, best first."""
    return [plan for plan in job.plans if plan.fits(job.budget)]


def bit_relevant(plan: Plan) -> dict[str, Any]:
    """What of a plan can show in the result's last bits: not where features wait."""
    return {"batch": plan.batch, "seed": plan.seed, "query_chunk": plan.query_chunk, "tile": plan.tile}
