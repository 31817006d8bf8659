"""Figures that the trainer, the command line and the `evaluate` modules share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def identified(logits: torch.Tensor) -> torch.Tensor:
    """Whether the match stands above every candidate: `(N,)` bool of logits `(N, 1+K)`, column 0 the match."""
    best = logits[:, 1:].amax(dim=1) if logits.shape[1] > 1 else logits.new_zeros(len(logits))
    return logits[:, 0] > best


def auroc(good: np.ndarray, bad: np.ndarray) -> float | None:
    """The probability that a good sample's score is above a bad one's, ties counted half; None without either."""
    if len(good) == 0 or len(bad) == 0:
        return None
    # Takes a second to import, and the trainer, which reads this file, needs none of it.
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


def action_mse(actions: np.ndarray, recorded: np.ndarray) -> float:
    """
    Mean squared error over steps and dimensions, in squared action units.

    Args:
        actions, recorded: `(N, d)`, the valid steps alone.

    Raises:
        ValueError: when the two differ in shape, or there is no step.
    """
    if actions.shape != recorded.shape or actions.size == 0:
        raise ValueError(f"actions {actions.shape} and recorded {recorded.shape} must be the same steps, at least one")
    return float(np.square(actions.astype(np.float64) - recorded).mean())
