"""Recordings that differ from the rest without a fault: each function alters some episodes of a table.

Position commands and displacements are distinguished as in the pauses of `hf_ptr.data.faults`: what an operator does
more slowly keeps the natural lead of the command over the state, and a displacement shrinks with the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.faults import FAULTS, position_dimensions, rows_of

STATE, ACTION = "observation.state", "action"
# Frames up to which the lead of a command over the state is searched.
MOST_LEAD = 20
RESTING_DIMENSIONS = 14
# Per episode a resting joint has its own angle; in every frame the noise of its encoder. Radians.
REST_ANGLE, ENCODER_NOISE = 0.01, 0.002

Change = Callable[[EpisodeTable, np.ndarray, np.random.Generator], EpisodeTable]


def within_episode_deviation(table: EpisodeTable, name: str) -> np.ndarray:
    """Root mean square over the episodes of each dimension's standard deviation, `(d,)`."""
    column = table.feature(name)
    parts = [column[rows_of(table, episode)].var(axis=0) for episode in range(table.num_episodes)]
    return np.sqrt(np.mean(parts, axis=0))


def with_action(table: EpisodeTable, action: np.ndarray) -> EpisodeTable:
    """The table with other actions."""
    return replace(table, columns={**table.columns, ACTION: action.astype(np.float32)})


