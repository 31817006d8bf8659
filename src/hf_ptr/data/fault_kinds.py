"""What each kind of fault does to the episodes that carry it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError

# Parts that keep their command while a robot stands still, by what their names hold.
HELD_DIMENSIONS = ("gripper", "finger", "hand")
# Frames that no recording has get ids from here on, beyond those of any dataset.
INSERTED = 2**40


def _noise(table: EpisodeTable, episodes: np.ndarray, sigma: float, rng: np.random.Generator) -> EpisodeTable:
    """Gaussian noise on the actions, its standard deviation in the raw units of the action.

    The paper's and the study's actions lie in [-1, 1], so 0.1 is a twentieth of their range; actions in other units
    get the same number, not the same share. Noisy actions are not clipped to the range: clipping would mark exactly
    the faulty samples by values at its bounds.
    """
    action = table.feature("action").copy()
    for episode in episodes:
        rows = _rows(table, episode)
        action[rows] += rng.normal(0.0, sigma, action[rows].shape).astype(action.dtype)
    return _with_action(table, action)


def _foreign_actions(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The actions of another episode, of any task, at their own pace.

    A longer donor is cut, a shorter one starts again from its beginning, so every action is one that a robot executed
    and nothing but its place is wrong. Donors give the actions that they had before this fault.
    """
    if len(episodes) and table.num_episodes < 2:
        raise InputError(f"dataset {table.source!r} has one episode; the actions of another need a second one")
    source = table.feature("action")
    action = source.copy()
    for episode in episodes:
        donor = (episode + rng.integers(1, table.num_episodes)) % table.num_episodes
        action[_rows(table, episode)] = np.resize(
            source[_rows(table, donor)], (table.lengths[episode], source.shape[1])
        )
    return _with_action(table, action)


def _misalignment(table: EpisodeTable, episodes: np.ndarray, steps: float, _: np.random.Generator) -> EpisodeTable:
    """Actions recorded late: frame `t` gets the action of frame `t - steps`, the first frames the first action."""
    action = table.feature("action").copy()
    for episode in episodes:
        rows = _rows(table, episode)
        late = np.maximum(np.arange(table.lengths[episode]) - int(steps), 0)
        action[rows] = action[rows][late]
    return _with_action(table, action)


def _truncation(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """Episodes cut to 40-70 % of their length, the start kept, never to less than a frame."""
    lengths = table.lengths.copy()
    shares = rng.uniform(0.4, 0.7, len(episodes))
    lengths[episodes] = np.maximum(1, np.round(shares * lengths[episodes]).astype(np.int64))
    rows = np.flatnonzero(table.frame_index < np.repeat(lengths, table.lengths))
    return table.take_rows(rows, lengths, table.episode_index)


def _instruction(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The instruction of another task, drawn from the tasks that the table's frames have."""
    present = np.unique(table.task_index)
    task_index = table.task_index.copy()
    for episode in episodes:
        rows = _rows(table, episode)
        others = np.setdiff1d(present, table.task_index[rows])
        if len(others) == 0:
            raise InputError(
                f"dataset {table.source!r} has no task but that of episode {table.episode_index[episode]}; "
                f"exchanging instructions needs another, choose a recipe without it (ani, tt, misaligned)"
            )
        task_index[rows] = rng.choice(others)
    return dataclasses.replace(table, task_index=task_index)


def _wrong_goal(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The observed goal of another episode of the same task: what was done is well done, and not what was asked.

    A goal is every dimension of an observation whose name begins with `goal`, as it was in the donor's first frame.
    """
    goals = {
        name: np.array([i for i, part in enumerate(_names(table.features.get(name))) if part.startswith("goal")], int)
        for name, column in table.columns.items()
    }
    goals = {name: places for name, places in goals.items() if len(places) and name.startswith("observation.")}
    if not goals:
        raise InputError(
            f"dataset {table.source!r} names no dimension of an observation goal…; a wrong goal needs one, choose "
            "another recipe"
        )
    task = table.task_index[table.starts]
    columns = {name: table.feature(name).copy() for name in goals}
    for episode in episodes:
        others = np.flatnonzero(task == task[episode])
        others = others[others != episode]
        if not len(others):
            raise InputError(
                f"dataset {table.source!r} has one episode of task {table.tasks[task[episode]]!r}; the goal of "
                "another needs a second one"
            )
        donor = int(rng.choice(others))
        for name, places in goals.items():
            columns[name][_rows(table, episode), places] = table.columns[name][table.starts[donor], places]
    return dataclasses.replace(table, columns={**table.columns, **columns})


def _frozen_camera(table: EpisodeTable, episodes: np.ndarray, share: float, rng: np.random.Generator) -> EpisodeTable:
    """Pictures that stand still for a share of the episode, from a frame of chance on; the robot moves on."""
    if not table.videos:
        raise InputError(f"dataset {table.source!r} has no camera; a frozen one needs videos, choose another recipe")
    frames = table.video_frame.copy()
    for episode in episodes:
        rows = _rows(table, episode)
        length = int(table.lengths[episode])
        frozen = max(1, round(min(share, 1.0) * length))
        first = rows.start + int(rng.integers(0, length - frozen + 1))
        frames[first : first + frozen] = frames[first]
    return dataclasses.replace(table, video_frame=frames)


def _hesitation(table: EpisodeTable, episodes: np.ndarray, pause: float, rng: np.random.Generator) -> EpisodeTable:
    """
    A pause of so many frames, inserted at three frames of chance: what is observed stays, and the robot stands still.

    An action that follows its dimension of the state, nearer to it than the state is to its own mean, is a position,
    and held. The others are displacements, which become 0, but for the dimensions that are a gripper's or a hand's by
    their names. Inserted frames have ids of their own, beyond those of any dataset, as if recorded.
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
    held = np.zeros(action.shape[1], dtype=bool)
    for dimension, name in enumerate(_names(table.features.get("action"))[: len(held)]):
        held[dimension] = any(word in name.lower() for word in HELD_DIMENSIONS)
    state = table.columns.get("observation.state")
    if state is not None and state.shape[1] == action.shape[1]:
        held |= np.abs(table.feature("action") - state).mean(axis=0) <= np.abs(state - state.mean(axis=0)).mean(axis=0)
    action[np.ix_(inserted, ~held)] = 0.0
    frame_id = paused.frame_id.copy()
    frame_id[inserted] = INSERTED + np.arange(int(inserted.sum()))
    return dataclasses.replace(paused, frame_id=frame_id, observed_id=frame_id)


def _names(feature: Any) -> list[str]:
    """The names of a feature's dimensions: a list, or as LeRobot v2.1 also has it, a list in a list."""
    names = feature.get("names") if isinstance(feature, dict) else None
    listed = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list) else names
    return [str(name) for name in listed] if isinstance(listed, list) else []


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


def _rows(table: EpisodeTable, episode: int) -> slice:
    start = int(table.starts[episode])
    return slice(start, start + int(table.lengths[episode]))


def _with_action(table: EpisodeTable, action: np.ndarray) -> EpisodeTable:
    return dataclasses.replace(table, columns={**table.columns, "action": action})
