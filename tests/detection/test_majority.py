"""A fault of two fifths of the episodes is not taken for the rule, and a tail of sound ones is not a group."""

from __future__ import annotations

import numpy as np
import pytest
from made_motions import smooth_motions, table_of

from hf_ptr.detection.checks.gain import Gain
from hf_ptr.detection.checks.lag import Lag
from hf_ptr.detection.checks.offset import Offset
from hf_ptr.detection.detect import detect
from hf_ptr.detection.majority import majority, shorth, sound_quantile
from hf_ptr.detection.planting import resample
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals

EPISODES = 20
CARRIERS = [1, 2, 5, 8, 11, 13, 16, 19]


def inverted(number, state, action):
    return state, action * ([-1, 1, 1] if number in CARRIERS else 1)


def halved(number, state, action):
    return state, action * (0.5 if number in CARRIERS else 1)


def shifted(number, state, action):
    return state, action + np.array([0.8, 0, 0]) * (number in CARRIERS)


@pytest.mark.parametrize(("change", "check"), [(inverted, Gain), (halved, Gain), (shifted, Offset)])
def test_the_carriers_are_found_and_not_the_others(change, check):
    found = detect(table_of(smooth_motions(EPISODES), change), checks=[check], power=False)
    assert found.flagged == CARRIERS


def test_the_model_explains_the_commands_of_the_others_as_without_the_fault():
    sound, faulty = (
        ResponseModel(Signals.of_table(table_of(smooth_motions(EPISODES), change), "observation.state", "action"))
        for change in (None, inverted)
    )
    assert faulty.explained == pytest.approx(sound.explained, abs=0.01)
    assert faulty.sigma == pytest.approx(sound.sigma, abs=0.01)


def test_a_group_is_apart_if_hardly_anything_is_between():
    rng = np.random.default_rng(0)
    values = rng.exponential(0.2, (50, 3))
    # Two fifths are far away in the first dimension; those of the second are a tail without an edge.
    values[:20, 0] += 4.0
    values[:20, 1] = np.linspace(0.3, 4.0, 20)
    follows = majority(values, 0.15)
    assert not follows[:20, 0].any() and follows[20:, 0].all()
    assert follows[:, 1:].all()


def test_neither_a_few_nor_half_are_a_group_of_their_own():
    values = np.zeros((40, 2))
    values[:5, 0] = values[:20, 1] = 5.0
    assert majority(values, 0.15).all()


def test_values_that_are_missing_neither_count_nor_are_apart():
    values = np.zeros((40, 2))
    values[:5] = 5.0
    values[10:, 1] = np.nan
    values[20:30, 1] = 0.0
    follows = majority(values, 0.15)
    # Five of forty are few; five of twenty are a group.
    assert follows[:, 0].all()
    assert not follows[:5, 1].any() and follows[5:, 1].all()


def test_the_shortest_half_stays_with_the_larger_group_and_knows_no_missing_values():
    values = np.array([[1.0, np.nan], [1.1, np.nan], [0.9, np.nan], [-1.0, np.nan], [-1.0, np.nan], [np.nan, np.nan]])
    assert shorth(values) == pytest.approx([1.0, 0.0])


def test_a_quantile_of_those_that_follow():
    values = np.array([[9.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    follows = np.array([[False, False], [True, False], [True, False], [True, False]])
    middle = sound_quantile(values, follows, 0.5)
    assert middle[0] == 2.0 and np.isnan(middle[1])


@pytest.mark.parametrize("frames", [5, -5])
def test_commands_of_two_fifths_that_are_late_are_not_learnt(frames):
    def late(number, state, action):
        shifted = resample(action, np.arange(len(action)) - frames)
        return state, shifted if number in CARRIERS else action

    table = table_of(smooth_motions(EPISODES), late)
    assert detect(table, checks=[Lag], power=False).flagged == CARRIERS
    follows = ResponseModel(Signals.of_table(table, "observation.state", "action")).follows
    assert np.flatnonzero(~follows.all(axis=1)).tolist() == CARRIERS


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.67, 0.97, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_the_quantile_of_values_that_all_follow_is_numpys_to_the_last_bit(share: float, count: int) -> None:
    values = np.random.default_rng(count).normal(0, 1, (count, 5))
    values[count // 2, 3] = np.nan
    expected = np.quantile(values, share, axis=0)
    assert np.array_equal(sound_quantile(values, np.ones(values.shape, dtype=bool), share), expected, equal_nan=True)
