"""Groups of episodes that are compared with each other, for datasets of more episodes than are compared at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import release_pages

# Episodes that are compared with each other at most. A fit to so many hardly changes with more of them.
MOST_EPISODES = 500
# Episodes of a task that stay together: with fewer in a group, little would be known of the task.
TOGETHER = 24
# Frames of motion that identify a place in an episode, the places of each episode that are compared, and the episodes
# with the same places from which they are of a script and not of copies.
MOTION, PLACES, SCRIPTED = 8, 8, 8
# Odd multipliers of hashes, each of a stream of its own.
_MULTIPLIERS = np.random.default_rng(0).integers(2**63, size=(2, 64), dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def episode_groups(table: EpisodeTable, features: Sequence[str], seed: int = 0) -> list[np.ndarray]:
    """
    The ids of the episodes of each group, in the order of the table; one group up to `MOST_EPISODES` episodes, and
    otherwise groups of about as many.

    Each group extends over the whole recording, so that a change in its course shows in every group. The episodes of a
    task are in as many groups as get `TOGETHER` of them. Episodes with the same motion in some of their frames, which
    may be copies of each other, are in one group.

    Args:
        table: E episodes.
        features: names of the vectors in which copies are looked for, each may be several joined by commas.
        seed: random seed.
    """
    count = -(-table.num_episodes // MOST_EPISODES)
    if count == 1:
        return [table.episode_index.copy()]
    rng = np.random.default_rng(seed)
    units = _units(_keys(table, features))
    task = table.task_index[table.starts]
    sizes = np.zeros(count, dtype=np.int64)
    group = np.empty(table.num_episodes, dtype=np.int64)
    tasks, frequency = np.unique(task, return_counts=True)
    members: dict[int, list[list[int]]] = {number: [] for number in tasks.tolist()}
    for unit in units:
        members[int(task[unit[0]])].append(unit)
    for number in tasks[np.argsort(-frequency, kind="stable")].tolist():
        own = members[number]
        spread = min(count, max(1, sum(map(len, own)) // TOGETHER))
        chosen = np.argsort(sizes + rng.random(count), kind="stable")[:spread]
        for begin in range(0, len(own), spread):
            # A random order: a habit of every second episode must not be in every second group.
            for unit, place in zip(own[begin : begin + spread], rng.permutation(chosen), strict=False):
                group[unit] = place
                sizes[place] += len(unit)
    return [table.episode_index[group == number] for number in range(count) if sizes[number]]


def _units(keys: np.ndarray) -> list[list[int]]:
    """The positions of the episodes that stay together, by their keys `(E, k)`: each at least alone, by the first."""
    parent, sizes = np.arange(len(keys)), np.ones(len(keys), dtype=np.int64)

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = int(parent[position])
        return position

    for column in keys.T:
        order = np.argsort(column, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(column[order])) + 1):
            if column[same[0]] and 1 < len(same) < SCRIPTED:
                for position in same[1:].tolist():
                    one, other = sorted((root(int(same[0])), root(position)))
                    if one != other and sizes[one] + sizes[other] < SCRIPTED:
                        parent[other] = one
                        sizes[one] += sizes[other]
    units: dict[int, list[int]] = {}
    for position in range(len(keys)):
        units.setdefault(root(position), []).append(position)
    return list(units.values())


def _keys(table: EpisodeTable, features: Sequence[str]) -> np.ndarray:
    """Hashes of the places of each episode, `(E, PLACES)` uint64, the least ones of several orders; 0 without any."""
    names = dict.fromkeys(part.strip().partition("@-")[0] for name in features for part in name.split(","))
    columns = [table.columns[name] for name in names if name in table.columns]
    keys = np.zeros((table.num_episodes, PLACES), dtype=np.uint64)
    if not columns:
        return keys
    for row, (start, length) in enumerate(zip(table.starts.tolist(), table.lengths.tolist(), strict=True)):
        frame = np.zeros(length, dtype=np.uint64)
        for column in columns:
            # Zero has two signs.
            values = np.ascontiguousarray(column[start : start + length], dtype=np.float32) + np.float32(0)
            for dimension in values.view(np.uint32).astype(np.uint64).T:
                frame = (frame ^ dimension) * _MULTIPLIERS[0, 0]
                frame ^= frame >> np.uint64(29)
        keys[row] = _least(frame)
        if row % 256 == 0:
            for column in columns:
                release_pages(column)
    return keys


def _least(frame: np.ndarray) -> np.ndarray:
    """The least hashes `(PLACES,)` of the places with motion among the hashes of frames `(T,)`; 0 without any."""
    if len(frame) < MOTION:
        return np.zeros(PLACES, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(frame, MOTION)
    windows = windows[(windows[:, 1:] != windows[:, :-1]).all(axis=1)]
    if not len(windows):
        return np.zeros(PLACES, dtype=np.uint64)
    place = (windows * _MULTIPLIERS[0, :MOTION]).sum(axis=1, dtype=np.uint64)
    return np.array([((place ^ (place >> np.uint64(31))) * odd).min() for odd in _MULTIPLIERS[1, :PLACES]])
