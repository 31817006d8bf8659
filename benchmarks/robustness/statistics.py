"""How sure are we? Intervals of paired comparisons between arms, and the two leading figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binomtest, t

DRAWS = 4_000
LEVEL = 0.95

Outcomes = Mapping[int, np.ndarray]
"""Of every seed, `(tasks, rollouts)` bool: which rollouts solved their task. Arms of a seed share initial states."""
Cells = Mapping[tuple[str, str, str], Outcomes]
"""The outcomes of a suite, a corruption and an arm."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; `value` is None where it is not defined."""

    value: float | None
    interval: tuple[float, float] | None = None


def rate(outcomes: Outcomes) -> float:
    """Share of solved rollouts, over seeds of as many each."""
    return float(np.mean([solved.mean() for solved in outcomes.values()]))


def resampled_rates(arms: Mapping[str, Outcomes], draws: int = DRAWS) -> dict[str, np.ndarray]:
    """
    Success rates of several arms under one two-level bootstrap: seeds are drawn with replacement, then within each
    drawn seed the rollouts of every task. All arms see the same draws, so that differences stay paired.

    Args:
        arms: outcomes with the same seeds and shapes.
        draws: number of resamples.

    Returns:
        Of every arm `(draws,)`.
    """
    seeds = sorted(next(iter(arms.values())))
    stacked = {name: np.stack([outcomes[seed] for seed in seeds]) for name, outcomes in arms.items()}
    times = _times_drawn(next(iter(stacked.values())).shape, draws)
    # Whole numbers, exact in single precision.
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
    Success of `mine` minus that of `other`, over the seeds that both have.

    The interval is the wider of two: the paired two-level bootstrap, which is narrow where few seeds differ much, and
    Student's t over the seeds' differences, which is narrow where by chance they are alike. One seed says nothing of
    how runs vary and has no interval.
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
    half = float(t.ppf(0.5 + LEVEL / 2, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed)))
    if 2 * half > high - low:
        low, high = value - half, value + half
    return Estimate(value, (low, high))


def recovered_gap(arm: Outcomes, sft: Outcomes, oracle: Outcomes, draws: int = DRAWS) -> Estimate:
    """
    `(arm - SFT) / (oracle - SFT)`: how much of what faults cost, and perfect weights win back, the arm wins back.

    Not defined where the oracle is not better than SFT beyond the interval (there is nothing to recover), or of one
    seed, which does not tell. The interval covers two: the bootstrap's, too narrow for few seeds, and Fieller's of
    the seeds' paired differences.
    """
    arm, sft, oracle = _shared(arm, sft, oracle)
    if len(arm) < 2:
        return Estimate(None)
    rates = resampled_rates({"arm": arm, "sft": sft, "oracle": oracle}, draws)
    gap = rates["oracle"] - rates["sft"]
    if _interval(gap)[0] <= 0:
        return Estimate(None)
    # Draws without a gap would make the ratio's sign meaningless; by the check above they are less than 2.5 %.
    there = gap > 0
    low, high = _interval((rates["arm"] - rates["sft"])[there] / gap[there])
    won = np.array([[other[seed].mean() - sft[seed].mean() for seed in sft] for other in (arm, oracle)])
    mean = won.mean(axis=1)
    # The ratios ρ with |mean(arm - ρ oracle)| within Student's t of its standard error: a parabola's ends.
    spread = t.ppf(0.5 + LEVEL / 2, won.shape[1] - 1) ** 2 * np.cov(won) / won.shape[1]
    (c, b), (_, a) = np.outer(mean, mean) - spread
    if a <= 0:
        # The seeds alone do not tell the oracle from SFT: any ratio would do.
        return Estimate(None)
    half = np.sqrt(max(0.0, b * b - a * c)) / a
    low, high = min(low, b / a - half), max(high, b / a + half)
    return Estimate(float(mean[0] / mean[1]), (float(low), float(high)))


def mcnemar(mine: np.ndarray, other: np.ndarray) -> float:
    """
    The exact two-sided McNemar p-value of two checkpoints, from paired rollouts `(tasks, rollouts)` bool.

    It applies to one seed: over several, what varies is the training run and not only the rollout.
    """
    won, lost = int((mine & ~other).sum()), int((~mine & other).sum())
    return 1.0 if won + lost == 0 else float(binomtest(won, won + lost).pvalue)


def seeds_won_and_lost(mine: Outcomes, other: Outcomes, level: float = 0.05) -> tuple[int, int, int]:
    """Of the seeds that both have: in how many McNemar's test finds `mine` better, worse, and how many there are."""
    mine, other = _shared(mine, other)
    clear = [seed for seed in mine if mcnemar(mine[seed], other[seed]) < level]
    won = sum(mine[seed].mean() > other[seed].mean() for seed in clear)
    return int(won), len(clear) - int(won), len(mine)


def verdict(estimate: Estimate) -> str:
    """`better`, `worse` or `cannot tell`, by whether the interval of a difference holds 0; `one seed` has none."""
    if estimate.interval is None:
        return "not measured" if estimate.value is None else "one seed"
    low, high = estimate.interval
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def _shared(*arms: Outcomes) -> tuple[dict[int, np.ndarray], ...]:
    seeds = set.intersection(*(set(outcomes) for outcomes in arms)) if arms else set()
    return tuple({seed: outcomes[seed] for seed in sorted(seeds)} for outcomes in arms)


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def outcomes_of(strings: Mapping[str, str], tasks: Sequence[str]) -> np.ndarray:
    """`{"reach-v3": "1101…"}` as a result holds it to `(tasks, rollouts)` bool."""
    return np.array([[mark == "1" for mark in strings[task]] for task in tasks])