def tremor(size: float) -> Change:
    """White noise on the commands, in within-episode standard deviations."""

    def change(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
        action, deviation = table.feature(ACTION).copy(), within_episode_deviation(table, ACTION)
        for episode in episodes:
            rows = rows_of(table, episode)
            action[rows] += size * deviation * random.normal(size=action[rows].shape)
        return with_action(table, action)

    return change


def held(every: int) -> Change:
    """Commands that change in every second or third frame only."""

    def change(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
        action = table.feature(ACTION).copy()
        for episode in episodes:
            rows, time = rows_of(table, episode), np.arange(table.lengths[episode])
            action[rows] = action[rows][time - time % every]
        return with_action(table, action)

    return change


def displacements(table: EpisodeTable) -> np.ndarray:
    """`(da,)` bool, the dimensions that command a displacement, which is zero at rest."""
    names = [str(name) for name in np.ravel(table.features[ACTION]["names"])]
    grips = np.array(["grip" in name or "hand" in name.lower() for name in names])
    return ~position_dimensions(table) & ~grips


def lead(table: EpisodeTable) -> int:
    """Frames by which position commands run ahead of the state; 0 without any."""
    found = position_dimensions(table)
    if not found.any():
        return 0
    action, state = table.feature(ACTION)[:, found], table.feature(STATE)[:, found]

    def error(frames: int) -> float:
        pairs = [(rows_of(table, e).start, rows_of(table, e).stop) for e in range(table.num_episodes)]
        return float(np.mean([np.square(action[i : j - frames] - state[i + frames : j]).mean() for i, j in pairs]))

    return min(range(MOST_LEAD), key=error)


def slower(factor: float) -> Change:
    """The same movement in `factor` times the time, with the natural lead of the command."""

    def change(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
        ahead, moves = lead(table), displacements(table)
        lengths = table.lengths.copy()
        lengths[episodes] = np.round(factor * lengths[episodes]).astype(np.int64)
        columns: dict[str, list[np.ndarray]] = {name: [] for name in table.columns}
        rows = []
        for episode, length in enumerate(lengths):
            mine, last = rows_of(table, episode), int(table.lengths[episode]) - 1
            time = np.arange(length) * (table.lengths[episode] / length)
            rows.append(mine.start + np.minimum(time.astype(np.int64), last))
            for name, parts in columns.items():
                values = table.columns[name][mine]
                if table.lengths[episode] == length:
                    parts.append(values)
                    continue
                at = np.clip(time - (ahead * (1.0 - 1.0 / factor) if name == ACTION else 0.0), 0, last)
                first = np.minimum(at.astype(np.int64), max(last - 1, 0))
                share = (at - first)[:, None]
                slow = (1 - share) * values[first] + share * values[np.minimum(first + 1, last)]
                if name == ACTION:
                    slow[:, moves] /= factor
                parts.append(slow.astype(np.float32))
        slowed = table.take_rows(np.concatenate(rows), lengths, table.episode_index)
        number = np.arange(len(slowed.frame_id))
        return replace(
            slowed,
            columns={name: np.concatenate(parts) for name, parts in columns.items()},
            frame_id=number,
            observed_id=number,
        )

    return change


def pausing(seconds: tuple[float, float]) -> Change:
    """One pause, while the robot stands still."""

    def change(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
        moves = displacements(table)
        repeats, lengths = np.ones(table.num_frames, dtype=np.int64), table.lengths.copy()
        for episode in episodes:
            frames = round(random.uniform(*seconds) * table.fps)
            middle = table.lengths[episode] * random.uniform(0.2, 0.8)
            repeats[table.starts[episode] + int(middle)] += frames
            lengths[episode] += frames
        rows = np.repeat(np.arange(table.num_frames), repeats)
        inserted = np.concatenate(([False], rows[1:] == rows[:-1]))
        paused = table.take_rows(rows, lengths, table.episode_index)
        action = paused.feature(ACTION).copy()
        action[np.ix_(inserted, moves)] = 0.0
        number = np.arange(len(rows))
        return replace(with_action(paused, action), frame_id=number, observed_id=number)

    return change


def with_resting_dimensions(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
    """Fourteen joints more that are never used, in every state and in the action, of all episodes."""
    angle = REST_ANGLE * random.normal(size=(table.num_episodes, RESTING_DIMENSIONS))[table.episode_of_row]
    columns, features = dict(table.columns), dict(table.features)
    for name, column in table.columns.items():
        noise = ENCODER_NOISE * random.normal(size=angle.shape)
        columns[name] = np.concatenate((column, angle + noise), axis=1).astype(np.float32)
        width = columns[name].shape[1]
        features[name] = {**features[name], "shape": [width], "names": [f"x{i}" for i in range(width)]}
    return replace(table, columns=columns, features=features)


def other_path(size: float) -> Change:
    """A detour by a third of the joints, in the state and in the position commands that lead it."""

    def change(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
        ahead, found = lead(table), position_dimensions(table)
        bent = np.flatnonzero(found)[::3]
        columns = {name: table.columns[name].copy() for name in (STATE, ACTION)}
        deviation = within_episode_deviation(table, STATE)[bent]
        for episode in episodes:
            rows, length = rows_of(table, episode), int(table.lengths[episode])
            for name, column in columns.items():
                phase = (np.arange(length) + (ahead if name == ACTION else 0)) / (length + ahead)
                column[rows, bent] += size * deviation * np.sin(np.pi * phase)[:, None] ** 2
        return replace(table, columns={**table.columns, **columns})

    return change


def alike_instructions(table: EpisodeTable, episodes: np.ndarray, random: np.random.Generator) -> EpisodeTable:
    """Each task under three instructions that mean the same."""
    ways = np.arange(table.num_episodes) % 3
    task = 3 * table.task_index + random.permutation(ways)[table.episode_of_row]
    return replace(table, task_index=task, tasks=tuple(f"{name} ({i})" for name in table.tasks for i in range(3)))


def take_episodes(table: EpisodeTable, episodes: np.ndarray) -> EpisodeTable:
    """Some episodes alone."""
    rows = np.concatenate([np.arange(rows_of(table, e).start, rows_of(table, e).stop) for e in episodes])
    return table.take_rows(rows, table.lengths[episodes], table.episode_index[episodes])


def with_faults(table: EpisodeTable, random: np.random.Generator) -> tuple[EpisodeTable, np.ndarray]:
    """A quarter of the episodes faulty: late, swapped and noisy actions in turn; and `(E,)` bool, which."""
    faulty = random.permutation(table.num_episodes)[: max(3, table.num_episodes // 4)]
    deviation = float(np.median(within_episode_deviation(table, ACTION)))
    kinds = (("misalignment", 6.0), ("foreign_actions", 0.0), ("noise", 0.5 * deviation))
    for number, episode in enumerate(faulty):
        name, severity = kinds[number % len(kinds)]
        table = FAULTS[name](table, np.array([episode]), severity, random)
    return table, np.isin(np.arange(table.num_episodes), faulty)
