"""Gradients of a window's restoration through the two passes over a scene, a few patches at a time.

Only tokens join the patches of a scene. So the way back is: the window's patches to their own pixels and to
the mixed scene; one step through the mixer to all tokens; and from the tokens of each patch to its pixels,
computed again patch by patch. Nothing but tokens is ever kept for all patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dehazexl_cli.attribution.paths import Path
from dehazexl_cli.attribution.scene import Detector, Part
from dehazexl_cli.models.base import COLOURS, DehazeModel, PatchBatch

Tick = Callable[[int], None]  # patches done since the last time


@dataclass(frozen=True)
class Network:
    """A model and how it is run; its weights lie on the device."""

    model: DehazeModel
    device: torch.device
    batch: int = 4  # patches at a time
    seed: int | None = None  # of sampled attention; None is exact


class TwoPass:
    """One part of a scene on its way along a path through a network."""

    def __init__(self, network: Network, part: Part, path: Path) -> None:
        self.model, self.network = network.model, network
        self.part, self.sight, self.path = part, part.sight, path
        self._stacks = network.model.token_reduction == "stack"
        # A sum is over all patches, with ground or without.
        self._grid = replace(self.sight.grid, empty=self.sight.empty if self._stacks else frozenset())

    @property
    def patches(self) -> int:
        """How many patches say what they see."""
        return len(self._grid.present)

    def values(self, alpha: float, numbers: Sequence[int], tick: Tick) -> dict[int, float]:
        """What the detectors of these windows find at a point of the path."""
        with torch.no_grad():
            scene = self._laid(
                self.model.apply_bottleneck(self._tokens(alpha, tick), self._grid, self.network.seed)
            )
            return {
                number: self._value(alpha, detector, scene) for number, detector in self._detectors(numbers)
            }

    def add(self, alpha: float, numbers: Sequence[int], maps: Mapping[int, Tensor], tick: Tick) -> None:
        """Add dD/dX · dX/dalpha, summed over colours, to the maps [height, width] of these windows."""
        tokens = self._tokens(alpha, tick).requires_grad_()
        with frozen(self.model), torch.enable_grad():
            scene = self.model.apply_bottleneck(tokens, self._grid, self.network.seed)
            laid = self._laid(scene.detach())
            detectors = list(self._detectors(numbers))
            shares = [self._through_decoder(alpha, each, laid, maps[number]) for number, each in detectors]
            if not scene.requires_grad:
                return tick(self.patches)
            back = []
            for count, share in enumerate(shares, 1):
                (grad,) = torch.autograd.grad(
                    scene, tokens, self._picked(share), retain_graph=count < len(shares), allow_unused=True
                )
                back.append(torch.zeros_like(tokens) if grad is None else grad)
            del scene
            self._through_encoder(alpha, back, [maps[number] for number, _ in detectors], tick)

    def _detectors(self, numbers: Sequence[int]) -> Iterator[tuple[int, Detector]]:
        """Those of the windows that this part has a share in."""
        return ((number, self.part.detectors[number]) for number in numbers if number in self.part.detectors)

    def _batches(self, ids: Sequence[int], alpha: float) -> Iterator[tuple[PatchBatch, Tensor]]:
        for start in range(0, len(ids), self.network.batch):
            some = ids[start : start + self.network.batch]
            yield self.sight.batch(some, self.path, alpha, self.network.device)

    def _tokens(self, alpha: float, tick: Tick) -> Tensor:
        """Tokens of all patches [1, patches, …], or their sum [1, …]."""
        gathered: Tensor | None = None
        done = 0
        with torch.no_grad():
            for batch, _ in self._batches(self._grid.present, alpha):
                tokens, _ = self.model.encode(batch)
                if not self._stacks:
                    total = tokens.sum(0, keepdim=True)
                    gathered = total if gathered is None else gathered.add_(total)
                else:
                    if gathered is None:
                        gathered = tokens.new_empty(1, self.patches, *tokens.shape[1:])
                    gathered[0, done : done + len(tokens)] = tokens
                done += len(tokens)
                tick(len(tokens))
        assert gathered is not None, "a scene has patches"
        return gathered

    def _laid(self, scene: Tensor) -> Tensor:
        """The mixed scene with room for absent patches, as decoding finds a patch by its number."""
        if not self._grid.empty:
            return scene
        laid = scene.new_zeros(1, len(self._grid), *scene.shape[2:])
        laid[:, self._grid.present] = scene
        return laid

    def _picked(self, laid: Tensor) -> Tensor:
        """The reverse: what belongs to the patches that are there."""
        return laid[:, self._grid.present] if self._grid.empty else laid

    def _value(self, alpha: float, detector: Detector, scene: Tensor) -> float:
        total = 0.0
        for batch, _ in self._batches(self.sight.patches_of(detector.box), alpha):
            output = self.model.decode(batch, scene, self.model.encode(batch)[1])[:, :COLOURS]
            total += counted(output, self.sight.weights(batch.ids, detector, output))
        return total

    def _through_decoder(self, alpha: float, detector: Detector, scene: Tensor, total: Tensor) -> Tensor:
        """From the output to the window's own patches, added to the map, and to the mixed scene."""
        scene = scene.clone().requires_grad_()
        share = torch.zeros_like(scene)
        for batch, slope in self._batches(self.sight.patches_of(detector.box), alpha):
            pixels = batch.pixels.requires_grad_()
            output = self.model.decode(batch, scene, self.model.encode(batch)[1])[:, :COLOURS]
            weights = self.sight.weights(batch.ids, detector, output).expand_as(output)
            of_pixels, of_scene = torch.autograd.grad(output, (pixels, scene), weights, allow_unused=True)
            if of_scene is not None:
                share += of_scene
            if of_pixels is not None:
                self.sight.fold(batch.ids, (of_pixels * slope).sum(1), total)
        return share

    def _through_encoder(
        self, alpha: float, back: Sequence[Tensor], maps: Sequence[Tensor], tick: Tick
    ) -> None:
        """From all tokens to the pixels that they were made of, for each map."""
        done = 0
        for batch, slope in self._batches(self._grid.present, alpha):
            part = slice(done, done + len(batch.ids))
            done += len(batch.ids)
            grads = [grad[0, part] if self._stacks else grad.expand(len(batch.ids), -1) for grad in back]
            wanted = [(grad, total) for grad, total in zip(grads, maps, strict=True) if grad.any()]
            if wanted:
                pixels = batch.pixels.requires_grad_()
                tokens, _ = self.model.encode(batch)
                for count, (grad, total) in enumerate(wanted, 1):
                    (of_pixels,) = torch.autograd.grad(tokens, pixels, grad, retain_graph=count < len(wanted))
                    self.sight.fold(batch.ids, (of_pixels * slope).sum(1), total)
            tick(len(batch.ids))


def counted(output: Tensor, weights: Tensor) -> float:
    """The weighted sum of all numbers of patches, without loss for long sums."""
    return float((output.float() * weights).cpu().sum(dtype=torch.float64))


@contextmanager
def frozen(model: DehazeModel) -> Iterator[None]:
    """No gradients of weights: what they need would be kept for nothing."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in asking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)
