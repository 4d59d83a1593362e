"""Where tokens and encoder features wait between the two readings of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dehazexl_cli.engine.skip_cache import make_cache
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
        self._shelf = make_cache(skips, folder)
        self._tokens: Tensor | None = None
        self._row: Tensor | None = None  # the sum of the row of patches in work
        self._present: list[int] = []

    def put(self, ids: tuple[int, ...], tokens: Tensor, skips: Skips | None) -> None:
        """Keep what encoding a batch returned; without skips for a batch that will not be decoded."""
        self._present += ids
        if self.gather == "sum":
            total = tokens.sum(0, keepdim=True)
            self._row = total if self._row is None else self._row.add_(total)
        else:
            if self._tokens is None:
                self._tokens = tokens.new_empty((1, self.patches, *tokens.shape[1:]))
            self._tokens[0, list(ids)] = tokens
        if skips is not None and self._shelf is not None and len(ids) <= self._room:
            self._room -= len(ids)
            self._shelf.put(ids, skips)

    def end_row(self, ids: Sequence[int]) -> Tensor | None:
        """Tokens of a row's patches, which were put, [n, …], or their sum [1, …]; None of none.

        Sums are added up row by row, so that it does not matter to a bit who has computed a row.
        """
        if self.gather == "stack":
            return self._tokens[0, list(ids)] if ids and self._tokens is not None else None
        row, self._row = self._row, None
        if row is not None:
            self._tokens = row if self._tokens is None else self._tokens + row
        return row

    def put_back(self, ids: Sequence[int], tokens: Tensor) -> None:
        """Take what `end_row` gave elsewhere; rows in their order."""
        if self.gather == "stack":
            return self.put(tuple(ids), tokens, None)
        self._present += ids
        self._row = tokens
        self.end_row(ids)

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
