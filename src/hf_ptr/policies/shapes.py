"""Whether what a policy is handed is what it was made for, with one line where it is not."""

from __future__ import annotations

from typing import Any

import torch

from hf_ptr.errors import InputError


def require_shapes(config: Any, observation: torch.Tensor, state: torch.Tensor) -> None:
    """
    Args:
        config: of the policy: `cameras`, `state_dim`, and without cameras `observation_dim`.
        observation: `(N, do)`, or `(N, C, height, width, 3)` of cameras.
        state: `(N, ds)`.

    Raises:
        InputError: another number of cameras, or of dimensions than the policy's statistics have.
    """
    if config.cameras:
        seen = observation.shape[1] if observation.dim() == 5 else 0
        if seen != len(config.cameras):
            raise InputError(
                f"the policy sees through {len(config.cameras)} cameras ({', '.join(config.cameras)}), and the "
                f"observation is of shape {tuple(observation.shape)}; it must be (rows, cameras, height, width, 3)"
            )
    elif observation.shape[-1] != config.observation_dim:
        raise InputError(
            f"the observation has {observation.shape[-1]} dimensions and the policy was trained with "
            f"{config.observation_dim}; use data of the same robot"
        )
    if state.shape[-1] != config.state_dim:
        raise InputError(
            f"the state has {state.shape[-1]} dimensions and the policy's statistics are of {config.state_dim}; use "
            "data of the same robot"
        )


def require_loss_of_each(loss: Any, rows: int, policy: object) -> None:
    """
    Raises:
        InputError: the action loss is not one of each chunk, `(N,)`, so that there is nothing to weigh.
    """
    if not isinstance(loss, torch.Tensor) or loss.shape != (rows,):
        found = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(
            f"the action loss of {type(policy).__name__} must be one of each chunk, ({rows},), and is {found}; return "
            "it unreduced over the batch (reduction='none')"
        )
