"""Copies of episodes are found, whole and in part, and named by what they were copied from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.copies import Copies
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Episode, Signals
from hf_ptr.detection.windows import EVENT


def signals() -> Signals:
    return Signals.of_table(leading_table(20), "observation.state", "action")


def changed(signals: Signals, position: int, state: np.ndarray, action: np.ndarray) -> Signals:
    episodes = list(signals.episodes)
    seconds, stretch = np.arange(len(state)) / signals.fps, np.zeros(len(state), dtype=np.int64)
    episodes[position] = Episode(state, action, seconds, stretch, position, 0)
    return replace(signals, episodes=tuple(episodes))


def found(signals: Signals) -> dict[int, tuple[int, int, int]]:
    """First frame, frame after the last and original of each copy."""
    context = Context(signals, ResponseModel(signals))
    check, copies = Copies(context), {}
    for episode in signals.episodes:
        candidates = check.measure(context.view(episode))[EVENT]
        if (candidates.amount >= check.material).any():
            copies[episode.position] = (candidates.first[0], candidates.stop[0], int(candidates.detail[0, 0]))
    return copies


def test_sound_episodes_are_not_copies():
    assert found(signals()) == {}


@pytest.mark.parametrize(("original", "copy"), [(4, 9), (9, 4)])
def test_of_two_identical_episodes_the_later_is_named(original, copy):
    sound = signals()
    source = sound.episodes[original]
    assert found(changed(sound, copy, source.state, source.action)) == {9: (0, 120, 4)}


@pytest.mark.parametrize(("original", "copy"), [(4, 9), (9, 4)])
def test_the_noisier_of_two_is_the_copy(original, copy):
    sound, rng = signals(), np.random.default_rng(0)
    source = sound.episodes[original]
    faulty = [values + rng.normal(0, 0.01, values.shape) for values in (source.state, source.action)]
    assert found(changed(sound, copy, *faulty)) == {copy: (0, 120, original)}


def test_a_copy_that_is_cut_is_found_in_the_shorter_episode():
    sound = signals()
    source = sound.episodes[9]
    assert found(changed(sound, 4, source.state[30:100], source.action[30:100])) == {4: (0, 70, 9)}


def test_the_end_of_another_take_is_found_where_it_begins():
    sound = signals()
    own, other = sound.episodes[4], sound.episodes[9]
    state, action = (
        np.concatenate([a[:70], b[60:]]) for a, b in ((own.state, other.state), (own.action, other.action))
    )
    copies = found(changed(sound, 4, state, action))
    assert copies.keys() == {4}
    first, stop, original = copies[4]
    assert abs(first - 70) <= 3
    assert (stop, original) == (130, 9)


def test_nothing_is_reported_where_all_episodes_are_replays_of_one_script():
    sound, rng = signals(), np.random.default_rng(0)
    source = sound.episodes[0]
    for position in range(20):
        state, action = (values + rng.normal(0, 0.01, values.shape) for values in (source.state, source.action))
        sound = changed(sound, position, state, action)
    assert found(sound) == {}


def test_scripted_commands_that_differ_by_noise_are_not_copies():
    """Similar motions with noisy commands: the states differ smoothly."""
    sound, rng = signals(), np.random.default_rng(0)
    source = sound.episodes[0]
    drift = 0.02 * np.sin(np.linspace(0, 7, 120))[:, None]
    sound = changed(sound, 1, source.state + drift, source.action + drift + rng.normal(0, 0.1, source.action.shape))
    assert found(sound) == {}


def test_a_planted_copy_is_compared_with_the_other_episodes():
    sound = signals()
    context = Context(sound, ResponseModel(sound))
    check = Copies(context)
    (plant,) = check.plants()
    rng = np.random.default_rng(0)
    assert plant.make(sound.episodes[0], context, rng) is None
    copy = plant.make(sound.episodes[12], context, rng)
    assert copy is not None
    assert check.measure(context.view(copy))[EVENT].amount.max() == 1.0
