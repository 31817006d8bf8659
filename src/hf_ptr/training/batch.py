"""What the parts of a training step take of a batch."""

from __future__ import annotations

from typing import Any

import torch

from hf_ptr.ptr import BeliefCarry, Candidates

MODEL_INPUTS = (
    "observation",
    "state",
    "instruction_ids",
    "instruction_mask",
    "actions",
    "action_mask",
    "action_dim_mask",
    "state_dim_mask",
    "next_observation",
)


def model_inputs(batch: dict[str, Any], carry: BeliefCarry | None, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """What [`PTRModel`] takes of a batch, with the belief tokens that `carry` holds for its chunks."""
    given = {name: batch[name] for name in MODEL_INPUTS if name in batch and name not in skip}
    if carry is not None:
        given["carried_tokens"], given["carried"] = carry.recall(batch["previous_index"])
    return given


def candidates_of(policy: Any, batch: dict[str, Any], target: torch.Tensor) -> Candidates:
    """The targets `(N, D)` of a batch, with what tells them apart."""
    state = policy.normalized_state(batch["state"]).detach()
    if "state_dim_mask" in batch:
        state = state.masked_fill(~batch["state_dim_mask"], 0.0)
    return Candidates(
        target=target,
        target_id=batch["target_index"],
        task=batch["task_index"],
        state=state,
        valid=batch["has_target"],
    )
