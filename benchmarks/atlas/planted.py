"""Datasets with a planted fault, and the truth about it."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.atlas.faults import CONTROLS, FAULTS, in_part
from benchmarks.atlas.material import Material
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError

STATE, ACTION = "observation.state", "action"
# Share of the episodes that carry a fault, and the number that carry a rare one.
SHARE = 0.2
RARE = 2
# A set that nothing is planted in.
UNTOUCHED = "untouched"
WHOLE, PART = "whole", "part"


@dataclass(frozen=True)
class Planted:
    """
    A dataset with a planted fault.

    Attributes:
        table: the episodes, with the columns `observation.state` and `action`.
        carriers: `(E,)` bool, episodes that carry the fault.
        frames: by position of a carrier, `(T,)` bool, its faulty frames; empty where the fault has no extent.
    """

    table: EpisodeTable
    carriers: np.ndarray
    frames: dict[int, np.ndarray]

    def episodes(self, feature: str) -> list[np.ndarray]:
        """The values of a feature, one array `(T, d)` an episode."""
        return np.split(self.table.columns[feature], self.table.starts[1:])


def read_set(path: str, state_feature: str, most: int) -> EpisodeTable:
    """
    A dataset's state and action as float64, cut down evenly to at most `most` episodes.

    Raises:
        InputError: the dataset cannot be read, lacks a feature, or has fewer than eight episodes.
    """
    table = read_dataset(path, features=[*state_feature.split(","), ACTION])
    if table.num_episodes < 8:
        raise InputError(
            f"dataset {path!r} has {table.num_episodes} episodes; faults are planted in sets of 8 or more"
        )
    if table.num_episodes > most:
        kept = np.unique(np.linspace(0, table.num_episodes - 1, most).round().astype(int))
        table = table.select(table.episode_index[kept].tolist())
    columns = {STATE: table.feature(state_feature), ACTION: table.feature(ACTION)}
    table.require_finite([state_feature, ACTION])
    features = {
        name: {"dtype": "float32", "shape": [column.shape[1]], "names": None} for name, column in columns.items()
    }
    return dataclasses.replace(table, columns=columns, features=features, videos={}, episode_index=_numbers(table))


def _numbers(table: EpisodeTable) -> np.ndarray:
    return np.arange(table.num_episodes)


def plant(table: EpisodeTable, fault: str, part: str, seed: int, carriers: int) -> Planted | None:
    """
    A copy of a dataset in which `carriers` episodes carry a fault, or a harmless peculiarity.

    Args:
        table: from [`read_set`][].
        fault: name in `FAULTS` or `CONTROLS`, or `untouched`.
        part: `whole` or `part`.
        seed: chooses carriers and amounts, together with the fault and the part.
        carriers: number of carriers.

    Returns:
        None if the dataset cannot have the fault.
    """
    chosen = np.zeros(table.num_episodes, dtype=bool)
    if fault == UNTOUCHED:
        return Planted(table, chosen, {})
    rng = np.random.default_rng([seed, zlib.crc32(f"{fault}/{part}/{carriers}".encode())])
    states, actions = (
        [values.astype(np.float64) for values in np.split(table.columns[name], table.starts[1:])]
        for name in (STATE, ACTION)
    )
    make = FAULTS[fault][0] if fault in FAULTS else CONTROLS[fault]
    chosen[rng.choice(len(states), carriers, replace=False)] = True
    material = Material.of(states, actions, table.fps)
    planted, frames = {}, {}
    for number in np.flatnonzero(chosen).tolist():
        state, action = states[number], actions[number]
        faulty = make(state, action, number, material, rng)
        if part == PART:
            planted[number], frames[number] = in_part(state, action, faulty, material, rng)
        else:
            planted[number] = faulty
    return Planted(_rebuilt(table, planted), chosen, frames)


def _rebuilt(table: EpisodeTable, planted: dict[int, Sequence[np.ndarray]]) -> EpisodeTable:
    """The table with other signals in some episodes, which may have other lengths; their times are regular then."""
    states, actions, tasks, seconds, stretch, lengths = [], [], [], [], [], []
    for number, (start, length) in enumerate(zip(table.starts.tolist(), table.lengths.tolist(), strict=True)):
        rows = slice(start, start + length)
        state, action = planted.get(number, (table.columns[STATE][rows], table.columns[ACTION][rows]))
        states.append(state)
        actions.append(action)
        lengths.append(len(state))
        same = len(state) == length
        tasks.append(np.full(len(state), table.task_index[start]))
        seconds.append(table.seconds[rows] if same else np.arange(len(state)) / table.fps)
        stretch.append(table.stretch[rows] if same else np.zeros(len(state), dtype=np.int64))
    total = sum(lengths)
    return EpisodeTable(
        columns={
            name: np.concatenate(parts).astype(np.float32) for name, parts in ((STATE, states), (ACTION, actions))
        },
        task_index=np.concatenate(tasks),
        tasks=table.tasks,
        starts=np.cumsum(lengths) - lengths,
        lengths=np.array(lengths),
        episode_index=table.episode_index,
        frame_id=np.arange(total),
        fps=table.fps,
        robot_type=table.robot_type,
        source=table.source,
        features=table.features,
        seconds=np.concatenate(seconds),
        stretch=np.concatenate(stretch),
    )
