"""What one optimiser step is normalised by: sums over all its micro-batches, on all ranks (PTR Eq. 27)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class Totals:
    """
    Sums over the chunks of one optimiser step, as scalars on the device.

    Args:
        rows: how many chunks.
        valid: how many of them have a target.
        weight: `Σ w`.
        squared: `Σ w²`.
        spread: `Σ (w - 1)²`: from `squared` alone, the spread of weights near 1 would be rounding.
    """

    rows: torch.Tensor
    valid: torch.Tensor
    weight: torch.Tensor
    squared: torch.Tensor
    spread: torch.Tensor

    def weighted_mean(self, loss: torch.Tensor, weight: torch.Tensor, ranks: int) -> torch.Tensor:
        """
        The share of `Σ w ℓ / Σ w` (PTR Eq. 27) that N of the step's chunks have: the shares of a rank add up, and
        those of the ranks are averaged, as their gradients are. 0, still in the graph, when all weights are 0.

        Args:
            loss, weight: `(N,)`.
            ranks: over which the gradients are averaged.
        """
        total = torch.where(self.weight > 0, self.weight, 1.0)
        return (weight.detach() * ranks / total * loss).sum()

    def metrics(self) -> dict[str, torch.Tensor]:
        """What the log says of the weights, wherever they come from."""
        mean = self.weight / self.rows
        return {
            "weight_mean": mean,
            "weight_std": (self.spread / self.rows - (mean - 1.0).square()).clamp(min=0.0).sqrt(),
            "ess": self.weight.square() / (self.squared.clamp(min=1e-30) * self.rows),
        }


@torch.no_grad()
def count(
    weights: Sequence[torch.Tensor],
    valid: Sequence[torch.Tensor],
    gather: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Totals:
    """
    Args:
        weights: of each micro-batch, `(N,)`.
        valid: of each, `(N,)` bool; empty without a scorer.
        gather: of all ranks' rows; None on one device.
    """
    weight = torch.cat([each.float() for each in weights])
    targets = torch.cat(list(valid)).sum().float() if valid else weight.new_zeros(())
    ones = torch.ones_like(weight)
    sums = torch.stack((ones.sum(), targets, weight.sum(), weight.square().sum(), (weight - ones).square().sum()))
    return Totals(*(sums if gather is None else gather(sums[None]).sum(dim=0)))


@dataclass
class Window:
    """
    What the micro-batches of one optimiser step share; each list has one entry a micro-batch of this rank.

    Args:
        weights: `(N,)`, no gradient.
        totals: of all of them, on all ranks.
        scores: `(N,)` in nats; this and what follows only with a scorer.
        negatives: `(K, D)`.
        masks: `(N, K)` bool, which chunk may use which negative.
        valid: `(N,)` bool, which have a target.
    """

    weights: list[torch.Tensor] = field(default_factory=list)
    totals: Totals = field(init=False)
    scores: list[torch.Tensor] = field(default_factory=list)
    negatives: torch.Tensor | None = None
    masks: list[torch.Tensor] = field(default_factory=list)
    valid: list[torch.Tensor] = field(default_factory=list)
