"""The example notebook runs from top to bottom, and is stored without results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "dehaze.ipynb"
CODE = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_dehazes_what_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    space: dict[str, Any] = {}
    for cell in CODE:
        exec("".join(cell["source"]), space)
    assert space["error"](space["dehazed"]) < 0.8 * space["error"](space["hazy"])
    assert space["error"](space["dehazed"]) < space["error"](space["soft"]) < space["error"](space["hazy"])
    assert np.array_equal(space["masked"][:, :, :128], space["hazy"][:, :, :128])
    assert (tmp_path / "dehazed.tif").is_file() and space["report"].mode == "global"


def test_the_notebook_is_stored_without_results() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
