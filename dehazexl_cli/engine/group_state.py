"""What is kept of a group of bands while a scene is run."""

from __future__ import annotations

import torch
from torch import Tensor

from dehazexl_cli.engine.patches import BlendBuffer
from dehazexl_cli.engine.scaling import Group
from dehazexl_cli.engine.scene import RunContext, Scene
from dehazexl_cli.engine.skip_cache import make_cache
from dehazexl_cli.models.base import Skips


class GroupState:
    """What is kept of a group of bands: features that wait for decoding, the context, the row in work."""

    def __init__(self, scene: Scene, group: Group, run: RunContext) -> None:
        self.group = group
        self.buffer = BlendBuffer(scene, group)
        self._skips = make_cache(run.plan.skips, run.folder)
        self._room = len(scene.grid) if run.plan.cached_patches is None else run.plan.cached_patches
        self._context: Tensor | None = None
        self._replicas: dict[torch.device, Tensor] = {}  # of the context

    def keep(self, ids: tuple[int, ...], skips: Skips) -> None:
        """Have a batch's features wait, if there is room for them."""
        if self._skips is not None and len(ids) <= self._room:
            self._room -= len(ids)
            self._skips.put(ids, skips)

    def take(self, ids: tuple[int, ...], device: torch.device) -> Skips | None:
        """Features of a batch as they were kept, forgotten here; None if they must be computed again."""
        return None if self._skips is None else self._skips.take(ids, device)

    def begin_decoding(self, scene: Scene, context: Tensor | None) -> None:
        """Take what patches learn of the scene, and forget what was decoded."""
        self.buffer = BlendBuffer(scene, self.group)
        self._context, self._replicas = context, {}

    def context_on(self, device: torch.device) -> Tensor | None:
        """The context on a device; None where patches learn nothing."""
        if self._context is not None and device not in self._replicas:
            self._replicas[device] = self._context.to(device)  # the threads of devices do not meet here
        return self._replicas.get(device)
