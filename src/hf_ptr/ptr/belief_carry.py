"""Belief tokens carried from one training step to the next (PTR Sec. 3)."""

from __future__ import annotations

import torch


class BeliefCarry:
    """
    The belief tokens that the chunks of the last step left behind, found again by the frame they started at.

    A chunk looks for its predecessor's tokens by `previous_index`. Where the last step does not hold it, the chunk
    begins a segment. So any order of the data is safe, and only a walk along segments makes the tokens travel. A step
    may be several micro-batches: none of them finds what another left.
    """

    def __init__(self) -> None:
        self._index: torch.Tensor | None = None
        self._tokens: torch.Tensor | None = None
        self._coming: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recall(self, previous_index: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            previous_index: `(N,)` int64, `index` of each chunk's predecessor, -1 for none.

        Returns:
            `tokens (N, M, D)` and `found (N,)` bool; rows that were not found hold another chunk's tokens. Both None
            before the first batch.
        """
        if self._index is None or self._tokens is None:
            return None, None
        same = (self._index == previous_index[:, None]) & (previous_index >= 0)[:, None]
        return self._tokens[same.int().argmax(dim=1)], same.any(dim=1)

    def remember(self, index: torch.Tensor, tokens: torch.Tensor, *, last: bool = True) -> None:
        """
        Keeps the tokens `(N, M, D)`, which carry no gradient, of the chunks that started at `index (N,)`. They are
        found once the `last` micro-batch of the step is remembered.
        """
        self._coming.append((index, tokens))
        if last:
            self._index, self._tokens = (torch.cat(parts) for parts in zip(*self._coming, strict=True))
            self._coming = []

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs; empty before the first batch."""
        if self._index is None or self._tokens is None:
            return {}
        return {"index": self._index, "tokens": self._tokens}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~BeliefCarry.state_dict`] gave."""
        self._index, self._tokens = state.get("index"), state.get("tokens")
