"""The kinds of planted faults: each function alters the given episodes of a table and returns a new table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.features import component_names
from hf_ptr.errors import InputError

# A pause keeps the command of action dimensions with one of these words in their names.
KEPT_DURING_PAUSE = ("gripper", "finger", "hand")
# First id of inserted frames, larger than the frame ids of any dataset.
FIRST_INSERTED_ID = 2**40


def _noise(table: EpisodeTable, episodes: np.ndarray, sigma: float, rng: np.random.Generator) -> EpisodeTable:
    """Gaussian noise on the actions, with standard deviation `sigma` in the raw units of the action.

    In the paper and in the benchmarks, actions are in [-1, 1], so 0.1 is a twentieth of their range. For actions in
    other units, `sigma` is not rescaled. Noisy actions are not clipped to the range, because values at its bounds
    would identify exactly the faulty samples.
    """
    action = table.feature("action").copy()
    for episode in episodes:
        rows = rows_of(table, episode)
        action[rows] += rng.normal(0.0, sigma, action[rows].shape).astype(action.dtype)
    return _with_action(table, action)


def _foreign_actions(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The actions of another episode, of any task, with their timing unchanged.

    A longer donor is cut and a shorter one repeated from its start. Every action was therefore executed by a robot,
    only in a different context. Donors contribute their actions from before this fault.
    """
    if len(episodes) and table.num_episodes < 2:
        raise InputError(f"dataset {table.source!r} has one episode; swapping actions needs a second one")
    source = table.feature("action")
    action = source.copy()
    for episode in episodes:
        donor = (episode + rng.integers(1, table.num_episodes)) % table.num_episodes
        action[rows_of(table, episode)] = np.resize(
            source[rows_of(table, donor)], (table.lengths[episode], source.shape[1])
        )
    return _with_action(table, action)


def _misalignment(table: EpisodeTable, episodes: np.ndarray, steps: float, _: np.random.Generator) -> EpisodeTable:
    """Actions recorded late: frame `t` has the action of frame `t - steps`, and the first frames the first action."""
    action = table.feature("action").copy()
    for episode in episodes:
        rows = rows_of(table, episode)
        late = np.maximum(np.arange(table.lengths[episode]) - int(steps), 0)
        action[rows] = action[rows][late]
    return _with_action(table, action)


