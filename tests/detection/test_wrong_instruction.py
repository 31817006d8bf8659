"""Instructions that belong to the motion of other episodes are found; tasks that are alike are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.wrong_instruction import LEAST_EPISODES, WrongInstruction, _Pair
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import EVENT

PER_TASK, TASKS = 15, ("reach", "push", "open")


def context_of(labels: list[int], motions: list[int]) -> Context:
    """Episodes with the given instructions, and with the motion of the given tasks at random sizes."""
    sound = Signals.of_table(leading_table(len(labels)), "observation.state", "action")
    rng = np.random.default_rng(0)
    times = np.linspace(0, 1, 120)[:, None]
    paths = [times * [3, 0, 0], times * [0, 3, 0], times**2 * [0, 0, 3]]
    episodes = tuple(
        replace(
            episode.with_signals(
                *(0.2 * values + rng.uniform(0.7, 1.3) * paths[motion] for values in (episode.state, episode.action))
            ),
            task=label,
        )
        for episode, label, motion in zip(sound.episodes, labels, motions, strict=True)
    )
    signals = replace(sound, episodes=episodes, tasks=TASKS)
    return Context(signals, ResponseModel(signals))


def found(context: Context) -> dict[int, int]:
    """The task whose motion it is, by episode."""
    check, wrong = WrongInstruction(context), {}
    for episode in context.signals.episodes:
        candidates = check.measure(context.view(episode))[EVENT]
        if (candidates.amount >= check.material).any():
            wrong[episode.position] = int(candidates.detail[0, 0])
    return wrong


TRUE = [task for task in range(3) for _ in range(PER_TASK)]


def test_right_instructions_have_no_findings():
    assert found(context_of(TRUE, TRUE)) == {}


def test_wrong_instructions_are_found_with_the_right_one():
    labels = list(TRUE)
    labels[3], labels[20], labels[21], labels[40] = 1, 2, 0, 0
    assert found(context_of(labels, TRUE)) == {3: 0, 20: 1, 21: 1, 40: 2}


def test_episodes_of_a_third_task_do_not_make_two_tasks_of_few_episodes_alike():
    true = [task for task in range(3) for _ in range(9)]
    labels = list(true)
    for first in (0, 9, 18):
        labels[first], labels[first + 1] = (labels[first] + 1) % 3, (labels[first] + 2) % 3
    wrong = {number: task for number, task in enumerate(true) if labels[number] != task}
    assert found(context_of(labels, true)) == wrong


def test_a_task_that_lost_most_of_its_episodes_to_other_instructions_is_still_known():
    true = [task for task in range(3) for _ in range(18)]
    labels = [1 + episode % 2 if episode < 13 else task for episode, task in enumerate(true)]
    assert found(context_of(labels, true)) == dict.fromkeys(range(13), 0)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_reported_between_instructions_for_one_motion(seed):
    """Two instructions at random for motions of two kinds: each kind has episodes of both."""
    rng = np.random.default_rng(seed)
    motions = [0] * 2 * PER_TASK + [1] * 2 * PER_TASK
    assert found(context_of(rng.integers(0, 2, len(motions)).tolist(), motions)) == {}


def test_an_unusual_episode_that_is_far_from_both_tasks_is_not_reported():
    """Ten from the stated task and eight from the other one, with six deviations of the margin."""
    check = WrongInstruction(context_of(TRUE, TRUE))
    check._pairs[0, 1] = _Pair(own=-4.0, other=4.0, spread=1.0, apart=True)
    check._distances[:] = 5.0
    assert check._amount(np.array([10.0, 8.0, 99.0]), 0, 1) == 0.0
    assert check._amount(np.array([6.0, 4.0, 99.0]), 0, 1) == pytest.approx(6.0)


def test_few_episodes_of_a_task_are_not_compared():
    counts = (15, 15, LEAST_EPISODES - 1)
    labels = [task for task, count in enumerate(counts) for _ in range(count)]
    wrong = labels.copy()
    wrong[3] = 2
    assert found(context_of(labels, labels)) == {}
    assert found(context_of(wrong[:-1], labels[:-1])) == {}


def test_one_task_alone_cannot_be_checked():
    context = context_of([0] * 20 + [1] * (LEAST_EPISODES - 1), [0] * 20 + [1] * (LEAST_EPISODES - 1))
    assert "fewer than two instructions" in (WrongInstruction.unavailable(context) or "")


def test_the_planted_instruction_is_found_in_the_copy():
    context = context_of(TRUE, TRUE)
    check = WrongInstruction(context)
    (plant,) = check.plants()
    rng = np.random.default_rng(0)
    for episode in context.signals.episodes[::10]:
        copy = plant.make(episode, context, rng)
        assert copy is not None
        assert copy.task != episode.task
        candidates = check.measure(context.view(copy))[EVENT]
        assert candidates.amount.max() >= check.material
        assert int(candidates.detail[0, 0]) == episode.task
