"""Paired comparisons between arms: differences and recovered gaps with confidence intervals, McNemar tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binomtest, t

DRAWS = 4_000
LEVEL = 0.95

Outcomes = Mapping[int, np.ndarray]
"""By seed, `(tasks, rollouts)` bool: which rollouts solved their task. Arms share the initial states of a seed."""
Cells = Mapping[tuple[str, str, str], Outcomes]
"""Outcomes by suite, corruption and arm."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval; `value` is None where it is not defined."""

    value: float | None
    interval: tuple[float, float] | None = None


def rate(outcomes: Outcomes) -> float:
    """Success rate: the mean over seeds of the share of solved rollouts."""
    return float(np.mean([solved.mean() for solved in outcomes.values()]))


def resampled_rates(arms: Mapping[str, Outcomes], draws: int = DRAWS) -> dict[str, np.ndarray]:
    """
    Success rates of several arms in a two-level bootstrap: seeds are drawn with replacement, then the rollouts of each
    task within each drawn seed. All arms use the same draws, so that differences stay paired.

    Args:
        arms: outcomes with the same seeds and shapes.
        draws: number of resamples.

    Returns:
        `(draws,)` for each arm.
    """
    seeds = sorted(next(iter(arms.values())))
    stacked = {name: np.stack([outcomes[seed] for seed in seeds]) for name, outcomes in arms.items()}
    times = _times_drawn(next(iter(stacked.values())).shape, draws)
    # The counts are integers, exact in float32.
    return {
        name: (times @ values.ravel().astype(np.float32)).astype(np.float64) / values.size
        for name, values in stacked.items()
    }


@lru_cache(maxsize=8)
def _times_drawn(shape: tuple[int, int, int], draws: int) -> np.ndarray:
    """How often each rollout of `(seeds, tasks, rollouts)` is drawn, `(draws, seeds * tasks * rollouts)`."""
    seeds, tasks, rollouts = shape
    rng = np.random.default_rng(0)
    times = np.empty((draws, seeds * tasks * rollouts), np.float32)
    for row in times:
        seed = rng.integers(seeds, size=(seeds, 1, 1))
        rollout = rng.integers(rollouts, size=shape)
        drawn = (seed * tasks + np.arange(tasks)[None, :, None]) * rollouts + rollout
        row[:] = np.bincount(drawn.ravel(), minlength=len(row))
    return times


def difference(mine: Outcomes, other: Outcomes, draws: int = DRAWS) -> Estimate:
    """
    Success rate of `mine` minus that of `other`, over the seeds that both have.

    The interval is the wider of two: the paired two-level bootstrap, which is too narrow with few seeds, and Student's
    t over the differences of the seeds, which is too narrow where these happen to be similar. A single seed contains
    no information about the variance between runs and has no interval.
    """
    mine, other = _shared(mine, other)
    if not mine:
        return Estimate(None)
    by_seed = np.array([mine[seed].mean() - other[seed].mean() for seed in mine])
    value = float(by_seed.mean())
    if len(by_seed) == 1:
        return Estimate(value)
    rates = resampled_rates({"mine": mine, "other": other}, draws)
    low, high = _interval(rates["mine"] - rates["other"])
    half = _half_width(by_seed)
    if 2 * half > high - low:
        low, high = value - half, value + half
    return Estimate(value, (low, high))


def mean_difference(pairs: Sequence[tuple[Outcomes, Outcomes]]) -> Estimate:
    """
    The mean over several settings, each counted alike, of the success rate of the first minus that of the second.

    Only the seeds that all settings have count; the interval is Student's t over them. One seed has no interval.
    """
    seeds = sorted(set.intersection(*(set(mine) & set(other) for mine, other in pairs))) if pairs else []
    if not seeds:
        return Estimate(None)
    by_seed = np.array([np.mean([mine[seed].mean() - other[seed].mean() for mine, other in pairs]) for seed in seeds])
    value = float(by_seed.mean())
    if len(seeds) == 1:
        return Estimate(value)
    half = _half_width(by_seed)
    return Estimate(value, (value - half, value + half))