def _truncation(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """Episodes truncated to their first 40-70 %, at least one frame."""
    lengths = table.lengths.copy()
    shares = rng.uniform(0.4, 0.7, len(episodes))
    lengths[episodes] = np.maximum(1, np.round(shares * lengths[episodes]).astype(np.int64))
    rows = np.flatnonzero(table.frame_index < np.repeat(lengths, table.lengths))
    return table.take_rows(rows, lengths, table.episode_index)


def _instruction(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The instruction of another task, drawn from the tasks that occur in the table."""
    present = np.unique(table.task_index)
    task_index = table.task_index.copy()
    for episode in episodes:
        rows = rows_of(table, episode)
        others = np.setdiff1d(present, table.task_index[rows])
        if len(others) == 0:
            raise InputError(
                f"dataset {table.source!r} has no task other than that of episode {table.episode_index[episode]}; "
                "swapping instructions needs a second task, choose a recipe without it (ani, tt, misaligned)"
            )
        task_index[rows] = rng.choice(others)
    return dataclasses.replace(table, task_index=task_index)


def _wrong_goal(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The observed goal of another episode of the same task: the behaviour is good but reaches a different goal.

    The goal consists of all observation dimensions with names that start with `goal`, at the donor's first frame.
    """
    goals = {
        name: np.array([i for i, part in enumerate(_names(table.features.get(name))) if part.startswith("goal")], int)
        for name, column in table.columns.items()
    }
    goals = {
        name: dimensions for name, dimensions in goals.items() if len(dimensions) and name.startswith("observation.")
    }
    if not goals:
        raise InputError(
            f"dataset {table.source!r} has no observation dimension named goal…, which a wrong goal needs; choose "
            "another recipe"
        )
    task = table.task_index[table.starts]
    columns = {name: table.feature(name).copy() for name in goals}
    for episode in episodes:
        others = np.flatnonzero(task == task[episode])
        others = others[others != episode]
        if not len(others):
            raise InputError(
                f"dataset {table.source!r} has one episode of task {table.tasks[task[episode]]!r}; swapping goals "
                "needs a second one"
            )
        donor = int(rng.choice(others))
        for name, dimensions in goals.items():
            goal = table.columns[name][table.starts[donor], dimensions]
            columns[name][rows_of(table, episode), dimensions] = goal
    return dataclasses.replace(table, columns={**table.columns, **columns})


def _frozen_camera(table: EpisodeTable, episodes: np.ndarray, share: float, rng: np.random.Generator) -> EpisodeTable:
    """Camera images frozen for a share of the episode, from a random frame onward, while the robot moves on."""
    if not table.videos:
        raise InputError(f"dataset {table.source!r} has no camera, which a frozen camera needs; choose another recipe")
    frames = table.video_frame.copy()
    for episode in episodes:
        rows = rows_of(table, episode)
        length = int(table.lengths[episode])
        frozen = max(1, round(min(share, 1.0) * length))
        first = rows.start + int(rng.integers(0, length - frozen + 1))
        frames[first : first + frozen] = frames[first]
    return dataclasses.replace(table, video_frame=frames)


def _hesitation(table: EpisodeTable, episodes: np.ndarray, pause: float, rng: np.random.Generator) -> EpisodeTable:
    """
    Pauses of `pause` frames, inserted at three random frames: the observation repeats and the robot does not move.

    An action dimension that is closer to its state dimension than the state is to its own mean (mean absolute
    deviation) is a position command and repeats. The others are displacements and become 0, except for dimensions of a
    gripper or hand according to their names. Inserted frames get new ids, as if they had been recorded.
    """
    length_of_pause = max(1, round(pause))
    repeats = np.ones(table.num_frames, dtype=np.int64)
    lengths = table.lengths.copy()
    for episode in episodes:
        chosen = rng.choice(int(table.lengths[episode]), min(3, int(table.lengths[episode])), replace=False)
        repeats[table.starts[episode] + chosen] += length_of_pause
        lengths[episode] += len(chosen) * length_of_pause
    rows = np.repeat(np.arange(table.num_frames), repeats)
    inserted = np.concatenate(([False], rows[1:] == rows[:-1]))
    paused = table.take_rows(rows, lengths, table.episode_index)
    action = paused.feature("action")
    kept = np.zeros(action.shape[1], dtype=bool)
    for dimension, name in enumerate(_names(table.features.get("action"))[: len(kept)]):
        kept[dimension] = any(word in name.lower() for word in KEPT_DURING_PAUSE)
    kept |= position_dimensions(table)
    action[np.ix_(inserted, ~kept)] = 0.0
    frame_id = paused.frame_id.copy()
    frame_id[inserted] = FIRST_INSERTED_ID + np.arange(int(inserted.sum()))
    return dataclasses.replace(paused, frame_id=frame_id, observed_id=frame_id)


def _names(feature: Any) -> list[str]:
    return component_names(feature) or []


FAULTS: dict[str, Callable[[EpisodeTable, np.ndarray, float, np.random.Generator], EpisodeTable]] = {
    "noise": _noise,
    "foreign_actions": _foreign_actions,
    "misalignment": _misalignment,
    "truncation": _truncation,
    "instruction": _instruction,
    "wrong_goal": _wrong_goal,
    "frozen_camera": _frozen_camera,
    "hesitation": _hesitation,
}


def position_dimensions(table: EpisodeTable) -> np.ndarray:
    """
    `(da,)` bool, the dimensions of the action that command a position and repeat at rest.

    Such a dimension is closer to its state dimension than the state is to its own mean (mean absolute deviation).
    """
    action, state = table.feature("action"), table.columns.get("observation.state")
    if state is None or state.shape[1] != action.shape[1]:
        return np.zeros(action.shape[1], dtype=bool)
    found: np.ndarray = np.abs(action - state).mean(axis=0) <= np.abs(state - state.mean(axis=0)).mean(axis=0)
    return found


def rows_of(table: EpisodeTable, episode: int) -> slice:
    """The rows of an episode, by its position in the table."""
    start = int(table.starts[episode])
    return slice(start, start + int(table.lengths[episode]))


def _with_action(table: EpisodeTable, action: np.ndarray) -> EpisodeTable:
    return dataclasses.replace(table, columns={**table.columns, "action": action})
