"""`dehazexl doctor`: whether everything that a run needs is here and works."""

from __future__ import annotations

from dataclasses import asdict

import typer

from dehazexl_cli.cli import console, options
from dehazexl_cli.cli.findings import Verdict
from dehazexl_cli.errors import CheckError
from dehazexl_cli.text import to_json

SEVERITY = (Verdict.passed, Verdict.warned, Verdict.failed)


def doctor(device: options.Device = "auto", as_json: options.Json = False) -> None:
    """Check installation and machine: libraries, GPU, formats, weights, disk, memory. Takes seconds.

    Prints PASS, WARN or FAIL for each, with what to do. Exit code 8 if anything failed; warnings are no
    failure. With --device cuda a missing GPU is one.

    Example: dehazexl doctor
    """
    from dehazexl_cli.cli import checkup

    findings = []
    for finding in checkup.examine(device):
        findings.append(finding)
        if not as_json:
            console.put(f"{finding.verdict.value}  {finding.name:<10}  {finding.detail}")
            if finding.remedy:
                console.put(f"{'':<18}try: {finding.remedy}")
    worst = max((finding.verdict for finding in findings), key=SEVERITY.index)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        console.put(to_json({"verdict": worst, "checks": checks}, 2))
    if worst is Verdict.failed:
        raise typer.Exit(CheckError.exit_code)
