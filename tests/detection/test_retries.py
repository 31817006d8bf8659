"""Failed grasps that are repeated are found with their place, with any kind of gripper; sound grasps are not."""

from __future__ import annotations

import numpy as np
import pytest
from made_motions import JOINTS, picking, signals_of

from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.retries import Retries
from hf_ptr.detection.grippers import find_grippers
from hf_ptr.detection.response import ResponseModel

FAILED = {2: 1, 5: 2}


def recordings(grasps=1, failed=FAILED, episodes=10):
    rng = np.random.default_rng(3)
    return [picking(rng, failed.get(number, 0), grasps) for number in range(episodes)]


def found(signals):
    """Frames of the retries by episode."""
    context = Context(signals, ResponseModel(signals))
    check = Retries(context)
    measured = [check.measure(context.view(episode))["event"] for episode in signals.episodes]
    return {
        number: list(zip(part.first.tolist(), part.stop.tolist(), strict=True))
        for number, part in enumerate(measured)
        if len(part.first)
    }


def closings(action):
    return np.flatnonzero(np.diff((action[:, JOINTS] > 0.5).astype(int)) == 1) + 1


@pytest.mark.parametrize(
    "gripper",
    [
        lambda state, action: (state, np.c_[action[:, :JOINTS], (action[:, JOINTS] > 0.5)]),
        lambda state, action: (state, np.c_[action[:, :JOINTS], 1 - 2 * (action[:, JOINTS] > 0.5)]),
        lambda state, action: (state, action),
        lambda state, action: (state[:, :JOINTS], action),
        lambda state, action: (state, action[:, :JOINTS]),
        lambda state, action: (np.c_[state[:, :JOINTS], 0.08 - 0.08 * state[:, JOINTS]], action[:, :JOINTS]),
    ],
    ids=["two values", "inverted", "continuous", "command only", "state only", "width of the state"],
)
def test_failed_grasps_are_named_with_their_place(gripper):
    made = recordings()
    places = found(signals_of(made, lambda _, state, action: gripper(state, action)))
    assert {number: len(place) for number, place in places.items()} == FAILED
    for number, place in places.items():
        close = closings(made[number][1])
        for (first, stop), begin, end in zip(place, close[:-1], close[1:], strict=True):
            assert first == pytest.approx(begin, abs=4)
            assert stop == pytest.approx(end, abs=4)


def test_a_hand_of_many_fingers_is_one_gripper():
    rng = np.random.default_rng(5)
    size = np.array([1.0, 0.9, -0.6, 0.8])

    def hand(number, state, action):
        fingers = [part[:, JOINTS:] * size + rng.normal(0, 0.05, (len(part), len(size))) for part in (state, action)]
        return np.c_[state[:, :JOINTS], fingers[0]], np.c_[action[:, :JOINTS], fingers[1]]

    names = [*"abcd", "hand_thumb", "hand_index", "hand_middle", "hand_ring"]
    signals = signals_of(recordings(), hand, names)
    (gripper,) = find_grippers(signals)
    assert np.flatnonzero(gripper.weights).tolist() == [4, 5, 6, 7]
    assert {number: len(place) for number, place in found(signals).items()} == FAILED


@pytest.mark.parametrize("grasps", [1, 2])
def test_as_many_grasps_as_the_task_needs_are_not_retries(grasps):
    assert found(signals_of(recordings(grasps, {}))) == {}


def test_a_second_thing_that_is_carried_is_not_a_retry():
    rng = np.random.default_rng(3)
    assert found(signals_of([picking(rng, 0, 2 if number == 4 else 1) for number in range(10)])) == {}


def test_attempts_of_most_episodes_belong_to_the_task():
    assert found(signals_of(recordings(failed=dict.fromkeys(range(8), 1)))) == {}


def test_arms_without_a_gripper_have_no_retries_to_find():
    signals = signals_of(recordings(), lambda _, state, action: (state[:, :JOINTS], action[:, :JOINTS]))
    assert find_grippers(signals) == ()
    assert "two levels" in Retries.unavailable(Context(signals, ResponseModel(signals)))
