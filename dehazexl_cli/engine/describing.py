"""Writes into a report what was decided about a run."""

from __future__ import annotations

from typing import Any

from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine.device import precision_name
from dehazexl_cli.engine.fallback import in_words
from dehazexl_cli.engine.prepared import PreparedRun
from dehazexl_cli.engine.scaling import Group
from dehazexl_cli.engine.value_ranges import is_stretched_unit
from dehazexl_cli.grid import Box
from dehazexl_cli.plan import Plan, gigabytes
from dehazexl_cli.report import Report


def told_of_tiles(job: PreparedRun) -> str:
    """Why a scene is cut into tiles, in a sentence."""
    best = min(plan.host_bytes + plan.device_bytes for plan in job.plans if not plan.tile)
    return (
        f"the scene as one needs {gigabytes(best)} of memory, more than may be used; "
        f"went on with {in_words(job.plan)}"
    )


def describe(report: Report, job: PreparedRun, options: EngineOptions) -> None:
    """Write what was decided into the report."""
    info, first = job.scene.reader.info, job.scene.groups[0]
    target = job.frame.target if job.frame else Box(0, 0, info.height, info.width)
    report.input = info.name
    report.height, report.width = target.height, target.width
    report.count, report.dtype = info.count, info.dtype
    report.bands = first.bands
    report.low, report.high = first.ranges[0].low, first.ranges[0].high
    report.range_source = first.ranges[0].source
    report.groups = [describe_group(group) for group in job.scene.groups]
    report.strength = options.strength
    report.device = ",".join(map(str, job.devices))
    report.precision = precision_name(job.dtype)
    for note in job.notes:
        report.warn(note)
    if options.band_ranges is None and is_stretched_unit(info, first):
        report.notes.append(
            f"the floats, of 0 to 1, are shown to the model from 0 to {report.high:.3g} as black to white; "
            "--input-range dtype shows them as they are, as it does bytes"
        )


def describe_plan(report: Report, job: PreparedRun, plan: Plan) -> None:
    """Write into the report by which plan a scene is run."""
    layout = job.layout_of(plan)
    report.plan = plan.to_dict() | layout.facts
    report.mode = layout.kind
    report.overlap = layout.inner.overlap
    report.seam_lines = job.seam_lines_of(plan)._asdict()


def describe_group(group: Group) -> dict[str, Any]:
    """Bands that were shown to the model together, and the source values that were its 0 and 1."""
    return {"bands": group.bands, "ranges": [(range.low, range.high) for range in group.ranges]}
