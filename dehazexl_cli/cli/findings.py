"""What a check of installation or machine found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


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
