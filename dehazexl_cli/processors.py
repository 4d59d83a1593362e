"""How many processors there are, and how threads wait for each other: settled before torch is loaded."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import MutableMapping

SPINS = "1000"
torch_came_first = False  # so that its threads spin as long as they are used to


def share(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for each other give way soon, unless the user has said how they wait.

    OpenMP's threads spin while they wait, and read how long when torch is loaded. Where other programs kept
    one of two processors busy, a scene took 61 s, and 3 s with this (measured); an idle machine is as fast
    as before.
    """
    global torch_came_first
    if "OMP_WAIT_POLICY" in environment or "GOMP_SPINCOUNT" in environment:
        return
    torch_came_first = sys.platform == "linux" and "torch" in sys.modules
    environment["GOMP_SPINCOUNT"] = SPINS


def warn_of_spinning() -> None:
    """Say once that torch was there before this package, which makes it slow on a machine with other work."""
    global torch_came_first
    if not torch_came_first:
        return
    torch_came_first = False
    import torch

    if torch.get_num_threads() > 1:
        warnings.warn(
            "torch was imported before dehazexl_cli, so its threads wait for each other by spinning: on a "
            f"machine with other work that is many times slower. Import dehazexl_cli first, or set the "
            f"variable GOMP_SPINCOUNT={SPINS} before Python starts.",
            stacklevel=3,
        )


def count() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
