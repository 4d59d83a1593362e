"""Where tokens and encoder features wait between the two readings of a scene."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dehazexl_cli.models.base import Skips
from dehazexl_cli.plan import SkipPolicy


class TokenStore:
    """Tokens of all patches (or their sum) on the device; skips where the plan says."""

    def __init__(self, patches: int, gather: Literal["stack", "sum"], skips: SkipPolicy) -> None:
        self.patches = patches
        self.gather = gather
        self.policy = skips
        self._tokens: Tensor | None = None
        self._present: list[int] = []
        self._skips: dict[tuple[int, ...], Skips] = {}

    def put(self, ids: tuple[int, ...], tokens: Tensor, skips: Skips | None) -> None:
        """Keep what encoding a batch returned; without skips for a batch that will not be decoded."""
        self._present += ids
        if self.gather == "sum":
            total = tokens.sum(0, keepdim=True)
            self._tokens = total if self._tokens is None else self._tokens.add_(total)
        else:
            if self._tokens is None:
                self._tokens = tokens.new_empty((1, self.patches, *tokens.shape[1:]))
            self._tokens[0, list(ids)] = tokens
        if skips is None:
            return
        if self.policy == "host":
            self._skips[ids] = tuple(skip.to("cpu") for skip in skips)
        elif self.policy == "device":
            self._skips[ids] = skips

    def tokens(self) -> Tensor | None:
        """Tokens of the patches that were put, [1, patches, …] or their sum [1, …]; None if none were.

        The store lets go of them.
        """
        tokens, self._tokens = self._tokens, None
        if tokens is None or self.gather == "sum" or len(self._present) == self.patches:
            return tokens
        return tokens[:, self._present]

    def take(self, ids: tuple[int, ...], device: torch.device) -> Skips | None:
        """Skips of a batch as it was put, forgotten here; None if they must be recomputed."""
        skips = self._skips.pop(ids, None)
        return None if skips is None else tuple(skip.to(device) for skip in skips)
