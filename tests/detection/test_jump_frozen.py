"""Joined takes, frozen states and frozen commands are found where they are; rests and single leaps are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_motions import JOINTS, picking, signals_of, velocities, wandering

from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.frozen import FrozenCommands, FrozenState
from hf_ptr.detection.checks.jump import Jump
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.response import ResponseModel

EPISODES = 12


def recordings(kind=picking):
    rng = np.random.default_rng(7)
    return [kind(rng) for _ in range(EPISODES)]


def found(check, change=None, made=None):
    """The frames of the findings of a check, and their amounts, by episode."""
    detector = Detector(signals_of(made or recordings(), change), [check])
    hits = [detector.hits(view, measured) for view, measured in zip(detector.views, detector.measured, strict=True)]
    return {number: [one.found for one in part] for number, part in enumerate(hits) if part}


def frozen(which, first, frames, noise=0.001):
    def change(number, *signals):
        signals = [values.copy() for values in signals]
        if number in (3, 8):
            part = signals[which][first : first + frames]
            part[:] = part[0] + np.random.default_rng(0).normal(0, noise, part.shape)
        return tuple(signals)

    return change


def rest(number, state, action):
    """Two episodes with a rest of a second in the middle of the motion, which no jump ends."""
    if number not in (3, 8):
        return state, action
    times = np.concatenate([np.linspace(0, 15, 20), np.full(20, 15.0), np.linspace(15, len(state) - 1, len(state))])
    noise = np.random.default_rng(0).normal(0, 0.003, (2, len(times), state.shape[1]))
    return tuple(
        np.stack([np.interp(times, np.arange(len(values)), column) for column in values.T], axis=1) + part
        for values, part in zip((state, action), noise, strict=True)
    )


@pytest.mark.parametrize(("check", "which"), [(FrozenState, 0), (FrozenCommands, 1)])
def test_a_frozen_signal_is_found_with_its_frames(check, which):
    places = found(check, frozen(which, 10, 14))
    assert sorted(places) == [3, 8]
    for (place,) in places.values():
        assert place.first == pytest.approx(10, abs=2)
        assert place.stop == pytest.approx(24, abs=2)
    assert found(check) == {}


@pytest.mark.parametrize("check", [FrozenState, FrozenCommands, Jump])
def test_a_rest_is_not_a_frozen_signal(check):
    assert found(check, rest) == {}


def test_the_amount_of_a_frozen_state_is_the_distance_missed():
    made = recordings()
    (place,) = found(FrozenState, frozen(0, 10, 14, noise=0.0), made)[3]
    signals = signals_of(made)
    missed = np.diff(signals.episodes[3].state[[10, 24], :JOINTS], axis=0)
    assert place.amount == pytest.approx(np.sqrt((missed**2).mean()), rel=0.5)


def test_commands_that_are_velocities_may_stand_still_while_the_robot_moves():
    signals = signals_of(recordings(), velocities)
    detector = Detector(signals, [FrozenCommands, FrozenState])
    assert detector.unavailable["action/frozen"] == "the commands are not positions"
    assert detector.unavailable["state/frozen"] is None


def joined(number, state, action):
    """The second half of two episodes is that of the next one."""
    if number not in (3, 8):
        return state, action
    other = recordings(wandering)[number + 1]
    return tuple(np.concatenate([own[:40], part[-60:]]) for own, part in zip((state, action), other, strict=True))


def test_joined_takes_are_found_at_the_seam():
    places = found(Jump, joined, recordings(wandering))
    assert sorted(places) == [3, 8]
    for (place,) in places.values():
        assert (place.first, place.stop) == (39, 41)
    assert "joined" in Jump(Context(signals_of(recordings()), None)).cause(places[3][0])
    assert found(Jump, made=recordings(wandering)) == {}


def test_an_abandoned_take_is_found_up_to_where_the_robot_was_set_back():
    start = 0.05 * np.random.default_rng(0).normal(size=(EPISODES, 2, JOINTS))

    def abandoned(number, state, action):
        """Two episodes begin with the first half of the next one; all begin in nearly the same place."""
        own = [values[:, :JOINTS] - values[0, :JOINTS] + start[number, 0] for values in (state, action)]
        if number not in (3, 8):
            return tuple(own)
        other = [values[:60, :JOINTS] - values[0, :JOINTS] for values in recordings(wandering)[number + 1]]
        return tuple(np.concatenate([part, values]) for part, values in zip(other, own, strict=True))

    places = found(Jump, abandoned, recordings(wandering))
    assert sorted(places) == [3, 8]
    for (place,) in places.values():
        assert (place.first, place.stop) == (0, 60)
    assert "an abandoned take" in Jump(Context(signals_of(recordings()), None)).cause(places[3][0])


def test_a_spike_and_a_stale_start_are_not_a_seam():
    def change(number, state, action):
        state = state.copy()
        if number == 3:
            state[50:52] += 3.0
        if number == 8:
            state[:2] -= 3.0
        return state, action

    assert found(Jump, change) == {}


def test_a_jump_of_one_dimension_is_not_a_seam():
    def change(number, state, action):
        state = state.copy()
        state[50:, 0] += 6.3 * (number == 3)
        return state, action

    assert found(Jump, change) == {}


def test_the_other_sign_of_a_quaternion_is_not_a_seam():
    def change(number, state, action):
        sign = np.where((np.arange(len(state)) >= 50) & (number == 3), -1.0, 1.0)[:, None]
        return state * sign, action

    assert found(Jump, change, recordings(wandering)) == {}


@pytest.mark.parametrize("check", [Jump, FrozenState, FrozenCommands])
def test_planted_faults_are_found(check):
    signals = signals_of(recordings(wandering))
    context = Context(signals, ResponseModel(signals))
    for plant in check(context).plants():
        rng = np.random.default_rng(0)
        made = {n: plant.make(signals.episodes[n], context, rng) for n in range(EPISODES)}
        # Not every episode moves fast enough for a second.
        faulty = [number for number, episode in made.items() if episode is not None][:2]
        assert len(faulty) == 2
        episodes = [made[n] if n in faulty else signals.episodes[n] for n in range(EPISODES)]
        detector = Detector(dataclasses.replace(signals, episodes=tuple(episodes)), [check])
        hits = [bool(detector.hits(*seen)) for seen in zip(detector.views, detector.measured, strict=True)]
        assert hits == [n in faulty for n in range(EPISODES)]
