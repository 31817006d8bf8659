"""The PTR objective: from the outputs of one pass to weights and named losses (PTR Sec. 4, 5 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn.functional import logsigmoid

from hf_ptr import functional as F
from hf_ptr.metrics.figures import identified
from hf_ptr.scoring import AdaptiveScaleController, CandidatePool, Candidates
from hf_ptr.training.config import PTRConfig
from hf_ptr.training.model import PTROutput

Gather = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Losses:
    """
    The named parts of the objective of one batch, and what the metrics are made of. Everything stays on the device.

    Args:
        action: scalar `L*_act`, PTR Eq. (27).
        auxiliary: the other losses by name (`id`, `rank`, `tok`), already multiplied by their λ.
        weight: `(N,)`, no gradient.
        score: `(N,)` in nats, no gradient; None without a scorer.
        metrics: scalars for the log.
    """

    action: torch.Tensor
    weight: torch.Tensor
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    score: torch.Tensor | None = None
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def total(self) -> torch.Tensor:
        """`L_total = L*_act + λ_id L_id + λ_rank L_rank + L_tok`, PTR Sec. 8."""
        return self.action + sum(self.auxiliary.values())


class PTRObjective:
    """
    Turns what [`PTRModel`] gives into the loss of one batch. Holds what has state but no trained parameter: the
    candidate pool and the scale controller.

    Args:
        args: the run's settings.
        gather: concatenates `(N, …)` tensors of all ranks along the first dimension; None on one device.
        ranks: number of ranks, over which the weights are normalised together.
    """

    def __init__(self, args: PTRConfig, gather: Gather | None = None, ranks: int = 1):
        self.args = args
        self.pool = CandidatePool(args.queue_size, args.queue_negatives, args.hard_negatives)
        self.controller = AdaptiveScaleController(
            args.scorer_temperature, args.beta, args.controller_decay, args.adaptive_scale
        )
        self.gather = gather
        self.ranks = ranks

    def __call__(
        self,
        output: PTROutput,
        candidates: Candidates | None,
        discount: torch.Tensor | None,
        step: int,
        given_weight: torch.Tensor | None = None,
    ) -> Losses:
        """
        Args:
            output: of the model, over N chunks.
            candidates: the samples' targets and ids; None without a scorer.
            discount: `(N,)`, `γ^{Δ'}` of each sample; None for 1.
            step: optimiser steps done, for the warm-up.
            given_weight: `(N,)`, weights that came with the data, used where there is no scorer.
        """
        assert output.action_loss is not None
        if candidates is not None:
            losses = self._scored(output, candidates, discount, step)
        elif given_weight is not None:
            losses = Losses(action=self._normalized(output.action_loss, given_weight), weight=given_weight)
            losses.metrics.update(weight_metrics(given_weight))
        else:
            losses = Losses(action=output.action_loss.mean(), weight=torch.ones_like(output.action_loss).detach())
        if output.belief_loss is not None and output.belief_entropy is not None:
            losses.auxiliary["tok"] = output.belief_loss
            losses.metrics["loss_tok"] = output.belief_loss.detach()
            losses.metrics["belief_entropy"] = output.belief_entropy
        losses.metrics["loss_action"] = losses.action.detach()
        return losses

    def _scored(self, output: PTROutput, candidates: Candidates, discount: torch.Tensor | None, step: int) -> Losses:
        assert output.action_loss is not None
        args, valid = self.args, candidates.valid
        logits, permuted = self.logits(output, candidates)
        surprise = -F.match_log_probability(logits)
        score = F.ptr_score(logits.detach())
        weight = self.weight(score, valid, discount, step)
        identification = self._mean_over(surprise if discount is None else discount * surprise, valid)
        ranking = self._mean_over(-logsigmoid(logits[:, 0] - permuted), valid)
        losses = Losses(
            action=self._normalized(output.action_loss, weight),
            weight=weight,
            auxiliary={"id": args.lambda_id * identification, "rank": args.lambda_rank * ranking},
            score=score,
        )
        losses.metrics.update(loss_id=identification.detach(), loss_rank=ranking.detach())
        losses.metrics.update(scoring_metrics(logits.detach(), score, weight, valid, args))
        return losses

    def logits(self, output: PTROutput, candidates: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The identification logits `(N, 1+K)` of PTR Eq. (12), and the permuted query's logit `(N,)` against the same
        matched target, for PTR Eq. (13).
        """
        gathered = candidates
        if self.gather is not None and self.args.cross_rank_negatives:
            gathered = Candidates(**{name: self.gather(tensor) for name, tensor in candidates.tensors().items()})
        negatives, mask = self.pool.negatives(candidates, gathered, self.controller.hard_negative_ratio)
        self._gathered = gathered
        assert output.query is not None and output.permuted_query is not None
        target = candidates.target
        equation = partial(
            F.identification_logits,
            temperature=self.controller.temperature,
            logit_clamp=self.args.logit_clamp,
            normalized=True,
        )
        logits = equation(output.query, target, negatives, negative_mask=mask)
        permuted = equation(output.permuted_query, target, negatives[:0])
        return logits, permuted[:, 0]

    def remember(self) -> None:
        """Puts the targets of the last batch into the queue, after it has been scored."""
        self.pool.push(self._gathered)

    def weight(
        self, score: torch.Tensor, valid: torch.Tensor, discount: torch.Tensor | None, step: int
    ) -> torch.Tensor:
        """The conservative weight `(N,)` of PTR Eq. (21); 1 for samples without a target and during the warm-up."""
        args = self.args
        if step < args.nce_warmup_steps:
            return torch.ones_like(score)
        weight = F.conservative_weight(
            score, beta=self.controller.beta, alpha=args.alpha, w_min=args.w_min, w_max=args.w_max, valid=valid
        )
        if discount is not None and args.discount_weight:
            weight = 1.0 + discount * (weight - 1.0)
        return weight

    def _normalized(self, loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`Σ w ℓ / Σ w` over the batch of all ranks, PTR Eq. (27)."""
        if self.gather is None:
            return F.self_normalized_mean(loss, weight)
        # The gradients of the ranks are averaged, so each rank's share of the sum is scaled up by their number.
        return (weight * loss).sum() * self.ranks / self.gather(weight.sum()[None]).sum().clamp(min=1e-12)

    def _mean_over(self, values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean of `values (N,)` over the valid samples of all ranks; 0, still part of the graph, without one."""
        total = valid.sum()[None]
        if self.gather is not None:
            total = self.gather(total)
        return torch.where(valid, values, 0.0).sum() * self.ranks / total.sum().clamp(min=1)


@torch.no_grad()
def scoring_metrics(
    logits: torch.Tensor, score: torch.Tensor, weight: torch.Tensor, valid: torch.Tensor, args: PTRConfig
) -> dict[str, torch.Tensor]:
    """The scorer-side metrics of one batch as device scalars; those of the score are over valid samples."""
    share = valid.to(score.dtype)
    count = share.sum().clamp(min=1.0)

    def over_valid(value: torch.Tensor) -> torch.Tensor:
        return torch.where(valid, value, torch.zeros_like(value)).sum() / count

    best_mismatched = logits[:, 1:].amax(dim=1) if logits.shape[1] > 1 else torch.zeros_like(score)
    low, high = F.weight_bounds(args.alpha, args.w_min, args.w_max)
    near = 1e-4
    return {
        "nce_acc": over_valid(identified(logits).to(score.dtype)),
        "nce_margin": over_valid((logits[:, 0] - best_mismatched).nan_to_num(posinf=0.0)),
        "ptr_score": over_valid(score),
        "valid_ratio": share.mean(),
        **weight_metrics(weight),
        "weight_clip_low": over_valid((weight <= low + near).to(score.dtype)),
        "weight_clip_high": over_valid((weight >= high - near).to(score.dtype)),
    }


def weight_metrics(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the log says of the weights `(N,)` of a batch, wherever they come from."""
    return {
        "weight_mean": weight.mean(),
        "weight_std": weight.std(correction=0),
        "ess": F.effective_sample_size(weight) / weight.numel(),
    }
