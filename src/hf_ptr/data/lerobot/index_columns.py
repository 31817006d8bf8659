"""The index columns of a dataset's files. Those that are missing or repeat a value are derived, with a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_ptr.data.lerobot.columns import ColumnFile, episode_runs, open_columns
from hf_ptr.data.lerobot.metadata import Metadata, Note
from hf_ptr.errors import InputError

REPEATED = "column 'index' repeats a value; frames are numbered by their position in the dataset"
NO_INDEX = "column 'index' is missing; frames are numbered by their position in the dataset"


class IndexColumns:
    """
    The index columns of a dataset's files.

    Args:
        root: the dataset's folder.
        metadata: its metadata.
        note: called with a warning, once for each column that is derived.
    """

    def __init__(self, root: Path, metadata: Metadata, note: Note) -> None:
        self._root, self._metadata, self._note = root, metadata, note
        self._noted: set[str] = set()
        self._numbers: dict[int, int] | None = None

    def runs(self, file: ColumnFile, name: str) -> dict[int, list[slice]]:
        """The runs of adjacent rows of each episode in the data file `name`.

        Raises:
            InputError: the file has no `episode_index`, and the metadata do not tell its episodes apart.
        """
        if "episode_index" in file.names:
            return episode_runs(file.integers("episode_index"))
        listed = [position for position, each in enumerate(self._metadata.files) if each == name]
        listed.sort(key=lambda position: int(self._metadata.first_row[position]))
        lengths = self._metadata.lengths[listed]
        if int(lengths.sum()) != file.rows:
            raise InputError(
                f"{file.path} lacks the column 'episode_index', and its {file.rows} rows are not the "
                f"{int(lengths.sum())} of its episodes in the metadata"
            )
        self._derived("episode_index", "derived from the metadata")
        ends = np.cumsum(lengths)
        ids = self._metadata.episode_index[listed].tolist()
        return {
            episode: [slice(end - length, end)]
            for episode, end, length in zip(ids, ends.tolist(), lengths.tolist(), strict=True)
        }

    def frame_index(self, file: ColumnFile, runs: Mapping[int, Sequence[slice]]) -> np.ndarray:
        """The number of each row in its episode, `(rows,)` int64."""
        if "frame_index" in file.names:
            return file.integers("frame_index")
        self._derived("frame_index", "derived from the order of the rows")
        frames = np.zeros(file.rows, dtype=np.int64)
        for rows in (each for parts in runs.values() for each in parts):
            frames[rows] = np.arange(rows.stop - rows.start)
        return frames

    def task_index(self, file: ColumnFile, rows: Mapping[int, slice]) -> np.ndarray:
        """The task number of each row, `(rows,)` int64; 0 in rows outside of the given episodes.

        Args:
            file: the open file.
            rows: the rows of its episodes by id.

        Raises:
            InputError: the column is missing, and an episode has no task or several in the metadata.
        """
        if "task_index" in file.names:
            return file.integers("task_index")
        self._derived("task_index", "derived from the task of each episode in the metadata")
        tasks = np.zeros(file.rows, dtype=np.int64)
        for episode, part in rows.items():
            tasks[part] = self._task_of(episode, file.path)
        return tasks

    def timestamp(self, file: ColumnFile) -> bool:
        """Whether the file has time stamps; without them the frames of an episode have the nominal rate."""
        if "timestamp" not in file.names:
            self._derived("timestamp", "derived from the frame rate")
        return "timestamp" in file.names

    def index(self, file: ColumnFile) -> np.ndarray | None:
        """The global number of each row, `(rows,)` int64; None if the file has none."""
        return file.integers("index") if "index" in file.names else None

    def frame_ids(self, stored: np.ndarray | None, positions: np.ndarray) -> np.ndarray:
        """
        The number of each frame in the dataset, unique and the same for every selection of episodes.

        Args:
            stored: the column `index` of the selected episodes `(F,)`; None if a file lacks it.
            positions: the positions of these episodes in the metadata, in the order of their rows.
        """
        lengths = self._metadata.lengths[positions]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        derived = np.repeat(self._metadata.first_row[positions], lengths) + within
        if stored is None:
            self._note(f"{self._root}: {NO_INDEX}")
            return derived
        if np.array_equal(stored, derived):
            return stored
        # Other numbers are kept if they are unique in the whole dataset, not only in a selection of it.
        problem = self._problem_of_index(stored, set(positions.tolist()))
        if problem is None:
            return stored
        self._note(f"{self._root}: {problem}")
        return derived

    def _problem_of_index(self, stored: np.ndarray, selected: set[int]) -> str | None:
        parts = [stored]
        if len(selected) < len(self._metadata.files):
            parts = []
            for name in dict.fromkeys(self._metadata.files):
                try:
                    with open_columns(self._root / name) as file:
                        found = self.index(file)
                except InputError:
                    # Reported if one of its episodes is read.
                    continue
                if found is None:
                    return NO_INDEX
                parts.append(found)
        ordered = np.sort(np.concatenate(parts))
        return REPEATED if (ordered[1:] == ordered[:-1]).any() else None

    def _task_of(self, episode: int, path: Path) -> int:
        if self._numbers is None:
            number_of = dict(zip(self._metadata.tasks, self._metadata.task_numbers.tolist(), strict=True))
            listed = self._metadata.tasks_of()
            self._numbers = {
                each: number_of[tasks[0]]
                for each, tasks in listed.items()
                if len(tasks) == 1 and tasks[0] in number_of
            }
            if not listed and len(number_of) == 1:
                only = next(iter(number_of.values()))
                self._numbers = dict.fromkeys(self._metadata.episode_index.tolist(), only)
        if episode not in self._numbers:
            raise InputError(
                f"{path} lacks the column 'task_index', and the metadata do not give episode {episode} one known task"
            )
        return self._numbers[episode]

    def _derived(self, column: str, how: str) -> None:
        if column not in self._noted:
            self._noted.add(column)
            self._note(f"{self._root}: column {column!r} is missing; {how}")
