"""Planted faults match the ground truth, and good data do not change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import assert_same_table, coded_table
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ptr.data.corruption import RECIPES, CorruptionTruth, corrupt, write_corrupted
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.video.decoding import VideoClip
from hf_ptr.errors import InputError

# A wrong goal needs named goal dimensions, a frozen camera needs a camera, and pauses insert frames.
OF_ANY_TABLE = [recipe for recipe in RECIPES if recipe not in ("wrong-goal", "frozen-camera", "hesitation")]


def demonstrations(episodes: int = 60, tasks: int = 4) -> EpisodeTable:
    """Actions with unique values, which can be traced to their episodes."""
    table = coded_table(np.random.default_rng(1).integers(20, 40, episodes).tolist(), tasks=tasks)
    action = np.random.default_rng(2).permutation(table.num_frames * 4).reshape(-1, 4) / (table.num_frames * 4)
    table.columns["action"][:] = action
    return table


def actions(table: EpisodeTable, episode: int) -> np.ndarray:
    start = table.starts[episode]
    return table.columns["action"][start : start + table.lengths[episode]]


def hit(truth: CorruptionTruth, fault: str) -> list[int]:
    return np.flatnonzero(truth.faults[fault]).tolist()


def tasks_of(table: EpisodeTable, episode: int) -> set[int]:
    start = table.starts[episode]
    return set(table.task_index[start : start + table.lengths[episode]].tolist())


@pytest.mark.parametrize("recipe", OF_ANY_TABLE)
def test_the_original_is_untouched_and_other_columns_are_kept(recipe: str) -> None:
    table = demonstrations()
    corrupted, _ = corrupt(table, recipe, 3)
    assert_same_table(table, demonstrations())
    np.testing.assert_array_equal(corrupted.episode_index, table.episode_index)
    # A frame keeps its id and all columns except action and instruction.
    rows = np.searchsorted(table.frame_id, corrupted.frame_id)
    np.testing.assert_array_equal(table.frame_id[rows], corrupted.frame_id)
    state = corrupted.columns["observation.state"]
    np.testing.assert_array_equal(state, table.columns["observation.state"][rows])


@pytest.mark.parametrize("recipe", OF_ANY_TABLE)
def test_the_truth_marks_the_changed_episodes(recipe: str) -> None:
    table = demonstrations()
    corrupted, truth = corrupt(table, recipe, 5)
    assert list(truth.faults) == [fault.name for fault in RECIPES[recipe]]
    for fault in RECIPES[recipe]:
        assert truth.faults[fault.name].sum() == round(fault.share * 60)
    carries = {name: truth.faults.get(name, np.zeros(60, bool)) for name in fault_names()}
    for episode in range(60):
        before, after = actions(table, episode), actions(corrupted, episode)
        shorter = len(after) < len(before)
        assert shorter == carries["truncation"][episode]
        changed = not np.array_equal(before[: len(after)], after)
        moved = carries["noise"] | carries["foreign_actions"] | carries["misalignment"]
        assert changed == moved[episode]
        assert (tasks_of(table, episode) != tasks_of(corrupted, episode)) == carries["instruction"][episode]
    union = np.zeros(60, bool)
    for hits in truth.faults.values():
        union |= hits
    np.testing.assert_array_equal(truth.any, union)


def fault_names() -> set[str]:
    return {fault.name for recipe in OF_ANY_TABLE for fault in RECIPES[recipe]}


def test_clean_changes_nothing() -> None:
    table = demonstrations()
    corrupted, truth = corrupt(table, "clean", 0)
    assert_same_table(corrupted, table)
    assert not truth.any.any() and truth.faults == {}


@pytest.mark.parametrize("recipe", OF_ANY_TABLE)
def test_a_seed_gives_one_corruption(recipe: str) -> None:
    table = demonstrations()
    first, truth = corrupt(table, recipe, 7)
    again, same = corrupt(table, recipe, 7)
    assert_same_table(first, again)
    assert truth.to_dict() == same.to_dict()
    _, other = corrupt(table, recipe, 8)
    assert recipe == "clean" or truth.to_dict()["faults"] != other.to_dict()["faults"]


def test_which_episodes_a_fault_hits_does_not_depend_on_the_others() -> None:
    table = demonstrations()
    _, alone = corrupt(table, "ani", 4)
    _, combined = corrupt(table, "combined", 4)
    _, hard = corrupt(table, "hard", 4)
    np.testing.assert_array_equal(alone.faults["noise"], combined.faults["noise"])
    np.testing.assert_array_equal(alone.faults["noise"], hard.faults["noise"])


def test_two_thirds_of_the_episodes_of_hard_have_a_fault() -> None:
    table = demonstrations(episodes=400)
    shares = [corrupt(table, "hard", seed)[1].any.mean() for seed in range(5)]
    assert np.mean(shares) == pytest.approx(1 - 0.7**3, abs=0.03)


def test_noise_has_the_stated_size_and_is_not_clipped() -> None:
    table = demonstrations(episodes=200)
    table.columns["action"][:] = 1.0
    corrupted, truth = corrupt(table, "ani", 0)
    noise = np.concatenate([actions(corrupted, e) - 1.0 for e in hit(truth, "noise")])
    assert noise.std() == pytest.approx(0.1, rel=0.03)
    assert abs(noise.mean()) < 0.01 and noise.max() > 0.3
    assert corrupted.columns["action"].dtype == np.float32


def test_truncation_keeps_the_start_and_40_to_70_percent() -> None:
    table = demonstrations()
    corrupted, truth = corrupt(table, "tt", 0)
    for episode in hit(truth, "truncation"):
        before, after = actions(table, episode), actions(corrupted, episode)
        assert 0.4 * len(before) - 0.5 <= len(after) <= 0.7 * len(before) + 0.5
        np.testing.assert_array_equal(after, before[: len(after)])


def test_foreign_actions_are_those_of_one_other_episode() -> None:
    table = demonstrations()
    origin = {
        tuple(action): (episode, frame)
        for action, episode, frame in zip(
            table.columns["action"].tolist(), table.episode_of_row.tolist(), table.frame_index.tolist(), strict=True
        )
    }
    corrupted, truth = corrupt(table, "foreign", 0)
    lengths = []
    for episode in hit(truth, "foreign_actions"):
        found = [origin[tuple(action)] for action in actions(corrupted, episode).tolist()]
        (donor,) = {number for number, _ in found}
        assert donor != episode
        # In order from the donor's first frame; a shorter donor is repeated.
        assert [frame for _, frame in found] == [i % table.lengths[donor] for i in range(len(found))]
        lengths.append((table.lengths[episode], table.lengths[donor]))
    assert any(own > other for own, other in lengths) and any(own < other for own, other in lengths)


def test_misaligned_actions_are_six_frames_late() -> None:
    table = demonstrations()
    corrupted, truth = corrupt(table, "misaligned", 0)
    for episode in hit(truth, "misalignment"):
        before, after = actions(table, episode), actions(corrupted, episode)
        np.testing.assert_array_equal(after[6:], before[:-6])
        assert (after[:6] == before[0]).all()


def test_a_wrong_goal_is_that_of_another_episode_of_the_task() -> None:
    table = demonstrations()
    names = ["x0", "goal_x", "goal_y"]
    table.features["observation.state"] = {"dtype": "float32", "shape": [3], "names": names}
    state = table.columns["observation.state"]
    state[:, 1:] = np.repeat(np.arange(120).reshape(60, 2), table.lengths, axis=0)
    corrupted, truth = corrupt(table, "wrong-goal", 0)
    after = corrupted.columns["observation.state"]
    task = table.task_index[table.starts]
    changed = np.zeros(60, dtype=bool)
    for episode in range(60):
        rows = slice(table.starts[episode], table.starts[episode] + table.lengths[episode])
        goal = np.unique(after[rows, 1:], axis=0)
        assert len(goal) == 1
        donor = int(goal[0, 0]) // 2
        assert task[donor] == task[episode]
        changed[episode] = donor != episode
    np.testing.assert_array_equal(changed, truth.faults["wrong_goal"])
    np.testing.assert_array_equal(after[:, 0], state[:, 0])
    np.testing.assert_array_equal(corrupted.columns["action"], table.columns["action"])
    with pytest.raises(InputError, match="has one episode of task"):
        corrupt(table.select(range(4)), "wrong-goal", 0)


def test_a_swapped_instruction_is_one_of_the_table() -> None:
    table = demonstrations(tasks=4).select(range(0, 60, 2))
    corrupted, truth = corrupt(table, "ln", 0)
    # Even episodes have tasks 0 and 2 only.
    for episode in hit(truth, "instruction"):
        assert tasks_of(corrupted, episode) == {0, 2} - tasks_of(table, episode)
    assert corrupted.tasks == table.tasks


def with_clips(table: EpisodeTable) -> EpisodeTable:
    """The table with a camera; its file is never opened."""
    clips = {i: VideoClip(Path("none.mp4"), 0.0, int(length)) for i, length in enumerate(table.lengths)}
    return dataclasses.replace(table, videos={"observation.images.top": clips})


@pytest.mark.parametrize(("severity", "share"), [(1.0, 0.5), (0.4, 0.2), (4.0, 1.0)])
def test_a_frozen_camera_shows_one_frame_for_a_share_of_the_episode(severity: float, share: float) -> None:
    table = with_clips(demonstrations())
    corrupted, truth = corrupt(table, "frozen-camera", 1, severity)
    for episode in range(60):
        rows = slice(table.starts[episode], table.starts[episode] + table.lengths[episode])
        before, after = table.video_frame[rows], corrupted.video_frame[rows]
        if not truth.faults["frozen_camera"][episode]:
            np.testing.assert_array_equal(after, before)
            continue
        still = np.flatnonzero(np.diff(after) == 0)
        assert len(still) + 1 == round(share * len(before))
        assert (np.diff(still) == 1).all()
        moving = np.setdiff1d(np.arange(len(before)), np.arange(still[0], still[-1] + 2))
        np.testing.assert_array_equal(after[moving], before[moving])
    assert truth.faults["frozen_camera"].sum() == 18
    for name, column in table.columns.items():
        np.testing.assert_array_equal(corrupted.columns[name], column)
    with pytest.raises(InputError, match="has no camera"):
        corrupt(demonstrations(), "frozen-camera", 1)


def test_a_frozen_camera_is_not_written_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no images"):
        write_corrupted(*corrupt(with_clips(demonstrations()), "frozen-camera", 1), tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_hesitation_inserts_pauses_in_which_the_robot_stands_still() -> None:
    table = demonstrations()
    table.features["action"] = {"dtype": "float32", "shape": [4], "names": ["x", "y", "z", "gripper"]}
    table.columns["action"][:] += 1.0
    corrupted, truth = corrupt(table, "hesitation", 3, 0.5)
    carries = truth.faults["hesitation"]
    assert carries.sum() == 18
    # Half the severity of three pauses of twelve frames.
    np.testing.assert_array_equal(corrupted.lengths - table.lengths, np.where(carries, 18, 0))
    new = corrupted.frame_id >= table.num_frames
    assert len(np.unique(corrupted.frame_id)) == corrupted.num_frames
    np.testing.assert_array_equal(corrupted.frame_id[~new], table.frame_id)
    for name, column in table.columns.items():
        np.testing.assert_array_equal(corrupted.columns[name][~new], column)
    rows = np.flatnonzero(new)
    state = corrupted.columns["observation.state"]
    np.testing.assert_array_equal(state[rows], state[rows - 1])
    assert not corrupted.columns["action"][rows, :3].any()
    np.testing.assert_array_equal(corrupted.columns["action"][rows, 3], corrupted.columns["action"][rows - 1, 3])
    np.testing.assert_array_equal(corrupted.video_frame[rows], corrupted.video_frame[rows - 1])


def test_positions_are_held_while_the_robot_hesitates() -> None:
    table = coded_table([12, 12, 12, 12])
    table = dataclasses.replace(table, columns={**table.columns, "action": table.columns["observation.state"] + 0.1})
    corrupted, _ = corrupt(table, "hesitation", 0)
    rows = np.flatnonzero(corrupted.frame_id >= table.num_frames)
    assert len(rows) == 36
    np.testing.assert_array_equal(corrupted.columns["action"][rows], corrupted.columns["action"][rows - 1])


@pytest.mark.parametrize("recipe", [recipe for recipe in OF_ANY_TABLE if recipe != "clean"])
def test_severity_scales_the_degree_or_else_the_share(recipe: str) -> None:
    table = demonstrations(episodes=200)
    untouched, none = corrupt(table, recipe, 0, 0.0)
    assert_same_table(untouched, table)
    assert not none.any.any()
    _, half = corrupt(table, recipe, 0, 0.5)
    for fault in RECIPES[recipe]:
        assert half.faults[fault.name].sum() == round(fault.share * 200 * (1 if fault.severity else 0.5))
    assert half.severity == 0.5


def test_half_the_noise_is_half_as_large() -> None:
    table = demonstrations(episodes=200)
    corrupted, truth = corrupt(table, "ani", 0, 0.5)
    noise = np.concatenate([actions(corrupted, e) - actions(table, e) for e in hit(truth, "noise")])
    assert noise.std() == pytest.approx(0.05, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=12),
    recipe=st.sampled_from(OF_ANY_TABLE),
    seed=st.integers(0, 2**32),
)
def test_any_lengths_can_be_corrupted(lengths: list[int], recipe: str, seed: int) -> None:
    table = coded_table(lengths, tasks=2)
    corrupted, truth = corrupt(table, recipe, seed)
    assert corrupted.num_episodes == len(lengths) == len(truth.any)
    assert (corrupted.lengths >= 1).all() and (corrupted.lengths <= table.lengths).all()
    assert np.isfinite(corrupted.columns["action"]).all()


def test_a_written_copy_contains_its_truth(tmp_path: Path) -> None:
    table = demonstrations().select(range(20, 60))
    corrupted, truth = corrupt(table, "combined", 2)
    out = write_corrupted(corrupted, truth, tmp_path / "copy")
    loaded = CorruptionTruth.load(out)
    assert (loaded.recipe, loaded.seed) == ("combined", 2)
    copy = read_dataset(out)
    # The copy and its ground truth have renumbered episodes.
    np.testing.assert_array_equal(loaded.episode_index, copy.episode_index)
    np.testing.assert_array_equal(truth.episode_index, table.episode_index)
    for name, carries in truth.faults.items():
        np.testing.assert_array_equal(loaded.faults[name], carries)
    np.testing.assert_array_equal(copy.columns["action"], corrupted.columns["action"])
    np.testing.assert_array_equal(copy.task_index, corrupted.task_index)
    frame = loaded.to_frame()
    assert list(frame) == ["episode_index", "noise", "truncation", "instruction", "any"]
    assert frame["any"].sum() == truth.any.sum() and len(frame) == 40


@pytest.mark.parametrize(
    ("episodes", "tasks", "recipe", "seed", "message"),
    [
        (20, 2, "hrad", 0, r"unknown corruption recipe 'hrad'; known: clean, .* Did you mean 'hard'\?"),
        (20, 2, "hard", -1, "seed is -1; it must not be negative"),
        (20, 1, "ln", 0, "has no task other than that of episode .*; swapping instructions needs a second task"),
        (20, 1, "hard", 0, "swapping instructions needs a second task"),
        (20, 1, "wrong-goal", 0, "has no observation dimension named goal"),
    ],
)
def test_wrong_input_is_one_line(episodes: int, tasks: int, recipe: str, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        corrupt(demonstrations(episodes, tasks), recipe, seed)
    assert "\n" not in str(caught.value)


def test_a_dataset_without_actions_cannot_be_corrupted() -> None:
    table = coded_table([5, 5])
    del table.columns["action"]
    with pytest.raises(InputError, match="no numeric feature 'action'"):
        corrupt(table, "ani", 0)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", json.dumps({"recipe": "ani", "seed": 0, "episode_index": [0, 1], "faults": {"noise": [True]}})],
)
def test_a_damaged_truth_is_one_line(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"has no meta/corruption\.json"):
        CorruptionTruth.load(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/corruption.json").write_text(content)
    with pytest.raises(InputError, match=r"corruption\.json is damaged"):
        CorruptionTruth.load(tmp_path)
