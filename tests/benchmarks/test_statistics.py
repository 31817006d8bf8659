"""Statistics of the benchmark on simulated outcomes with known success rates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.robustness.statistics import (
    difference,
    mcnemar,
    outcomes_of,
    recovered_gap,
    significant_seeds,
    verdict,
)
from hf_ptr.metrics.statistics import auroc

TASKS, ROLLOUTS = 10, 20


def outcomes(rate: float, seeds: int = 5, first: int = 0, shift: float = 0.0) -> dict[int, np.ndarray]:
    """Simulated runs whose true success rates vary between runs with standard deviation `shift`."""
    made = {}
    for seed in range(first, first + seeds):
        rng = np.random.default_rng([seed, int(1e6 * rate)])
        made[seed] = rng.random((TASKS, ROLLOUTS)) < np.clip(rate + shift * rng.normal(), 0, 1)
    return made


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = [1.0 if g > b else 0.5 if g == b else 0.0 for g, b in itertools.product(good, bad)]
    assert auroc(good, bad) == pytest.approx(np.mean(pairs))
    assert auroc(good, bad[:0]) is None


def test_large_differences_are_significant_and_equal_arms_are_not() -> None:
    sft, better, same = outcomes(0.5), outcomes(0.7), outcomes(0.5001)
    found = difference(better, sft)
    assert found.value == pytest.approx(0.2, abs=0.05)
    assert verdict(found) == "better"
    assert verdict(difference(sft, better)) == "worse"
    assert verdict(difference(same, sft)) == "not significant"
    assert difference(sft, sft).interval == (0.0, 0.0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_confidence_intervals_of_differences_have_their_nominal_coverage(seeds: int) -> None:
    # Runs of an arm vary by four points; intervals of the bootstrap or of rollouts alone would be too narrow.
    trials, hits = 150, 0
    for trial in range(trials):
        mine = outcomes(0.6, seeds, first=10 * trial, shift=0.04)
        other = outcomes(0.5, seeds, first=10 * trial, shift=0.04)
        low, high = difference(mine, other, draws=300).interval or (0.0, 0.0)
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / trials < 1.0


def test_confidence_intervals_of_the_recovered_gap_have_their_nominal_coverage() -> None:
    found = []
    for trial in range(150):
        arms = (outcomes(rate, 3, first=10 * trial, shift=0.05) for rate in (0.7, 0.5, 0.8))
        gap = recovered_gap(*arms, draws=300)
        if gap.interval is not None:
            found.append(gap.interval[0] <= 2 / 3 <= gap.interval[1])
    assert len(found) > 110 and 0.92 <= np.mean(found) < 1.0


def test_recovered_gap_is_one_for_the_oracle_and_undefined_without_a_gap() -> None:
    sft, half, oracle = outcomes(0.4), outcomes(0.6), outcomes(0.8)
    assert recovered_gap(oracle, sft, oracle).value == pytest.approx(1.0)
    found = recovered_gap(half, sft, oracle)
    assert found.value == pytest.approx(0.5, abs=0.12)
    assert found.interval is not None and found.interval[0] < 0.5 < found.interval[1]
    assert recovered_gap(half, sft, outcomes(0.4001)).value is None


def test_only_shared_seeds_are_compared() -> None:
    mine, other = outcomes(0.7, seeds=5), outcomes(0.5, seeds=2)
    assert difference(mine, other).value == difference({0: mine[0], 1: mine[1]}, other).value
    assert difference(outcomes(0.7, first=10), other).value is None
    assert verdict(difference(outcomes(0.7, first=10), other)) == "not measured"


def test_a_single_seed_has_no_interval_and_no_verdict() -> None:
    sft, better = outcomes(0.4, seeds=1), outcomes(0.9, seeds=1)
    found = difference(better, sft)
    assert found.value is not None and found.value > 0.4
    assert found.interval is None and verdict(found) == "one seed"
    assert recovered_gap(better, sft, better).value is None


def test_mcnemar_uses_the_discordant_pairs_of_a_seed() -> None:
    mine, other = np.array([[True] * 9 + [False] * 11]), np.zeros((1, 20), dtype=bool)
    assert mcnemar(mine, other) == pytest.approx(2 * 0.5**9)
    assert mcnemar(mine, mine) == 1.0
    assert significant_seeds({0: mine, 1: other, 2: mine}, {0: other, 1: mine, 2: mine, 3: mine}) == (1, 1, 3)


def test_outcomes_are_read_task_by_task() -> None:
    read = outcomes_of({"b": "10", "a": "01"}, ["a", "b"])
    np.testing.assert_array_equal(read, [[False, True], [True, False]])
