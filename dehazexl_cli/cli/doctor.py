"""`dehazexl doctor`: whether everything that a run needs is here and works."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from dehazexl_cli.cli import options
from dehazexl_cli.cli.findings import Verdict
from dehazexl_cli.errors import CheckError

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
            typer.echo(f"{finding.verdict.value}  {finding.name:<10}  {finding.detail}")
            if finding.remedy:
                typer.echo(f"{'':<18}try: {finding.remedy}")
    worst = max((finding.verdict for finding in findings), key=SEVERITY.index)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"verdict": worst, "checks": checks}, indent=2, allow_nan=False))
    if worst is Verdict.failed:
        raise typer.Exit(CheckError.exit_code)
