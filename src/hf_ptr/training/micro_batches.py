"""The micro-batches of one optimiser step: inputs of the model, and sums that all of them share (PTR Eq. 27)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from hf_ptr.equations import sample_size_of_sums
from hf_ptr.ptr import BeliefCarry, Candidates

Batch = dict[str, Any]
Gather = Callable[[torch.Tensor], torch.Tensor]

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
    "carried_tokens",
    "carried",
)
# Key of a batch: its position among the micro-batches of its step.
MICRO_BATCH = "micro_batch"


class Negatives(NamedTuple):
    """
    Mismatched candidates of N samples.

    Attributes:
        target: `(K, D)`, constants of unit norm.
        mask: `(N, K)` bool, True where the sample may use the candidate.
    """

    target: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class StepTotals:
    """
    Sums over the samples of one optimiser step, all micro-batches and processes together: scalars on the device.

    Attributes:
        rows: number of samples.
        targets: number of samples with a target.
        ranked: number of those in a micro-batch with another sample, whose action features L_rank permutes with.
        weight: `Σ w`.
        credit: `Σ w n` with the number `n` that a sample counts for in the action loss, see [`Step`]: its divisor.
        squares: `Σ w²`.
        spread: `Σ (w - 1)²`; computed from `squares`, the spread of weights near 1 would be rounding error.
    """

    rows: torch.Tensor
    targets: torch.Tensor
    ranked: torch.Tensor
    weight: torch.Tensor
    credit: torch.Tensor
    squares: torch.Tensor
    spread: torch.Tensor

    def metrics(self) -> dict[str, torch.Tensor]:
        """Mean and standard deviation of the weights, and their effective sample size divided by n."""
        mean = self.weight / self.rows
        return {
            "weight_mean": mean,
            "weight_std": (self.spread / self.rows - (mean - 1.0).square()).clamp(min=0.0).sqrt(),
            "ess": sample_size_of_sums(self.weight, self.squares.clamp(min=1e-30)) / self.rows,
        }


@torch.no_grad()
def step_totals(
    weights: Sequence[torch.Tensor],
    has_target: Sequence[torch.Tensor] = (),
    gather: Gather | None = None,
    counts: Sequence[torch.Tensor] = (),
) -> StepTotals:
    """
    Sums over all micro-batches of a step and all processes.

    Args:
        weights: one tensor `(N,)` per micro-batch.
        has_target: one tensor `(N,)` bool per micro-batch; empty without a scorer.
        gather: concatenates the rows of all processes; None for a single process.
        counts: one tensor `(N,)` per micro-batch, see [`Step`]; empty where each sample counts once.
    """
    weight = torch.cat([each.float() for each in weights])
    none = torch.zeros_like(weight)
    targets = torch.cat(list(has_target)).float() if has_target else none
    ranked = torch.cat([can_rank(each) for each in has_target]).float() if has_target else none
    credit = weight * torch.cat(list(counts)) if counts else weight
    deviation = weight - 1.0
    rows = (none + 1.0, targets, ranked, weight, credit, weight.square(), deviation.square())
    sums = torch.stack(rows).sum(dim=1)
    return StepTotals(*(sums if gather is None else gather(sums[None]).sum(dim=0)))


def can_rank(has_target: torch.Tensor) -> torch.Tensor:
    """
    The samples `(N,)` of a micro-batch that have a term in L_rank. None for a single sample: permuted within the
    minibatch, its action features are its own, and the term would be `log 2` without a gradient.
    """
    return has_target if len(has_target) > 1 else torch.zeros_like(has_target)


@dataclass
class Step:
    """
    One optimiser step of this process. `Trainer` hands it to every micro-batch as `num_items_in_batch`.

    Attributes:
        batches: the micro-batches.
        totals: sums that divide the losses; set together with the weights.
        weights: one tensor `(N,)` per micro-batch, without gradient; empty while they are not known.
        counts: one tensor `(N,)` per micro-batch, what each sample counts for in the action loss: its valid steps;
            empty where each counts once.
        negatives: negatives of each micro-batch; empty without a scorer, and before they are drawn.
        targets: one tensor `(N, D)` per micro-batch, encoded in the pre-pass; empty without one.
    """

    batches: Sequence[Batch]
    totals: StepTotals = field(init=False)
    weights: list[torch.Tensor] = field(default_factory=list)
    counts: list[torch.Tensor] = field(default_factory=list)
    negatives: list[Negatives] = field(default_factory=list)
    targets: list[torch.Tensor | None] = field(default_factory=list)

    def credit(self, number: int) -> torch.Tensor:
        """`w n` of each sample of a micro-batch, `(N,)`: what its action loss is multiplied by."""
        return self.weights[number] * self.counts[number] if self.counts else self.weights[number]


def model_inputs(batch: Batch, without: Sequence[str] = ()) -> Batch:
    """The arguments of [`PTRModel`] in a batch, except those named in `without`."""
    return {name: batch[name] for name in MODEL_INPUTS if name in batch and name not in without}


def recall_belief(batches: Sequence[Batch], carry: BeliefCarry, dropout: float = 0.0) -> None:
    """
    Adds to the batches of a step the belief tokens that the step before left (`carried_tokens`, `carried`), and
    empties `carry` for the tokens of this step: no micro-batch finds the tokens of another. With the probability
    `dropout` a chunk begins with `z_init` instead.
    """
    for batch in batches:
        batch["carried_tokens"], found = carry.recall(batch["previous_index"])
        if found is not None and dropout > 0.0:
            found = found & (torch.rand(len(found), device=found.device) >= dropout)
        batch["carried"] = found
    carry.clear()


def candidates_of(policy: Any, batch: Batch, output: Any) -> Candidates:
    """The targets `(N, D)` in the [`PTROutput`] of a batch, with the fields that decide valid negatives."""
    state = policy.normalized_state(batch["state"]).detach()
    if "state_dim_mask" in batch:
        state = state.masked_fill(~batch["state_dim_mask"], 0.0)
    return Candidates(
        target=output.target,
        target_id=batch["target_index"],
        task=batch["task_index"],
        state=state,
        valid=batch["has_target"],
    )


def pad_rows(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """
    `(N, …)` to `(rows, …)`, constant, filled with zeros (False in `valid`): the processes of a step may differ in N,
    and a gather of equal shapes needs no exchange of sizes.
    """
    return torch.cat((tensor.detach(), tensor.new_zeros((rows - tensor.shape[0], *tensor.shape[1:]))))
