"""Acting: single actions from a queue of predicted chunks, and belief tokens carried between chunks (PTR Sec. 3)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from hf_ptr.errors import InputError
from hf_ptr.policies.contract import PolicyInputs
from hf_ptr.policies.observation_history import ObservationHistory
from hf_ptr.ptr import BeliefTokenizer


class ActionQueueMixin:
    """
    `reset` and `select_action` for classes that implement `predict_action_chunk` and have a `config` with `chunk_size`
    and `n_action_steps`.

    The belief tokenizer is not a submodule of the policy: [`PTRModel`] owns it, and it is saved next to the policy.
    """

    config: Any
    # Whether `fit_to` must bind the policy to a dataset before training.
    needs_dataset: bool = False
    # In a tuple, so that a module does not register it as a submodule.
    _belief: tuple[BeliefTokenizer, ...] = ()
    # Whether a chunk reads the belief tokens of an earlier one; else every chunk begins with `z_init`. As in training,
    # unless an evaluation sets it.
    carries_belief: bool = True

    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """
        The next chunk `(B, L, da)` in raw action units.

        Args:
            batch: the tensors of [`PostTrainable`] that are known when the policy acts (`observation`, `state`,
                `instruction_ids`, `instruction_mask` and the optional masks), with B rows.
            generator: random generator for the noise.
        """
        raise NotImplementedError

    def attach_belief(self, belief: BeliefTokenizer | None) -> None:
        """Sets the tokenizer whose belief tokens are carried from chunk to chunk; None removes it."""
        self._belief = () if belief is None else (belief,)
        self.carries_belief = belief is None or belief.config.carried
        self.config.belief_tokens = 0 if belief is None else belief.config.num_tokens
        self.reset()

    def reset(self) -> None:
        """Clears the action queue and the belief state. Call it at the start of every episode."""
        self._queue: deque[torch.Tensor] = deque()
        # Belief tokens of the chunks that may overlap the next one, oldest first.
        self._tokens: deque[torch.Tensor] = deque(maxlen=belief_lag(self.config))
        self._rows: int | None = None
        self._history = ObservationHistory.of(self.config)

    def select_action(self, *, generator: torch.Generator | None = None, **inputs: torch.Tensor) -> torch.Tensor:
        """
        The next action `(B, da)` in raw units. Predicts a new chunk once `n_action_steps` actions of the last one have
        been returned. Call it at every frame: a policy that reads earlier values (`NAME@-K`) is given the present ones
        and keeps the history itself. A complete observation, with the earlier values, is used as it is.

        Args:
            generator: random generator for the noise.
            inputs: the batch of `predict_action_chunk` as keyword arguments, from the processor.
        """
        history, present = self._history, inputs["observation"]
        if history is not None and (present.dim() != 2 or present.shape[-1] != history.width):
            history = None
        if history is not None:
            inputs["observation"] = history.complete(present)
        if not self._queue:
            chunk = self.predict_action_chunk(inputs, generator)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(dim=1))
        # Last: a call that fails leaves nothing behind.
        if history is not None:
            history.remember(present)
        return self._queue.popleft()

    def _recall_belief(self, rows: int) -> torch.Tensor | None:
        """
        The belief tokens `(B, M, D)` that the next chunk reads: `z_init` until an earlier chunk has ended, and always
        where none are carried.
        """
        if self._rows not in (None, rows):
            raise InputError(f"the batch has {rows} rows and the episode began with {self._rows}: reset()")
        if not self._belief:
            return None
        ended = len(self._tokens) == belief_lag(self.config)
        return self._tokens[0] if ended and self.carries_belief else self._belief[0].initial_tokens(rows)

    def _remember_belief(self, hidden: torch.Tensor, action_tokens: torch.Tensor) -> None:
        """
        Stores the number of rows of this chunk, and its belief tokens, made from `C_t` and `A_t` `(B, L, F)`, for a
        later chunk. Call it once the chunk has been predicted.
        """
        self._rows = len(hidden)
        if self._belief:
            self._tokens.append(self._belief[0](hidden, action_tokens, reconstruct=False).tokens)


def belief_lag(config: Any) -> int:
    """
    The number of chunks between a chunk and the one whose belief tokens it reads.

    A chunk that is replanned before its end overlaps the next one. Belief tokens made from it would contain recorded
    actions that the next chunk has to predict, and the policy would learn to copy them. So the tokens come from the
    last chunk that had ended when this one began.
    """
    return -(-config.chunk_size // config.n_action_steps)
