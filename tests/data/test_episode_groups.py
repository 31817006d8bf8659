"""Groups of episodes: bounded, alike, over the whole recording, with copies and small tasks in one group."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data import episode_groups as groups_module
from hf_ptr.data.episode_groups import TOGETHER, episode_groups
from hf_ptr.data.episodes import EpisodeTable

EPISODES, FRAMES = 90, 20
FEATURES = ("observation.state", "action")


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "MOST_EPISODES", 30)


def with_tasks(tasks: np.ndarray) -> EpisodeTable:
    table = leading_table(len(tasks), frames=FRAMES)
    names = tuple(f"do {number}" for number in range(tasks.max() + 1))
    return dataclasses.replace(table, task_index=np.repeat(tasks, FRAMES), tasks=names)


def test_every_episode_is_in_one_group_of_the_size() -> None:
    groups = episode_groups(with_tasks(np.zeros(EPISODES, dtype=np.int64)), FEATURES)
    assert [len(group) for group in groups] == [30, 30, 30]
    assert sorted(np.concatenate(groups).tolist()) == list(range(EPISODES))
    for group in groups:
        assert (np.diff(group) > 0).all()
        # A third of each third of the recording.
        assert np.bincount(group // 30).tolist() == [10, 10, 10]
    assert not any(np.array_equal(group % 3, np.full(30, group[0] % 3)) for group in groups)


def test_the_seed_decides() -> None:
    table = with_tasks(np.zeros(EPISODES, dtype=np.int64))
    first, again, other = (episode_groups(table, FEATURES, seed) for seed in (0, 0, 1))
    assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))


def test_a_task_of_few_episodes_is_not_divided() -> None:
    tasks = np.zeros(EPISODES, dtype=np.int64)
    small = np.arange(5, EPISODES, 9)
    tasks[small] = 1
    assert len(small) < 2 * TOGETHER
    groups = episode_groups(with_tasks(tasks), FEATURES)
    assert sorted(len(np.intersect1d(group, small)) for group in groups) == [0, 0, len(small)]
    assert max(map(len, groups)) <= 30 + len(small)


@pytest.mark.parametrize("rows", [slice(0, FRAMES), slice(3, FRAMES - 2)])
def test_copies_are_in_one_group(rows: slice) -> None:
    table = with_tasks(np.zeros(EPISODES - 6, dtype=np.int64))
    originals = [3, 17, 30, 44, 58, 71]
    taken = np.concatenate([np.arange(table.num_frames), *(table.starts[one] + np.r_[rows] for one in originals)])
    lengths = np.concatenate([table.lengths, np.full(6, rows.stop - rows.start)])
    copied = table.take_rows(taken, lengths, np.arange(EPISODES))
    groups = episode_groups(copied, FEATURES)
    assert len(groups) == 3
    for number, original in enumerate(originals):
        assert sum({original, EPISODES - 6 + number} <= set(group.tolist()) for group in groups) == 1


def test_what_many_episodes_share_is_not_a_copy() -> None:
    table = with_tasks(np.zeros(EPISODES, dtype=np.int64))
    for column in table.columns.values():
        column.reshape(EPISODES, FRAMES, -1)[:, :12] = column[:12]
    sizes = [len(group) for group in episode_groups(table, FEATURES)]
    assert len(sizes) == 3 and max(sizes) - min(sizes) <= 2 * groups_module.SCRIPTED


def test_few_episodes_are_one_group() -> None:
    table = leading_table(30, frames=FRAMES)
    (group,) = episode_groups(table, FEATURES)
    assert np.array_equal(group, table.episode_index)
