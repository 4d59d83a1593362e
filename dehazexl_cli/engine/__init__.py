"""The engine: joins rasters and models, and decides how a scene is run. `run.py` is where to begin."""

from dehazexl_cli.config import InferenceMode
from dehazexl_cli.engine.describing import describe_group
from dehazexl_cli.engine.fallback import OutOfMemory, noticing_lack_of_memory, release
from dehazexl_cli.engine.layout import Layout
from dehazexl_cli.engine.prepared import (
    PreparedRun,
    precision_for,
    prepare,
    require_overlap,
    seam_lines_of,
)
from dehazexl_cli.engine.resume import Resume
from dehazexl_cli.engine.run import run
from dehazexl_cli.plan import Plan, PlanOverrides

__all__ = [
    "InferenceMode",
    "Layout",
    "OutOfMemory",
    "Plan",
    "PlanOverrides",
    "PreparedRun",
    "Resume",
    "describe_group",
    "noticing_lack_of_memory",
    "precision_for",
    "prepare",
    "release",
    "require_overlap",
    "run",
    "seam_lines_of",
]
