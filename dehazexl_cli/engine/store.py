"""Where tokens and encoder features wait between the two readings of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dehazexl_cli.engine.shelves import make_shelf
from dehazexl_cli.models.base import Skips
from dehazexl_cli.plan import SkipPolicy


class TokenStore:
    """Tokens of all patches (or their sum) on the device; skips where the plan says.

    `kept` is how many patches' skips are kept, those that come first; None is all. `folder` is where a file
    of skips may be.
    """

    def __init__(
        self,
        patches: int,
        gather: Literal["stack", "sum"],
        skips: SkipPolicy,
        kept: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.patches = patches
        self.gather = gather
        self.policy = skips
        self._room = patches if kept is None else kept
        self._shelf = make_shelf(skips, folder)
        self._tokens: Tensor | None = None
        self._present: list[int] = []

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
        if skips is not None and self._shelf is not None and len(ids) <= self._room:
            self._room -= len(ids)
            self._shelf.put(ids, skips)

    def tokens_of(self, ids: Sequence[int]) -> Tensor | None:
        """Tokens of patches that were put, [n, …], or the sum of all so far; None of none."""
        if not ids or self._tokens is None:
            return None
        return self._tokens if self.gather == "sum" else self._tokens[0, list(ids)]

    def put_back(self, ids: Sequence[int], tokens: Tensor) -> None:
        """Take what `tokens_of` gave an earlier run: to be called in the order of the patches."""
        if self.gather == "sum":
            self._present += ids
            self._tokens = tokens
        else:
            self.put(tuple(ids), tokens, None)

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
        return None if self._shelf is None else self._shelf.take(ids, device)
