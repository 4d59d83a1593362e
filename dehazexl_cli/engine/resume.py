"""Going on with a run that was killed: only with the same input, weights, options and machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dehazexl_cli.config import OF_THE_MACHINE, EngineOptions
from dehazexl_cli.engine.prepared import PreparedRun
from dehazexl_cli.engine.run_checkpoint import FolderCheckpoint, RunCheckpoint
from dehazexl_cli.plan import Plan
from dehazexl_cli.report import Report


@dataclass(frozen=True)
class Resume:
    """Where what is done is kept, and what it is made of that the engine does not know."""

    folder: str
    identity: Mapping[str, Any]  # "the input", "the weights", … -> what tells one from another


def opened(
    resume: Resume | None, job: PreparedRun, options: EngineOptions, report: Report
) -> tuple[RunCheckpoint, Plan]:
    """The journal of a run, and the plan to begin with: that of the run before, if it is gone on with."""
    if resume is None:
        return RunCheckpoint(), job.plan
    folder, plan = Path(resume.folder), job.plan
    identity = identity_of(resume, job, options)
    before = FolderCheckpoint.plan_in(folder)
    # Results are the same to the bit only if patches go through the network as they did before.
    if before is not None:
        plan = next((each for each in fitting(job) if way(each) == before), plan)
    checkpoint = FolderCheckpoint(folder, identity, way(plan))
    if checkpoint.changed:
        report.warn(
            f"{' and '.join(checkpoint.changed)} changed since the run that was stopped: started anew"
        )
    elif not checkpoint.is_new:
        report.warn("went on with a run that was stopped")
    return checkpoint, plan


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


def way(plan: Plan) -> dict[str, Any]:
    """What of a plan can show in the result's last bits: not where features wait."""
    values = asdict(plan)
    return {name: values[name] for name in ("batch", "seed", "queries", "tile")}
