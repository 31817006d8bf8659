"""What a policy hands over so that PTR can post-train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn
from transformers.utils import ModelOutput

Embedded = dict[str, torch.Tensor]


@dataclass
class PolicyOutput(ModelOutput):
    """
    One pass of a policy over N chunks. L is the chunk length, D the width of the context, F that of the action head.

    Args:
        loss: scalar, the mean of `action_loss`: uniform post-training (PTR Sec. 2).
        action_loss: `(N,)`, the action loss `ℓ_act` of each sample, over valid steps and active dimensions.
        context: `(N, D)`, the pooled context `h_t` of PTR Eq. (3).
        action_features: `(N, F)`, the pooled action-channel tokens `e_t` of PTR Eq. (4).
        hidden_states: `(N, L, F)`, `C_t`, the action head's hidden states at the action positions.
        action_embeddings: `(N, L, F)`, `A_t`, the action embeddings of the same pass.
    """

    loss: torch.Tensor | None = None
    action_loss: torch.Tensor | None = None
    context: torch.Tensor | None = None
    action_features: torch.Tensor | None = None
    hidden_states: torch.Tensor | None = None
    action_embeddings: torch.Tensor | None = None


class FeatureSizes(NamedTuple):
    """Widths of a policy's features: context tokens `D`, action head `F`, observation tower `d`."""

    context: int
    action: int
    observation: int


@runtime_checkable
class PostTrainable(Protocol):
    """
    The contract between a policy and [`PTRModel`].

    The pass is cut in two so that a segment of chunks pays for what does not depend on the belief tokens (encoders,
    noise, action embeddings) once: `embed` runs over all chunks of a batch, `step` over those of one position in
    their segments, with the belief tokens that the position before left behind.
    """

    def embed(self, **inputs: torch.Tensor) -> Embedded:
        """Everything of the pass that needs no belief tokens, each tensor with the chunks as its first dimension."""
        ...

    def step(self, embedded: Embedded, belief_tokens: torch.Tensor | None) -> PolicyOutput:
        """The rest of the pass over N chunks, with belief tokens `(N, M, D)` appended to the context, or none."""
        ...

    def observation_tower(self) -> nn.Module:
        """The module `v` from raw observations `(N, …)` to pooled features `(N, d)` that the EMA target follows."""
        ...

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioception `(N, ds)` in normalised units."""
        ...

    def feature_sizes(self) -> FeatureSizes:
        """The widths that the PTR parts are built to."""
        ...


CONTRACT = ("embed", "step", "observation_tower", "normalized_state", "feature_sizes")


def lacking(policy: object) -> list[str]:
    """What of the contract a policy does not hand over."""
    return [name for name in CONTRACT if not callable(getattr(policy, name, None))]
