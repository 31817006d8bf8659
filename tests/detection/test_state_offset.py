"""A shifted dimension of the state is found by what the others imply."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.detection.checks.state_offset import StateOffset
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.redundancy import StateModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import WHOLE


def signals(velocity: bool) -> Signals:
    """Three joints and a fourth dimension that follows from two of them; commands are places or velocities."""
    made = leading_table(24)
    state, action = made.columns["observation.state"], made.columns["action"]
    rng = np.random.default_rng(1)
    follows = state[:, :1] - 0.5 * state[:, 1:2] + rng.normal(0, 0.01, (len(state), 1))
    state = np.concatenate([state, follows], axis=1)
    if velocity:
        action = np.gradient(action, axis=0) * 10
    features = {
        name: {"dtype": "float32", "shape": [width], "names": None}
        for name, width in (("observation.state", 4), ("action", 3))
    }
    columns = {"observation.state": state.astype(np.float32), "action": action.astype(np.float32)}
    return Signals.of_table(replace(made, columns=columns, features=features), "observation.state", "action")


def found(signals: Signals) -> dict[int, str]:
    detector = Detector(signals, [StateOffset])
    causes = {}
    for view, measured in zip(detector.views, detector.measured, strict=True):
        hits = detector.hits(view, measured)
        if hits:
            largest = max(hits, key=lambda hit: hit.found.amount)
            causes[view.episode.position] = largest.check.cause(largest.found)
    return causes


@pytest.mark.parametrize("velocity", [False, True])
def test_a_shifted_state_is_found_with_its_amount(velocity):
    sound = signals(velocity)
    assert found(sound) == {}
    episodes = list(sound.episodes)
    for position in (5, 17):
        state = episodes[position].state.copy()
        state[:, 0] += 0.6
        episodes[position] = episodes[position].with_signals(state=state)
    causes = found(replace(sound, episodes=tuple(episodes)))
    assert causes.keys() == {5, 17}
    for cause in causes.values():
        name, _, amount = cause.partition(" shifted by ")
        if velocity:
            # One relation between three dimensions does not show which of them is wrong.
            assert name in ("0", "1", "3")
        else:
            assert name == "0"
            assert float(amount) == pytest.approx(0.6 * sound.state.unit[0], rel=0.2)


def test_episodes_in_which_several_dimensions_differ_are_another_variant_of_the_task():
    sound = signals(velocity=False)
    episodes = list(sound.episodes)
    for position in (5, 17):
        state = episodes[position].state + np.array([0.6, 0.0, 0.6, 0.0])
        episodes[position] = episodes[position].with_signals(state=state)
    assert found(replace(sound, episodes=tuple(episodes))) == {}


def test_a_dimension_that_does_not_follow_from_the_others_is_not_judged():
    sound = signals(velocity=True)
    assert StateModel(sound, commands=False).dimensions.tolist() == [0, 1, 3]


def test_the_planted_shift_is_found_in_the_copy():
    sound = signals(velocity=False)
    detector = Detector(sound, [StateOffset])
    (check,) = detector.checks
    plant = check.plants()[1]
    rng = np.random.default_rng(0)
    for position in range(6):
        copy = plant.make(sound.episodes[position], detector.context, rng)
        assert copy is not None
        candidates = check.measure(detector.context.view(copy))[WHOLE]
        assert candidates.amount.max() == pytest.approx(1.0, abs=0.1)
        assert candidates.amount.argmax() == np.abs(copy.state - sound.episodes[position].state)[0].argmax()
        assert detector.p_values(check, WHOLE, candidates.amount, task=0).min() < 1e-4
