"""How a policy acts: action by action from chunks, with belief tokens carried from chunk to chunk (PTR Sec. 3)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from hf_ptr.ptr import BeliefTokenizer


class ChunkActing:
    """
    The acting half of a policy. Who inherits predicts chunks, and has a `config` with their size.

    The tokenizer is not a submodule of the policy: it stays one of its owner, and is saved beside the policy.
    """

    config: Any
    # Whether it has yet to be fitted to a dataset (`fit_to`) before it can be trained.
    needs_dataset: bool = False
    # In a tuple, so that a module does not take it for its own.
    _belief: tuple[BeliefTokenizer, ...] = ()

    def predict_action_chunk(self, **inputs: Any) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw action units."""
        raise NotImplementedError

    def attach_belief(self, belief: BeliefTokenizer | None) -> None:
        """Lets the policy carry belief tokens from chunk to chunk when it acts; None takes them away."""
        self._belief = () if belief is None else (belief,)
        self.config.belief_tokens = 0 if belief is None else belief.config.num_tokens
        self.reset()

    def reset(self) -> None:
        """Forgets queued actions and the belief state. Call at the start of every episode."""
        self._queue: deque[torch.Tensor] = deque()
        # One line of belief tokens for each chunk that may be under way at once, the oldest first.
        self._tokens: deque[torch.Tensor] = deque(maxlen=belief_lag(self.config))
        self._rows: int | None = None

    def select_action(self, **inputs: Any) -> torch.Tensor:
        """
        The next action `(B, da)` in raw units: the first `n_action_steps` of a chunk one by one, then a new chunk.

        Takes the arguments of `predict_action_chunk`.
        """
        if not self._queue:
            chunk = self.predict_action_chunk(**inputs)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(dim=1))
        return self._queue.popleft()

    def _recalled(self, rows: int) -> torch.Tensor | None:
        """The belief tokens `(B, M, D)` of the next chunk: `z_init`, until a chunk has ended."""
        if self._rows not in (None, rows):
            raise ValueError(f"the batch has {rows} rows and the episode began with {self._rows}: reset()")
        self._rows = rows
        if not self._belief:
            return None
        ended = len(self._tokens) == belief_lag(self.config)
        return self._tokens[0] if ended else self._belief[0].initial_tokens(rows)

    def _remember(self, hidden: torch.Tensor, action_tokens: torch.Tensor) -> None:
        """Keeps what this chunk leaves to a later one, from its `C_t` and `A_t` `(B, L, F)`."""
        if self._belief:
            self._tokens.append(self._belief[0](hidden, action_tokens, reconstruct=False).tokens)


def belief_lag(config: Any) -> int:
    """
    How many chunks back the belief tokens of a chunk come from.

    A chunk that is replanned before its end overlaps the next one. Tokens made from it would hold the recorded actions
    that the next one is to predict, and the policy would learn to copy them. So the tokens come from the last chunk
    that had ended when this one began.
    """
    return -(-config.chunk_size // config.n_action_steps)
