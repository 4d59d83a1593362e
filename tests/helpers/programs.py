"""Small programs that tests start."""

from __future__ import annotations

import stat
import sys
from pathlib import Path


def make_program(path: Path, code: str = "") -> Path:
    """A program of these lines of Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -u\nimport json, os, signal, sys, time\n{code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
