"""Where an episode's rows lie in a data file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_ptr.errors import InputError


def episode_runs(episode_index: np.ndarray) -> dict[int, list[slice]]:
    """The runs of adjacent rows of each episode in a file's column `episode_index (rows,)`."""
    edges = np.flatnonzero(np.diff(episode_index)) + 1
    runs: dict[int, list[slice]] = {}
    for start, stop in itertools.pairwise([0, *edges.tolist(), len(episode_index)]):
        if start < stop:
            runs.setdefault(int(episode_index[start]), []).append(slice(start, stop))
    return runs


def rows_of_episode(
    runs: Mapping[int, Sequence[slice]], frame_index: np.ndarray, episode: int, length: int, path: Path
) -> slice:
    """
    The rows of an episode in its file.

    Args:
        runs: as `episode_runs` gives them.
        frame_index: that column of the file, `(rows,)`.
        episode, length: its id, and its frames as the metadata say.
        path: of the file.

    Raises:
        InputError: they are not as many, not adjacent or not in order.
    """
    found = runs.get(episode, [])
    if len(found) > 1:
        raise InputError(f"{path}: the rows of episode {episode} are not adjacent; write the dataset anew")
    rows = found[0] if found else slice(0, 0)
    if rows.stop - rows.start != length:
        raise InputError(f"{path}: episode {episode} has {rows.stop - rows.start} rows, its metadata say {length}")
    wrong = frame_index[rows] != np.arange(length)
    if wrong.any():
        raise InputError(
            f"{path}: episode {episode} is out of order: its row {wrong.argmax()} has another frame_index"
        )
    return rows
