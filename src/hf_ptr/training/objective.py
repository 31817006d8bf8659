"""The PTR objective: from the outputs of one pass to weights and named losses (PTR Sec. 4, 5 and 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn.functional import logsigmoid

from hf_ptr import functional as F
from hf_ptr.metrics.statistics import identified
from hf_ptr.ptr import AdaptiveScaleController, CandidatePool, Candidates
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTROutput
from hf_ptr.training.window import Totals, Window, count

Gather = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Losses:
    """
    The named parts of the objective of one micro-batch, and what the metrics are made of. Everything stays on the
    device. Losses and metrics are shares of those of the optimiser step: their sum over its micro-batches, averaged
    over the ranks, is the figure of the global batch.

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
        window: Window | None = None,
        part: int = 0,
    ) -> Losses:
        """
        Args:
            output: of the model, over N chunks.
            candidates: the samples' targets and ids; None without a scorer.
            discount: `(N,)`, `γ^{Δ'}` of each sample; None for 1.
            step: optimiser steps done, for the warm-up and the draws from the queue.
            given_weight: `(N,)`, weights that came with the data, used where there is no scorer.
            window: the optimiser step that these chunks are a micro-batch of, and `part`, which; None where they are
                all of it on this rank.
        """
        assert output.action_loss is not None
        loss = output.action_loss
        if candidates is not None:
            losses, totals = self._scored(output, candidates, discount, step, window, part)
        else:
            if window is None:
                window = self.weighed([torch.ones_like(loss).detach() if given_weight is None else given_weight])
            weight, totals = window.weights[part], window.totals
            losses = Losses(action=totals.weighted_mean(loss, weight, self.ranks), weight=weight)
            if part == 0 and given_weight is not None:
                losses.metrics.update(totals.metrics())
        if output.belief_loss is not None and output.belief_entropy is not None:
            share = len(loss) * self.ranks / totals.rows
            losses.auxiliary["tok"] = output.belief_loss * share
            losses.metrics["loss_tok"] = losses.auxiliary["tok"].detach()
            losses.metrics["belief_entropy"] = output.belief_entropy * share
        losses.metrics["loss_action"] = losses.action.detach()
        return losses

    def _scored(
        self,
        output: PTROutput,
        candidates: Candidates,
        discount: torch.Tensor | None,
        step: int,
        window: Window | None,
        part: int,
    ) -> tuple[Losses, Totals]:
        assert output.action_loss is not None
        args, valid = self.args, candidates.valid
        if window is None:
            # The weights of a step that is one micro-batch come from its only pass.
            window = self.drawn([candidates], step)
            logits, permuted = self.logits(output, candidates, window)
            self._weigh(window, [logits.detach()], [discount], step)
        else:
            logits, permuted = self.logits(output, candidates, window, part)
        weight, score, totals = window.weights[part], window.scores[part], window.totals
        surprise = -F.match_log_probability(logits)
        identification = self._over_valid(surprise if discount is None else discount * surprise, valid, totals)
        ranking = self._over_valid(-logsigmoid(logits[:, 0] - permuted), valid, totals)
        losses = Losses(
            action=totals.weighted_mean(output.action_loss, weight, self.ranks),
            weight=weight,
            auxiliary={"id": args.lambda_id * identification, "rank": args.lambda_rank * ranking},
            score=score,
        )
        losses.metrics.update(loss_id=identification.detach(), loss_rank=ranking.detach())
        losses.metrics.update(self._scoring_metrics(logits.detach(), score, weight, valid, totals))
        if part == 0:
            losses.metrics.update(totals.metrics(), valid_ratio=totals.valid / totals.rows)
        return losses, totals

    # ---- what an optimiser step shares: negatives, weights, and what they sum up to

    def weighed(self, weights: Sequence[torch.Tensor]) -> Window:
        """The step whose micro-batches have these weights, each `(N,)`, where no scorer is needed for them."""
        window = Window(weights=list(weights))
        window.totals = count(weights, [], self.gather)
        return window

    @torch.no_grad()
    def drawn(self, candidates: Sequence[Candidates], step: int) -> Window:
        """
        Draws the negatives of a step: of its micro-batches' candidates, of those of all ranks, and of the queue, in
        which the draw is the same whichever rank and micro-batch asks.
        """
        mine = candidates[0] if len(candidates) == 1 else Candidates.joined(candidates)
        gathered = mine
        if self.gather is not None and self.args.cross_rank_negatives:
            gathered = Candidates(**{name: self.gather(tensor) for name, tensor in mine.tensors().items()})
        self._gathered = gathered
        draw = torch.Generator(mine.valid.device).manual_seed(self.args.seed * 1_000_003 + step)
        negatives, mask = self.pool.negatives(mine, gathered, self.controller.hard_negative_ratio, draw)
        sizes = [len(each.valid) for each in candidates]
        return Window(negatives=negatives, masks=list(mask.split(sizes)), valid=[each.valid for each in candidates])

    @torch.no_grad()
    def survey(
        self,
        passes: Sequence[PTROutput],
        candidates: Sequence[Candidates],
        discounts: Sequence[torch.Tensor | None],
        step: int,
    ) -> Window:
        """
        The weights of all micro-batches of a step, from a pass over each of them without gradient: only with all of
        them is it known what they are normalised by.
        """
        window = self.drawn(candidates, step)
        logits = [
            self.logits(output, each, window, part)[0]
            for part, (output, each) in enumerate(zip(passes, candidates, strict=True))
        ]
        self._weigh(window, logits, discounts, step)
        return window

    def _weigh(
        self, window: Window, logits: Sequence[torch.Tensor], discounts: Sequence[torch.Tensor | None], step: int
    ) -> None:
        window.scores = [F.ptr_score(each) for each in logits]
        window.weights = [
            self.weight(score, valid, discount, step)
            for score, valid, discount in zip(window.scores, window.valid, discounts, strict=True)
        ]
        window.totals = count(window.weights, window.valid, self.gather)

    def logits(
        self, output: PTROutput, candidates: Candidates, window: Window | None = None, part: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The identification logits `(N, 1+K)` of PTR Eq. (12), and the permuted query's logit `(N,)` against the same
        matched target, for PTR Eq. (13). Without a window the negatives are drawn for these chunks alone.
        """
        drawn = self.drawn([candidates], step=0) if window is None else window
        assert output.query is not None and output.permuted_query is not None and drawn.negatives is not None
        target, negatives = candidates.target, drawn.negatives
        equation = partial(
            F.identification_logits,
            temperature=self.controller.temperature,
            logit_clamp=self.args.logit_clamp,
            normalized=True,
        )
        logits = equation(output.query, target, negatives, negative_mask=drawn.masks[part])
        permuted = equation(output.permuted_query, target, negatives[:0])
        return logits, permuted[:, 0]

    def adapt(self, means: dict[str, float]) -> dict[str, float]:
        """Lets the controller take its step after a log's means, and tells where it stands; {} without a scorer."""
        if "nce_acc" not in means:
            return {}
        self.controller.update(
            accuracy=means["nce_acc"],
            margin=means["nce_margin"],
            score=means["ptr_score"],
            valid_ratio=means["valid_ratio"],
        )
        return {
            "scorer_temperature": self.controller.temperature,
            "beta": self.controller.beta,
            "hard_negative_ratio": self.controller.hard_negative_ratio,
        }

    def remember(self) -> None:
        """Puts the targets of the last step into the queue, after it has been scored."""
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

    def _over_valid(self, values: torch.Tensor, valid: torch.Tensor, totals: Totals) -> torch.Tensor:
        """Share of the mean of `values (N,)` over the step's valid samples; 0, still in the graph, without one."""
        return torch.where(valid, values, 0.0).sum() * self.ranks / totals.valid.clamp(min=1.0)

    @torch.no_grad()
    def _scoring_metrics(
        self, logits: torch.Tensor, score: torch.Tensor, weight: torch.Tensor, valid: torch.Tensor, totals: Totals
    ) -> dict[str, torch.Tensor]:
        """The scorer-side metrics as device scalars, over valid samples."""
        best_mismatched = logits[:, 1:].amax(dim=1) if logits.shape[1] > 1 else torch.zeros_like(score)
        low, high = F.weight_bounds(self.args.alpha, self.args.w_min, self.args.w_max)
        near = 1e-4
        seen = {
            "nce_acc": identified(logits).to(score.dtype),
            "nce_margin": (logits[:, 0] - best_mismatched).nan_to_num(posinf=0.0),
            "ptr_score": score,
            "weight_clip_low": (weight <= low + near).to(score.dtype),
            "weight_clip_high": (weight >= high - near).to(score.dtype),
        }
        return {name: self._over_valid(value, valid, totals) for name, value in seen.items()}
