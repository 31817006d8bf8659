"""Statistics shared by the trainer, the command line and the `evaluate` modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def identified(logits: torch.Tensor) -> torch.Tensor:
    """Whether the match has the highest logit: `(N,)` bool for logits `(N, 1+K)` with the match in column 0."""
    best = logits[:, 1:].amax(dim=1) if logits.shape[1] > 1 else logits.new_zeros(len(logits))
    return logits[:, 0] > best


def auroc(good: np.ndarray, bad: np.ndarray) -> float | None:
    """Probability that a good sample scores above a bad one, ties counted as 1/2; None if either class is empty."""
    if len(good) == 0 or len(bad) == 0:
        return None
    # Imported here because scipy.stats takes a second to load and the trainer, which imports this file, needs none.
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


def action_mse(actions: np.ndarray, recorded: np.ndarray) -> float:
    """
    Mean squared error over steps and dimensions, in squared action units.

    Args:
        actions, recorded: `(N, d)`, valid steps only.

    Raises:
        ValueError: the shapes differ, or there are no steps.
    """
    if actions.shape != recorded.shape or actions.size == 0:
        raise ValueError(f"actions {actions.shape} and recorded {recorded.shape} must have equal shapes and a step")
    return float(np.square(actions.astype(np.float64) - recorded).mean())


def mean_interval(values: np.ndarray) -> dict[str, Any]:
    """`{"mean", "interval": [low, high]}` with the 95 % t-interval of the mean; `interval` is None for one value."""
    from scipy import stats

    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "interval": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "interval": [mean - half, mean + half]}


def ratio_interval(values: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """
    The ratio of two means of paired positive values with its 95 % interval over the pairs.

    The interval is a t-interval of the logarithm (delta method), so it stays above zero. It excludes 1 where the
    means differ significantly.

    Args:
        values, reference: `(N,)`, at least 0.

    Returns:
        `{"mean": ratio, "interval": [low, high]}`. The ratio is NaN where the mean of `reference` is 0; `interval` is
        None there, for one pair, and where the mean of `values` is 0.
    """
    above, below = float(values.mean()), float(reference.mean())
    if below == 0:
        return {"mean": float("nan"), "interval": None}
    if above == 0 or len(values) < 2:
        return {"mean": above / below, "interval": None}
    # Of values that are proportional to the reference, the ratio is known exactly however much the pairs differ.
    change = mean_interval(values / above - reference / below)
    return {"mean": above / below, "interval": [float(above / below * np.exp(end)) for end in change["interval"]]}