def _half_width(values: np.ndarray) -> float:
    """Half the width of Student's t interval of the mean of two or more values."""
    return float(t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def recovered_gap(arm: Outcomes, sft: Outcomes, oracle: Outcomes, draws: int = DRAWS) -> Estimate:
    """
    `(arm - SFT) / (oracle - SFT)`: the share of the gain from oracle weights that the arm achieves.

    Undefined for a single seed, and where the oracle is not significantly better than SFT. The interval covers two:
    that of the bootstrap, which is too narrow with few seeds, and Fieller's over the paired differences of the seeds.
    """
    arm, sft, oracle = _shared(arm, sft, oracle)
    if len(arm) < 2:
        return Estimate(None)
    rates = resampled_rates({"arm": arm, "sft": sft, "oracle": oracle}, draws)
    gap = rates["oracle"] - rates["sft"]
    if _interval(gap)[0] <= 0:
        return Estimate(None)
    # Without a gap the sign of the ratio is meaningless. The check above limits such draws to less than 2.5 %.
    positive = gap > 0
    low, high = _interval((rates["arm"] - rates["sft"])[positive] / gap[positive])
    gains = np.array([[other[seed].mean() - sft[seed].mean() for seed in sft] for other in (arm, oracle)])
    mean = gains.mean(axis=1)
    # The ratios ρ with |mean(arm - ρ oracle)| within t standard errors are those between the roots of a parabola.
    spread = t.ppf(0.5 + LEVEL / 2, gains.shape[1] - 1) ** 2 * np.cov(gains) / gains.shape[1]
    (c, b), (_, a) = np.outer(mean, mean) - spread
    if a <= 0:
        # Over the seeds alone the oracle is not significantly different from SFT: the interval is unbounded.
        return Estimate(None)
    half = np.sqrt(max(0.0, b * b - a * c)) / a
    low, high = min(low, b / a - half), max(high, b / a + half)
    return Estimate(float(mean[0] / mean[1]), (float(low), float(high)))


def mcnemar(mine: np.ndarray, other: np.ndarray) -> float:
    """
    The exact two-sided p-value of the McNemar test of two checkpoints, from paired rollouts `(tasks, rollouts)` bool.

    The test applies to one seed: over several seeds, training runs vary as well as rollouts.
    """
    won, lost = int((mine & ~other).sum()), int((~mine & other).sum())
    return 1.0 if won + lost == 0 else float(binomtest(won, won + lost).pvalue)


def significant_seeds(mine: Outcomes, other: Outcomes, level: float = 0.05) -> tuple[int, int, int]:
    """Numbers of shared seeds in which `mine` is significantly better or worse (McNemar), and of all shared seeds."""
    mine, other = _shared(mine, other)
    significant = [seed for seed in mine if mcnemar(mine[seed], other[seed]) < level]
    better = sum(mine[seed].mean() > other[seed].mean() for seed in significant)
    return int(better), len(significant) - int(better), len(mine)


def verdict(estimate: Estimate) -> str:
    """`better` or `worse` if the confidence interval of a difference excludes 0, otherwise `not significant`."""
    if estimate.interval is None:
        return "not measured" if estimate.value is None else "one seed"
    low, high = estimate.interval
    return "better" if low > 0 else "worse" if high < 0 else "not significant"


def _shared(*arms: Outcomes) -> tuple[dict[int, np.ndarray], ...]:
    seeds = set.intersection(*(set(outcomes) for outcomes in arms)) if arms else set()
    return tuple({seed: outcomes[seed] for seed in sorted(seeds)} for outcomes in arms)


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def outcomes_of(strings: Mapping[str, str], tasks: Sequence[str]) -> np.ndarray:
    """Converts the outcomes of a result, `{"reach-v3": "1101…"}`, to `(tasks, rollouts)` bool."""
    return np.array([[mark == "1" for mark in strings[task]] for task in tasks])
