"""A wrapped encoder is found in its dimension and its frames; spikes and usual leaps are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from leading_table import leading_table

from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.wrap import Wrap
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import EVENT


def context_of(change=None, positions=()) -> Context:
    signals = Signals.of_table(leading_table(20), "observation.state", "action")
    episodes = list(signals.episodes)
    for position in positions:
        state = episodes[position].state.copy()
        change(state)
        episodes[position] = episodes[position].with_signals(state=state)
    signals = replace(signals, episodes=tuple(episodes))
    return Context(signals, ResponseModel(signals))


def found(context: Context) -> dict[int, list[tuple[int, int]]]:
    check, wraps = Wrap(context), {}
    for episode in context.signals.episodes:
        candidates = check.measure(context.view(episode))[EVENT]
        if (candidates.amount >= check.material).any():
            wraps[episode.position] = list(zip(candidates.first.tolist(), candidates.stop.tolist(), strict=True))
    return wraps


def wrapped(state: np.ndarray) -> None:
    state[40:70, 1] -= 6.0


def test_sound_episodes_have_no_wrap():
    assert found(context_of()) == {}


def test_a_wrap_is_found_where_it_is():
    context = context_of(wrapped, (3, 12))
    assert found(context) == {3: [(40, 70), (70, 120)], 12: [(40, 70), (70, 120)]}


def test_a_spike_is_not_a_wrap():
    def spike(state: np.ndarray) -> None:
        state[40, 1] -= 6.0

    assert found(context_of(spike, (3,))) == {}


def test_leaps_that_most_episodes_have_belong_to_the_signal():
    assert found(context_of(wrapped, range(12))) == {}


def test_the_planted_wrap_is_found_in_the_copy():
    context = context_of()
    check = Wrap(context)
    (plant,) = check.plants()
    copy = plant.make(context.signals.episodes[5], context, np.random.default_rng(0))
    assert copy is not None
    candidates = check.measure(context.view(copy))[EVENT]
    assert candidates.first.tolist() == [30, 90]
    changed = np.flatnonzero((copy.state != context.signals.episodes[5].state).any(axis=0))
    assert candidates.detail[0, 0] == changed[0]
