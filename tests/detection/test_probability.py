"""The probability of a finding means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from hf_ptr.detection.probability import probabilities

EPISODES = 100


def test_one_finding_among_many_episodes_is_as_probable_as_chance_allows():
    # Of 100 sound episodes, one has such a p or a smaller one in 100 p of the datasets.
    found = [probabilities(np.array([p]), np.array([4]), EPISODES)[0] for p in (0.001, 0.005, 0.01, 0.05)]
    assert found == pytest.approx([0.9, 0.5, 0.0, 0.0])


def test_further_episodes_with_findings_make_each_more_probable():
    p = np.full(20, 0.01)
    assert probabilities(p, np.arange(20), EPISODES) == pytest.approx(np.full(20, 1 - 0.01 / 0.2))


def test_many_findings_of_one_episode_are_one_discovery():
    one = probabilities(np.array([0.005]), np.array([7]), EPISODES)[0]
    assert probabilities(np.full(30, 0.005), np.full(30, 7), EPISODES) == pytest.approx(np.full(30, one))


def test_a_doubtful_finding_does_not_gain_from_certain_ones():
    # Ten certain episodes; the eleventh alone is what chance yields.
    p = np.array([1e-9] * 10 + [0.009])
    found = probabilities(p, np.arange(11), EPISODES)
    assert found[:10] == pytest.approx(np.ones(10), abs=1e-6)
    assert found[10] == pytest.approx(1 - 0.009 * 100, abs=1e-6)


def test_a_larger_p_is_never_more_probable_and_zero_is_certain():
    rng = np.random.default_rng(0)
    p = np.sort(np.concatenate([[0.0, 0.0], 10 ** rng.uniform(-6, 0, 40)]))
    found = probabilities(p, rng.integers(0, 30, 42), 50)
    assert (np.diff(found) <= 1e-12).all()
    assert found[:2].tolist() == [1.0, 1.0]
    assert found.min() >= 0.0


def test_no_findings_and_all_episodes_with_findings():
    assert probabilities(np.zeros(0), np.zeros(0, dtype=int), EPISODES).shape == (0,)
    assert probabilities(np.array([0.5, 1.0]), np.array([0, 1]), 2).tolist() == [0.0, 0.0]
    assert probabilities(np.zeros(3), np.arange(3), 3).tolist() == [1.0, 1.0, 1.0]


def test_among_findings_of_a_stated_probability_at_least_that_share_is_true():
    """Datasets with none to a third of faulty episodes; sound p are uniform, those of faults are small."""
    rng = np.random.default_rng(1)
    stated, true = [], []
    for dataset in range(600):
        faulty = np.arange(EPISODES) < (0, 2, 10, 33)[dataset % 4]
        p = np.where(faulty, rng.uniform(0, 1, EPISODES) ** 8, rng.uniform(0, 1, EPISODES))
        kept = np.flatnonzero(p < 0.05)
        stated.append(probabilities(p[kept], kept, EPISODES))
        true.append(faulty[kept])
    stated, true = np.concatenate(stated), np.concatenate(true)
    for least in (0.5, 0.8, 0.9, 0.95):
        chosen = stated >= least
        assert chosen.sum() > 500
        assert true[chosen].mean() >= least
