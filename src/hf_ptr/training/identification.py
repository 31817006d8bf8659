"""Identification logits, scores and weights from one pass of the model (PTR Sec. 4, 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from hf_ptr import functional as F
from hf_ptr.ptr import AdaptiveScaleController, CandidatePool, Candidates
from hf_ptr.training.micro_batches import Batch, Gather, Negatives, Step, StepTotals, pad_rows, step_totals
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTROutput

# The metrics that the controller reads, and the arguments of its update.
CONTROLLER_METRICS = {
    "nce_acc": "accuracy",
    "nce_margin": "margin",
    "ptr_score": "score",
    "valid_ratio": "valid_ratio",
}
# Weights this near to a bound count as clipped.
CLIP_TOLERANCE = 1e-4


class Identified(NamedTuple):
    """
    The identification of N samples.

    Attributes:
        logits: `(N, 1 + K)`, PTR Eq. (12), column 0 the match.
        log_probability: `(N,)`, of the match among the candidates.
        score: `(N,)`, PTR Eq. (14), no gradient.
        matched: `(N,)`, the logit of the match, `d⁺_0` of PTR Eq. (13).
        permuted: `(N,)`, the logit of the match under another sample's action, `d⁻_0` of PTR Eq. (13).
        has_target: `(N,)` bool.
        discount: `(N,)`, `γ^{Δ'}`; None for 1.
    """

    logits: torch.Tensor
    log_probability: torch.Tensor
    score: torch.Tensor
    matched: torch.Tensor
    permuted: torch.Tensor
    has_target: torch.Tensor
    discount: torch.Tensor | None


@torch.no_grad()
def with_mean(
    weights: Sequence[torch.Tensor], has_target: Sequence[torch.Tensor], gather: Gather | None = None
) -> list[torch.Tensor]:
    """
    Gives the samples of a step without a target the mean weight of those with one, over all micro-batches and
    processes; 1 where no sample has one.

    Args:
        weights: one tensor `(N,)` per micro-batch.
        has_target: one tensor `(N,)` bool per micro-batch.
        gather: concatenates the rows of all processes; None for a single process.
    """
    has, weight = torch.cat(list(has_target)), torch.cat(list(weights)).float()
    sums = torch.stack((torch.where(has, weight, 0.0).sum(), has.sum().float()))
    total, count = sums if gather is None else gather(sums[None]).sum(dim=0)
    mean = torch.where(count > 0, total / count.clamp(min=1.0), 1.0)
    return [torch.where(has, weight, mean) for weight, has in zip(weights, has_target, strict=True)]


class Identification:
    """
    Draws the negatives of a step and turns outputs of [`PTRModel`] into logits and weights. Holds the parts of the
    method that have a state but no trained parameter.

    Args:
        args: settings of the run.
        gather: concatenates `(N, …)` tensors of all processes along the first dimension; None for a single process.

    Attributes:
        pool: queue of earlier targets.
        controller: temperature τ, scale β and hard-negative ratio.
    """

    def __init__(self, args: PTRConfig, gather: Gather | None = None):
        self.args = args
        self.gather = gather
        self.pool = CandidatePool(
            args.queue_size, args.queue_negatives, args.hard_negatives, args.hard_negatives_among
        )
        self.controller = AdaptiveScaleController(
            args.scorer_temperature,
            args.beta,
            args.controller_decay,
            args.adaptive_scale,
            args.time_constants.controller_stride,
        )

    @torch.no_grad()
    def draw_negatives(self, candidates: Sequence[Candidates], step: int, rows: int | None = None) -> list[Negatives]:
        """
        Draws the negatives of a step from its own candidates, those of all processes, and the queue; then puts the
        step's targets into the queue. The draw from the queue is the same in every process and micro-batch.

        Args:
            candidates: candidates of each micro-batch.
            step: optimiser steps done, which seeds the draw.
            rows: number of rows that each process contributes to a gather, filled up with invalid ones.

        Returns:
            The negatives of each micro-batch.
        """
        mine = candidates[0] if len(candidates) == 1 else Candidates.joined(candidates)
        gathered = mine
        if self.gather is not None and self.args.cross_rank_negatives:
            padded = {
                name: tensor if rows is None else pad_rows(tensor, rows) for name, tensor in mine.tensors().items()
            }
            gathered = Candidates(**{name: self.gather(tensor) for name, tensor in padded.items()})
        generator = torch.Generator(mine.valid.device).manual_seed(self.args.seed * 1_000_003 + step)
        target, mask = self.pool.negatives(mine, gathered, self.controller.hard_negative_ratio, generator)
        self.pool.push(gathered)
        return [Negatives(target, each) for each in mask.split([len(each.valid) for each in candidates])]

    def logits(self, output: PTROutput, negatives: Negatives) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The identification logits `(N, 1 + K)` of PTR Eq. (12), and the logit `(N,)` of the same matched target under
        the permuted action, `d⁻_0` of PTR Eq. (13).

        Args:
            output: output of the model, with `query`, `permuted_query` and the matched `target`.
            negatives: negatives of the same samples.
        """
        assert output.query is not None and output.permuted_query is not None and output.target is not None
        logits = F.identification_logits(
            output.query,
            output.target,
            negatives.target,
            temperature=self.controller.temperature,
            negative_mask=negatives.mask,
            logit_clamp=self.args.logit_clamp,
            normalized=True,
        )
        return logits, self._match_logit(output.permuted_query, output.target)

    def identify(self, output: PTROutput, negatives: Negatives, batch: Batch) -> Identified:
        """
        The identification of a micro-batch.

        Args:
            output, negatives: as for [`~Identification.logits`].
            batch: the micro-batch.
        """
        logits, permuted = self.logits(output, negatives)
        log_probability = F.match_log_probability(logits)
        score = F.ptr_score(logits.detach(), log_probability=log_probability.detach())
        # Computed again: the gradient of column 0 alone would be a matrix of zeros as large as the logits.
        matched = self._match_logit(output.query, output.target)
        return Identified(logits, log_probability, score, matched, permuted, batch["has_target"], self.discount(batch))

    def _match_logit(self, query: Any, target: Any) -> torch.Tensor:
        scales = {"temperature": self.controller.temperature, "logit_clamp": self.args.logit_clamp}
        return F.match_logit(query, target, **scales)

    @torch.no_grad()
    def weigh(self, step: Step, scores: Sequence[torch.Tensor], number: int) -> None:
        """
        Sets the weights of a step and the sums that its losses are divided by.

        Args:
            step: the step with all its micro-batches.
            scores: one tensor `(N,)` per micro-batch, PTR Eq. (14).
            number: optimiser steps done.
        """
        has_target = [batch["has_target"].to(scores[0].device) for batch in step.batches]
        discounts = [self.discount(batch, scores[0].device) for batch in step.batches]
        each = zip(scores, has_target, discounts, strict=True)
        step.weights = [self.weight(*micro_batch, number) for micro_batch in each]
        if self.args.missing_target_weight == "mean":
            step.weights = with_mean(step.weights, has_target, self.gather)
        step.totals = step_totals(step.weights, has_target, self.gather, step.counts)

    @torch.no_grad()
    def weight(
        self, score: torch.Tensor, has_target: torch.Tensor, discount: torch.Tensor | None, step: int
    ) -> torch.Tensor:
        """
        The conservative weight `(N,)` of PTR Eq. (21); 1 without a target (before `missing_target_weight` is
        regarded) and during the warm-up.

        Args:
            score: `(N,)`, PTR Eq. (14).
            has_target: `(N,)` bool.
            discount: `(N,)`, `γ^{Δ'}`; None for 1.
            step: optimiser steps done.
        """
        args = self.args
        if step < args.time_constants.nce_warmup_steps:
            return torch.ones_like(score)
        w_min, w_max = args.weight_clip
        weight = F.conservative_weight(
            score, beta=self.controller.beta, alpha=args.alpha, w_min=w_min, w_max=w_max, valid=has_target
        )
        if discount is not None and args.discount_weight:
            weight = F.mixed_weight(weight, discount)
        return weight

    def discount(self, batch: Batch, device: torch.device | None = None) -> torch.Tensor | None:
        """`γ^{Δ'}` of each sample, `(N,)`; None for 1."""
        if self.args.discount == 1.0:
            return None
        offset = batch["target_offset"]
        return self.args.discount ** (offset.to(device or offset.device) / batch["actions"].shape[1])

    @torch.no_grad()
    def metrics(self, identified: Identified, weight: torch.Tensor, totals: StepTotals) -> dict[str, torch.Tensor]:
        """The share that N samples have in the step's means over the samples with a target: scalars on the device."""
        score, mismatched = identified.score, identified.logits[:, 1:]
        best = mismatched.amax(dim=1) if mismatched.shape[1] else torch.zeros_like(score)
        margin = identified.matched - best
        low, high = F.weight_bounds(self.args.alpha, *self.args.weight_clip)
        values = {
            "nce_acc": margin > 0.0,
            "nce_margin": margin.nan_to_num(posinf=0.0),
            "ptr_score": score,
            "weight_clip_low": weight <= low + CLIP_TOLERANCE,
            "weight_clip_high": weight >= high - CLIP_TOLERANCE,
        }
        rows = torch.stack([value.to(score.dtype) for value in values.values()])
        shares = torch.where(identified.has_target, rows, 0.0).sum(dim=1) / totals.targets.clamp(min=1.0)
        return dict(zip(values, shares.unbind(), strict=True))

    def adapt(self, means: Mapping[str, float]) -> None:
        """
        One step of the controller (PTR Sec. 7).

        Args:
            means: the `CONTROLLER_METRICS`, as means over the steps since the last one.
        """
        self.controller.update(**{argument: means[name] for name, argument in CONTROLLER_METRICS.items()})

    def scales(self) -> dict[str, float]:
        """The metrics `scorer_temperature`, `beta` and `hard_negative_ratio`: the present values of the controller."""
        return {
            "scorer_temperature": self.controller.temperature,
            "beta": self.controller.beta,
            "hard_negative_ratio": self.controller.hard_negative_ratio,
        }
