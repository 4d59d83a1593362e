"""What it takes to dehaze a scene in some process, which may be another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dehazexl_cli import processors
from dehazexl_cli.config import RunConfig
from dehazexl_cli.errors import UsageError

if TYPE_CHECKING:
    from dehazexl_cli.files import OpenedScene
    from dehazexl_cli.models.checkpoint import Loaded


@dataclass(frozen=True)
class WorkerConfig:
    """The model to use and how; travels to other processes."""

    config: RunConfig
    model: str | None = None
    weights: Path | None = None
    multiple: int | None = None
    share: int = 1  # of so many processes on a machine this is one; they share its processors and memory

    def load(self) -> Loaded:
        """The model, ready; what no scene could be run with fails here, as the DehazeError that fits."""
        import torch

        from dehazexl_cli.engine import precision_for, require_overlap
        from dehazexl_cli.engine.device import choose_devices
        from dehazexl_cli.models.loading import load_model

        if self.share > 1:
            torch.set_num_threads(max(1, processors.count() // self.share))
        loaded, options = load_model(self.model, self.weights, self.multiple), self.config.options
        precision_for(loaded.model, options.precision, choose_devices(options.device)[0])
        require_overlap(loaded.model, options.overlap)
        options.mode.settled(loaded.model)
        if self.config.if_hazy is not None and not loaded.model.tells_haze:
            raise UsageError(f"--if-hazy: {loaded.name} tells no haze", "use dehazexl-s")
        return loaded

    def open(self, source: str) -> OpenedScene:
        """Open a scene, to be run in this process's share of the memory."""
        from dehazexl_cli.engine.memory import share_of_host
        from dehazexl_cli.files import open_scene

        opened = open_scene(source, self.config)
        if self.share == 1:
            return opened
        mine = share_of_host(self.share, self.config.options.max_ram)
        return replace(opened, options=replace(opened.options, max_ram=mine))
