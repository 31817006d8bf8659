"""The equations of PTR Sec. 5 that are plain arithmetic, for numbers, NumPy arrays and tensors alike.

`hf_ptr.functional` exports them together with the others. This module does not import PyTorch, which takes seconds, so
that a report can use it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# The largest finite float32.
FLOAT32_MAX = 3.4028234663852886e38


def mixed_weight(weight: Any, alpha: Any) -> Any:
    """``1 + alpha (w - 1)``, the mixture with 1 of PTR Eq. (21).

    Args:
        weight: a number, an array or a tensor of any shape.
        alpha: mixing coefficient in [0, 1], of the same type or a number; 0 gives 1 everywhere.
    """
    return 1.0 + alpha * (weight - 1.0)


def weight_bounds(alpha: float, w_min: float, w_max: float) -> tuple[float, float]:
    """Least and greatest weight after the mixture with 1: ``1 + alpha (w_min - 1)``, ``1 + alpha (w_max - 1)``.

    ``low / E[w] <= q/p <= high / E[w]`` for the reweighted distribution ``q`` (PTR Eq. 22-25).

    Raises:
        ValueError: not ``0 <= alpha <= 1`` or not ``0 <= w_min <= w_max``, or a number is not finite.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if not 0.0 <= w_min < math.inf:
        raise ValueError(f"w_min must be a finite number of at least 0, got {w_min}")
    if not 0.0 < w_max <= FLOAT32_MAX:
        raise ValueError(f"w_max must be a number above 0 that is finite in float32, got {w_max}")
    if w_min > w_max:
        raise ValueError(f"w_min must be at most w_max, got w_min {w_min} and w_max {w_max}")
    return mixed_weight(w_min, alpha), mixed_weight(w_max, alpha)


def kl_bound(alpha: float, w_min: float, w_max: float) -> float:
    """``KL(q || p) <= log(high / low)`` in nats, PTR Eq. (26); ``log 16`` at the defaults, inf when ``low`` is 0.

    Raises:
        ValueError: as in :func:`weight_bounds`.
    """
    low, high = weight_bounds(alpha, w_min, w_max)
    return math.log(high / low) if low > 0.0 else math.inf


def sample_size_of_sums(total: Any, squares: Any) -> Any:
    """Effective sample size ``(sum w)^2 / sum w^2`` of weights, from their two sums.

    Args:
        total: ``sum w``.
        squares: ``sum w^2``, above 0.
    """
    return total * total / squares


def share_ratio(weight: Any, weights: Any, count: Any, counts: Any) -> Any:
    """``q(m) / pi_m``: a source's share of the weight over its share of the samples, PTR Eq. (29).

    Args:
        weight: sum of the source's weights.
        weights: sum of all weights, above 0.
        count: number of the source's samples, above 0.
        counts: number of all samples.
    """
    return (weight / count) / (weights / counts)


def source_shift(weight: Any, source: Sequence[str]) -> dict[str, float]:
    """Change of each source's share by the weights: ``q(m) / pi_m = E_m[w] / E[w]``, PTR Eq. (29-30).

    For reports: computed on the host in float64.

    Args:
        weight: ``(n,)`` array or tensor, at least 0.
        source: ``n`` names.

    Returns:
        One ratio per source, in order of appearance, within ``[low/high, high/low]`` of :func:`weight_bounds`.

    Raises:
        ValueError: the lengths differ, or a weight is negative or not finite, or all are 0.
    """
    if getattr(weight, "ndim", None) != 1 or not len(weight):
        raise ValueError(f"weight must be of shape (n,), got {tuple(getattr(weight, 'shape', ()))}")
    values = np.asarray(weight.tolist(), dtype=np.float64)
    if isinstance(source, str) or len(source) != len(values):
        got = "one string" if isinstance(source, str) else f"{len(source)}"
        raise ValueError(f"source must be a sequence of {len(values)} names, one for each weight, got {got}")
    wrong = values[~(np.isfinite(values) & (values >= 0.0))]
    if len(wrong):
        raise ValueError(f"weight must be finite and at least 0, got {wrong[0]} ({len(wrong)} of {len(values)})")
    if not values.any():
        raise ValueError(f"weight must not be 0 throughout, got {len(values)} zeros")
    names, first, place, counts = np.unique(
        np.asarray(source), return_index=True, return_inverse=True, return_counts=True
    )
    ratios = share_ratio(np.bincount(place, values), values.sum(), counts, len(values))
    return {str(names[number]): float(ratios[number]) for number in np.argsort(first)}
