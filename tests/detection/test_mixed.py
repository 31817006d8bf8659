"""Shares of one command in another are found with their amount, and are not taken from other faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_motions import signals_of, smooth_motions

from hf_ptr.detection.checks.mixed import Mixed
from hf_ptr.detection.detector import Detector

EPISODES, NAMES = 20, ["base", "elbow", "wrist"]
FAULTY = (3, 8)


def found(change=None):
    """The findings of the check, by episode, and the check."""
    detector = Detector(signals_of(smooth_motions(EPISODES), change, NAMES), [Mixed])
    hits = [detector.hits(view, measured) for view, measured in zip(detector.views, detector.measured, strict=True)]
    return {number: [one.found for one in part] for number, part in enumerate(hits) if part}, detector.checks[0]


def faulty(make):
    def change(number, state, action):
        return (state, make(action.copy())) if number in FAULTY else (state, action)

    return change


def with_share(action):
    action[:, 0] += 0.6 * action[:, 2]
    return action


def halved(action):
    action[:, 0] *= 0.5
    return action


def of_other_data_in_two_parts(action):
    """Of commands that move all dimensions together."""
    together = np.sin(np.linspace(0, 6, len(action) // 5))[:, None] * 4 * action.std(axis=0)
    for begin in (len(action) // 10, 7 * len(action) // 10):
        action[begin : begin + len(together)] = together * [1, -1, 1]
    return action


def noisy(action):
    return action + np.random.default_rng(0).normal(0, 0.5 * action.std(axis=0), action.shape)


def test_a_share_of_another_command_is_found_with_its_amount():
    places, check = found(faulty(with_share))
    assert sorted(places) == list(FAULTY)
    for of_episode in places.values():
        place = max(of_episode, key=lambda one: one.stop - one.first)
        assert place.dimension == 0
        assert place.detail == 2
        scale = check.context.signals.action.unit
        # What the error of the model may explain is not in the amount.
        assert place.amount == pytest.approx(0.6 * scale[2] / scale[0], abs=0.2)
        assert "base have" in check.cause(place)
        assert "times those of wrist" in check.cause(place)


@pytest.mark.parametrize("make", [np.asarray, halved, noisy, of_other_data_in_two_parts])
def test_sound_commands_and_other_faults_have_no_share(make):
    assert found(faulty(make))[0] == {}


def test_a_share_that_most_episodes_have_is_not_found():
    def press(number, state, action):
        """Where two fingers press on each other, every episode has another share."""
        action = action.copy()
        action[:, 0] += np.random.default_rng(number).uniform(0.2, 0.8) * action[:, 2]
        return state, action

    assert found(press)[0] == {}


def test_the_planted_turn_is_found():
    signals = signals_of(smooth_motions(EPISODES), names=NAMES)
    context = Detector(signals, [Mixed]).checks[0].context
    (plant,) = Mixed(context).plants()
    episodes = list(signals.episodes)
    for number in FAULTY:
        episodes[number] = plant.make(episodes[number], context, np.random.default_rng(number))
    detector = Detector(dataclasses.replace(signals, episodes=tuple(episodes)), [Mixed])
    hits = [bool(detector.hits(*seen)) for seen in zip(detector.views, detector.measured, strict=True)]
    assert [number for number, hit in enumerate(hits) if hit] == list(FAULTY)


def test_one_dimension_has_no_other():
    motions = [(state[:, :1], action[:, :1]) for state, action in smooth_motions(EPISODES)]
    assert Mixed.unavailable(Detector(signals_of(motions), [Mixed]).checks[0].context) is None
    detector = Detector(signals_of(motions), [Mixed])
    assert not any(detector.hits(*seen) for seen in zip(detector.views, detector.measured, strict=True))
