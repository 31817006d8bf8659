"""Harmless operators change what they say, in the episodes that they are given, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from data_helpers import drifting_table

from benchmarks import harmless_operators as H
from hf_ptr.data.episodes import EpisodeTable

EPISODES, LENGTH, LEAD = 8, 60, 3
CHOSEN = np.array([1, 4])


def table_of(positions: bool) -> EpisodeTable:
    """Smooth movements; position commands run three frames ahead of the state, displacements move it."""
    table = drifting_table([LENGTH] * EPISODES)
    features = {name: {**feature, "names": ["x", "gripper"]} for name, feature in table.features.items()}
    # Far from the commands, which are displacements.
    columns = {**table.columns, "observation.state": table.columns["observation.state"] + 10.0}
    if positions:
        time = np.arange(LENGTH + LEAD) / 6.0
        phase = np.arange(EPISODES)[:, None, None]
        path = np.sin(time[None, :, None] + phase + np.array([0.0, 1.0]))
        columns["observation.state"] = path[:, :LENGTH].reshape(-1, 2).astype(np.float32)
        columns["action"] = path[:, LEAD:].reshape(-1, 2).astype(np.float32)
    return dataclasses.replace(table, columns=columns, features=features)


def episode(table: EpisodeTable, number: int, name: str = "action") -> np.ndarray:
    return table.columns[name][H.rows_of(table, number)]


CHANGES = {
    "tremor": H.tremor(0.1),
    "held": H.held(2),
    "slower": H.slower(2.0),
    "pausing": H.pausing((1.0, 2.0)),
    "other path": H.other_path(1.0),
}


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_other_episodes_stay_as_they_are(name: str, positions: bool) -> None:
    table = table_of(positions)
    changed = CHANGES[name](table, CHOSEN, np.random.default_rng(0))
    for number in set(range(EPISODES)) - set(CHOSEN.tolist()):
        for column in table.columns:
            np.testing.assert_array_equal(episode(changed, number, column), episode(table, number, column))
    same = [np.array_equal(episode(changed, number), episode(table, number)) for number in CHOSEN]
    assert same == [name == "other path" and not positions] * 2
    assert changed.num_frames == sum(changed.lengths) == len(set(changed.frame_id.tolist()))


def test_a_tremor_has_its_size() -> None:
    table = table_of(True)
    noise = episode(H.tremor(0.1)(table, CHOSEN, np.random.default_rng(0)), 1) - episode(table, 1)
    expected = 0.1 * H.within_episode_deviation(table, "action")
    np.testing.assert_allclose(noise.std(axis=0), expected, rtol=0.3)


def test_the_lead_of_a_command_is_found_and_kept_at_half_speed() -> None:
    table = table_of(True)
    assert H.lead(table) == LEAD and H.lead(table_of(False)) == 0
    slow = H.slower(2.0)(table, np.arange(EPISODES), np.random.default_rng(0))
    assert slow.lengths.tolist() == [2 * LENGTH] * EPISODES and H.lead(slow) == LEAD


def test_a_slow_displacement_is_half_as_long_and_a_gripper_stays() -> None:
    table = table_of(False)
    slow = episode(H.slower(2.0)(table, CHOSEN, np.random.default_rng(0)), 1)
    np.testing.assert_allclose(slow[::2, 0], episode(table, 1)[:, 0] / 2, atol=1e-5)
    np.testing.assert_allclose(slow[::2, 1], episode(table, 1)[:, 1], atol=1e-5)


def test_in_a_pause_nothing_moves() -> None:
    table = table_of(False)
    paused = H.pausing((1.0, 1.0))(table, CHOSEN, np.random.default_rng(0))
    assert paused.lengths[1] == LENGTH + 20
    still = np.abs(np.diff(episode(paused, 1, "observation.state"), axis=0)).max(axis=1) == 0
    assert still.sum() == 20 and np.abs(episode(paused, 1)[1:][still][:, 0]).max() == 0
    assert len(np.unique(episode(paused, 1)[1:][still][:, 1])) == 1


def test_joints_at_rest_and_alike_instructions_are_those_of_all_episodes() -> None:
    table, every = table_of(True), np.arange(EPISODES)
    resting = H.with_resting_dimensions(table, every, np.random.default_rng(0))
    assert {name: column.shape[1] for name, column in resting.columns.items()} == {
        "observation.state": 2 + H.RESTING_DIMENSIONS,
        "action": 2 + H.RESTING_DIMENSIONS,
    }
    assert H.within_episode_deviation(resting, "action")[2:].max() < 0.01
    alike = H.alike_instructions(table, every, np.random.default_rng(0))
    assert len(alike.tasks) == 6 and set(alike.task_index // 3) == {0, 1}
    assert np.array_equal(alike.task_index // 3, table.task_index)


def test_few_episodes_with_faults_name_them() -> None:
    table = H.take_episodes(table_of(True), np.array([0, 2, 5, 7]))
    assert table.lengths.tolist() == [LENGTH] * 4 and table.episode_index.tolist() == [7, 9, 12, 14]
    faulty, which = H.with_faults(table, np.random.default_rng(0))
    assert which.sum() == 3
    for number, carries in enumerate(which):
        assert np.array_equal(episode(faulty, number), episode(table, number)) != carries
