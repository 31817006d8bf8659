"""Blocks of episodes with another unit, sign, gain, zero or lag are found with their first and last episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.changes import Change, find_change
from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.blocks import BlockLag, Blocks, BlockScale, BlockZero
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import EVENT

EPISODES, FRAMES = 30, 120
STATE, ACTION = "observation.state", "action"


def sound() -> EpisodeTable:
    """Three joints, and a fourth that follows from two of them, whose command leads it like the others."""
    made = leading_table(EPISODES)
    rng = np.random.default_rng(1)
    columns, features = {}, {}
    for name in (STATE, ACTION):
        values = made.columns[name]
        follows = values[:, :1] - 0.5 * values[:, 1:2] + rng.normal(0, 0.01, (len(values), 1))
        columns[name] = np.concatenate([values, follows], axis=1).astype(np.float32)
        features[name] = {"dtype": "float32", "shape": [4], "names": None}
    return replace(made, columns=columns, features=features)


def changed(block: slice, state=None, action=None) -> EpisodeTable:
    """The table with another state or action in a block of episodes, from those of an episode."""
    table = sound()
    columns = {name: column.copy() for name, column in table.columns.items()}
    for episode in range(*block.indices(EPISODES)):
        rows = slice(episode * FRAMES, (episode + 1) * FRAMES)
        for name, change in ((STATE, state), (ACTION, action)):
            if change is not None:
                columns[name][rows] = change(columns[name][rows])
    return replace(table, columns=columns)


def context_of(table: EpisodeTable) -> Context:
    signals = Signals.of_table(table, STATE, ACTION)
    return Context(signals, ResponseModel(signals))


def found(context: Context, kind: type[Blocks]) -> tuple[list[int], list[str]]:
    """The episodes with a finding, and what is said of them."""
    check = kind(context)
    episodes, causes = [], []
    for episode in context.signals.episodes:
        candidates = check.measure(context.view(episode))[EVENT]
        if (candidates.amount >= check.material).any():
            episodes.append(episode.position)
            causes.append(check.blocks[int(candidates.detail[0, 0])].what)
    return episodes, causes


@pytest.mark.parametrize("kind", [BlockScale, BlockZero, BlockLag])
def test_sound_episodes_have_no_block(kind):
    assert found(context_of(sound()), kind) == ([], [])


@pytest.mark.parametrize(
    ("kind", "state", "action", "what"),
    [
        (BlockScale, lambda s: 57.3 * s, lambda a: 57.3 * a, " times "),
        (BlockScale, None, lambda a: 0.6 * a, "times 0.6"),
        (BlockScale, None, lambda a: a * [-1, 1, 1, 1], "commands of 0 with the opposite sign"),
        (BlockScale, lambda s: s * [1, 1000, 1, 1], None, "state 1 times"),
        (BlockZero, lambda s: s + np.array([0, 0, 0, 0.8]), None, "state 3 shifted by +0."),
        (BlockZero, lambda s: s + np.array([0, 0, 0, 0.8]), lambda a: a + np.array([0, 0, 0, 0.8]), "zero of state"),
        (BlockZero, None, lambda a: a + np.array([0.8, 0, 0, 0]), "commands of 0 shifted by +0."),
        (BlockLag, None, lambda a: np.concatenate([a[:1], a[:1], a[:-2]]), "frames late"),
    ],
)
@pytest.mark.parametrize("block", [slice(22, None), slice(8, 17)])
def test_a_changed_block_is_found_with_its_episodes(kind, state, action, what, block):
    episodes, causes = found(context_of(changed(block, state, action)), kind)
    assert episodes == list(range(*block.indices(EPISODES)))
    assert what in causes[0]


def test_a_block_to_the_end_is_named_by_its_first_episode_and_halves_are_said_to_be_equal():
    context = context_of(changed(slice(22, None), None, lambda a: 0.6 * a))
    check = BlockScale(context)
    measured = check.measure(context.view(context.signals.episodes[25]))[EVENT]
    assert "from episode 22 on" in check.text(int(measured.detail[0, 0]))
    context = context_of(changed(slice(15, None), None, lambda a: 0.6 * a))
    assert "other half" in BlockScale(context).text(0)


def test_another_rest_pose_is_not_a_shift_of_the_zero():
    """From episode 20 on a joint starts elsewhere, and goes where it always went."""
    way = np.clip(1 - np.arange(FRAMES)[:, None] / 40, 0, 1) * [1.5, 0, 0, 1.5]
    context = context_of(changed(slice(20, None), lambda s: s + way, lambda a: a + way))
    for kind in (BlockScale, BlockZero, BlockLag):
        assert found(context, kind) == ([], [])


def test_a_joint_that_rests_in_a_block_has_no_other_gain():
    def rests(values):
        rest = values.copy()
        rest[:, 0] = values[0, 0] + 1e-3 * np.sin(np.arange(len(values)))
        return rest

    assert found(context_of(changed(slice(20, None), rests, rests)), BlockScale)[0] == []


def test_tasks_in_blocks_are_not_a_change():
    table = sound()
    task = np.repeat([0, 1, 2], EPISODES * FRAMES // 3)
    size = np.array([0.3, 1.0, 3.0])[task][:, None]
    columns = {name: (column * size).astype(np.float32) for name, column in table.columns.items()}
    context = context_of(replace(table, columns=columns, task_index=task, tasks=("a", "b", "c")))
    for kind in (BlockScale, BlockZero, BlockLag):
        assert found(context, kind) == ([], [])


def test_a_step_is_a_change_and_a_drift_or_an_outlier_is_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 60)
    tasks = np.zeros(60, dtype=int)
    step = noise + 1.0 * (np.arange(60) >= 41)
    change = find_change(step, tasks, 100, 0.3)
    assert change is not None
    assert (change.first, int(change.inside.sum()), change.halves) == (41, 19, False)
    assert change.difference == pytest.approx(1.0, abs=0.1)
    assert find_change(noise + np.linspace(0, 2, 60), tasks, 100, 0.3) is None
    assert find_change(noise + 50.0 * (np.arange(60) == 30), tasks, 100, 0.3) is None
    assert find_change(noise, tasks, 100, 0.3) is None


def test_a_step_is_compared_within_tasks_and_found_across_them():
    rng = np.random.default_rng(0)
    tasks = np.repeat([0, 1, 2], 20)
    levels = rng.normal(0, 0.1, 60) + np.array([0.0, 5.0, -3.0])[tasks]
    assert find_change(levels, tasks, 100, 0.3) is None
    change = find_change(levels + 1.0 * ((np.arange(60) >= 12) & (np.arange(60) < 50)), tasks, 100, 0.3)
    assert change is not None
    # The smaller side is the one at both ends.
    assert np.flatnonzero(change.inside).tolist() == [*range(12), *range(50, 60)]


def test_a_task_with_wrong_instructions_elsewhere_is_not_a_block():
    """The motion of the second task is another one; a few episodes of the others have its instruction."""
    rng = np.random.default_rng(0)
    motion = np.repeat([0, 1, 2], 20)
    tasks = motion.copy()
    tasks[[2, 9, 44, 51, 57]] = 1
    assert find_change(rng.normal(0, 0.1, 60) + 2.0 * (motion == 1), tasks, 100, 0.3) is None


def test_tasks_recorded_one_after_the_other_with_many_wrong_instructions_are_not_a_block():
    """The last tasks move five times as far; three in ten instructions are those of another episode."""
    motion = np.repeat(np.arange(10), 40)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        tasks = motion.copy()
        wrong = rng.permutation(400)[:120]
        tasks[wrong] = rng.permutation(tasks[wrong])
        assert find_change(rng.normal(0, 0.1, 400) + 2.0 * (motion >= 7), tasks, 100, 0.3) is None


@pytest.mark.parametrize("seed", range(20))
def test_no_change_is_found_in_noise(seed):
    rng = np.random.default_rng(seed)
    figures = rng.standard_t(3, (12, 40))
    assert all(find_change(row, np.zeros(40, dtype=int), 12, 0.3) is None for row in figures)


def test_a_block_may_be_a_way_of_the_task_that_happens_to_be_consecutive():
    def chance(inside: int, count: int) -> float:
        return Change(np.arange(count) < inside, 1.0, 0.1).chance

    assert chance(4, 15) == pytest.approx(15 / 1365) and chance(6, 30) < 1e-4
