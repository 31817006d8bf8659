"""The contract between a policy and [`PTRModel`]: one forward pass, and descriptions of its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn
from transformers.utils import ModelOutput

from hf_ptr.errors import InputError
from hf_ptr.policies.observation_history import ObservationHistory

# The tensors of a batch by name, see `PostTrainable`.
PolicyInputs = Mapping[str, torch.Tensor]


@dataclass
class PolicyOutput(ModelOutput):
    """
    Outputs of one forward pass over N chunks. L is the chunk length, D the context width, F the action head's width.

    Args:
        loss: scalar, the mean of `action_loss`: uniform post-training (PTR Sec. 2).
        action_loss: `(N,)`, the action loss `ℓ_act` of each sample, over valid steps and active dimensions.
        context: `(N, D)`, the pooled context `h_t` of PTR Eq. (3).
        action_features: `(N, F)`, the pooled action-channel tokens `e_t` of PTR Eq. (4); only `for_scoring`.
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
    """Widths of a policy's features: context `D`, action head `F`, observation tower `d`."""

    context: int
    action: int
    observation: int


@runtime_checkable
class PostTrainable(Protocol):
    """
    What [`PTRModel`] needs from a policy, or from the adapter of a policy that does not provide it itself.

    The keys of a training batch, in raw units:

    | key | tensor |
    |---|---|
    | `observation` | `(N, do)` float, or camera images `(N, C, height, width, 3)` uint8 |
    | `state` | `(N, ds)` |
    | `instruction_ids`, `instruction_mask` | `(N, K)` int64 and bool, from the processor |
    | `actions` | `(N, L, da)` |
    | `action_mask` | `(N, L)` bool, False for padded steps, whose values must not be read |
    | `action_dim_mask` (optional) | `(N, da)` bool, the dimensions that each row's embodiment has; all by default |
    | `state_dim_mask` (optional) | `(N, ds)` bool, likewise |

    A policy may also have `scoring_features(batch, belief_tokens)`: `context` and `action_features` of `forward`
    without its action head, or None where it cannot. The pre-pass of gradient accumulation is cheaper with it.

    A policy ignores the keys that it does not use. An optional key is absent rather than None.
    """

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """
        One pass over N chunks.

        Args:
            batch: the tensors listed above.
            belief_tokens: `(N, M, D)`, appended to the context; None for a policy without belief tokens.
            for_scoring: also return `action_features`.
        """
        ...

    def observation_tower(self) -> nn.Module:
        """The module `v` from raw observations `(N, …)` to pooled features `(N, d)`, which the EMA target follows."""
        ...

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioceptive state `(N, ds)` in normalised units."""
        ...

    def feature_sizes(self) -> FeatureSizes:
        """The widths to which the scorer, the belief tokenizer and the target encoder are built."""
        ...


CONTRACT = ("forward", "observation_tower", "normalized_state", "feature_sizes")


def missing_methods(policy: object) -> list[str]:
    """The methods of [`PostTrainable`] that a policy does not have."""
    return [name for name in CONTRACT if not callable(getattr(policy, name, None))]


def require_input_shapes(config: Any, observation: torch.Tensor, state: torch.Tensor) -> None:
    """
    Checks a batch against the policy's configuration.

    Args:
        config: the policy's configuration, with `cameras`, `state_dim`, and without cameras `observation_dim`.
        observation: `(N, do)`, or camera images `(N, C, height, width, 3)`.
        state: `(N, ds)`.

    Raises:
        InputError: the number of cameras or dimensions differs from the configuration, or that of the rows.
    """
    if config.cameras:
        found = observation.shape[1] if observation.dim() == 5 else 0
        if found != len(config.cameras):
            raise InputError(
                f"the policy reads {len(config.cameras)} cameras ({', '.join(config.cameras)}), and the observation "
                f"has shape {tuple(observation.shape)}; it must be (rows, cameras, height, width, 3)"
            )
    elif observation.shape[-1] != config.observation_dim:
        history = ObservationHistory.of(config)
        fix = "use data of the same robot"
        if history is not None:
            fix = (
                f"it reads earlier values ({', '.join(config.observation_features)}): call select_action at every "
                f"frame with the {history.width} present values of {', '.join(history.present)}, or pass all of them"
            )
        raise InputError(
            f"the observation has {observation.shape[-1]} dimensions and the policy was trained with "
            f"{config.observation_dim}; {fix}"
        )
    if observation.dim() != (5 if config.cameras else 2) or state.dim() != 2 or len(observation) != len(state):
        raise InputError(
            f"the observation has shape {tuple(observation.shape)} and the state {tuple(state.shape)}; both begin "
            "with the rows: (rows, dimensions), or (rows, cameras, height, width, 3) for images"
        )
    if state.shape[-1] != config.state_dim:
        raise InputError(
            f"the state has {state.shape[-1]} dimensions and the policy was trained with {config.state_dim}; use data "
            "of the same robot"
        )


def require_loss_per_sample(loss: Any, rows: int, policy: object) -> None:
    """
    Checks that an action loss can be weighted per sample.

    Raises:
        InputError: the loss is not a tensor of shape `(N,)`.
    """
    if not isinstance(loss, torch.Tensor) or loss.shape != (rows,):
        found = f"of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        raise InputError(
            f"the action loss of {type(policy).__name__} must be of shape ({rows},), one value per chunk, and is "
            f"{found}; return it unreduced over the batch (reduction='none')"
        )
