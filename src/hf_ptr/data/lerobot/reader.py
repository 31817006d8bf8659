"""Reading the tables of a LeRobotDataset folder, v3.0 or v2.x. Does not need `lerobot`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_ptr.data.edited_copies import cut_ends_of_dataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.expected_findings import expected_of_dataset
from hf_ptr.data.features import classify_features, component_names, derived_roles, joined_feature
from hf_ptr.data.lerobot.clock import clock_problems, stretches
from hf_ptr.data.lerobot.columns import ColumnFile, open_columns, rows_of_episode
from hf_ptr.data.lerobot.index_columns import IndexColumns
from hf_ptr.data.lerobot.metadata import Metadata, read_metadata, warn
from hf_ptr.data.memmap import memory_mapped_array, release_pages
from hf_ptr.errors import DataWarning, InputError, UnknownEpisodeError, first_line


def read_dataset(
    path: str | Path,
    episodes: Sequence[int] | None = None,
    *,
    skip: Collection[int] = (),
    features: Sequence[str] | None = None,
    spill_dir: Path | None = None,
) -> EpisodeTable:
    """Read the numeric columns of a LeRobotDataset, v3.0, v2.1 or v2.0.

    Every numeric feature becomes a float32 column `(F, d)`; arrays of several dimensions are flattened in row-major
    order. Images and videos are decoded later, on demand. Text is ignored. Values are read from the files of the
    selected episodes only; others are opened if `index` has to be checked or derived, or an episode is not
    where the metadata say.

    A dataset without `observation.state` or `action` gets these columns from features with other names in use, see
    [`derived_roles`][hf_ptr.data.features.derived_roles]. Index columns that are missing, or repeat a value, are
    derived. Each such step gives a `DataWarning`.

    Args:
        path: the dataset's folder.
        episodes: ids of the episodes to read, in this order; None reads all.
        skip: ids of episodes to leave out; damage in these episodes is ignored.
        features: the vectors to read, which have to be readable; other names, such as those of cameras, are ignored.
            `"A,B"` is the concatenation of A and B. None reads all, and leaves out those that cannot be read with a
            `DataWarning`.
        spill_dir: a folder for temporary, unnamed files that back the columns by memory mapping, for datasets larger
            than memory; by default, columns are held in memory.

    Returns:
        The table; `frame_id` is the files' `index` column.

    Raises:
        InputError: the folder is not a dataset, a file is missing or damaged, metadata and data disagree, a path
            leaves the folder, or time stamps decrease or have another frame rate. The dataset is never modified.
            NaN is not an error here, but where a feature is used.
    """
    root = Path(path)
    try:
        return _read(root, episodes, frozenset(skip), features, spill_dir)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {first_line(error)}") from error


def _read(
    root: Path,
    episodes: Sequence[int] | None,
    skip: frozenset[int],
    features: Sequence[str] | None,
    spill_dir: Path | None,
) -> EpisodeTable:
    unreadable: set[int] = set()

    def report(message: str, episode: int | None) -> None:
        if episode not in skip:
            raise InputError(message, skip=() if episode is None else (episode,))
        unreadable.add(episode)

    metadata = read_metadata(root, report)
    info = metadata.info
    known = metadata.episode_index
    unknown = sorted(skip - unreadable - metadata.empty - set(known.tolist()))
    if unknown:
        raise InputError(f"{root} has no episode {unknown[0]} to skip")
    if skip:
        episodes = [episode for episode in (known.tolist() if episodes is None else episodes) if episode not in skip]
    wanted = _positions(metadata, episodes, root)
    lengths = metadata.lengths[wanted]
    slots: dict[str, list[int]] = {}
    for slot, position in enumerate(wanted.tolist()):
        slots.setdefault(metadata.files[position], []).append(slot)
    _require_rows(root, slots, sum(lengths.tolist()))

    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    vectors = _Vectors(info, features, total, spill_dir)
    index = IndexColumns(root, metadata, warn)
    has_index = True
    task_index, frame_id = _empty((total,), np.int64, spill_dir), _empty((total,), np.int64, spill_dir)
    stretch = _empty((total,), np.int64, spill_dir)
    stretch[:] = 0
    seconds = _empty((total,), np.float64, spill_dir)
    seconds[:] = (np.arange(total) - np.repeat(starts, lengths)) / float(info["fps"])
    for name, in_file in slots.items():
        ids = metadata.episode_index[wanted[in_file]].tolist()
        with open_columns(root / name) as file:
            runs = index.runs(file, name)
            frame_index = index.frame_index(file, runs)
            rows = {
                episode: rows_of_episode(runs, frame_index, episode, length, file.path)
                for episode, length in zip(ids, lengths[in_file].tolist(), strict=True)
            }
            targets = [
                slice(start, stop) for start, stop in zip(starts[in_file], (starts + lengths)[in_file], strict=True)
            ]
            _copy(index.task_index(file, rows), rows.values(), task_index, targets)
            stored = index.index(file)
            has_index = has_index and stored is not None
            if stored is not None:
                _copy(stored, rows.values(), frame_id, targets)
            times = _times(file, rows, float(info["fps"])) if index.timestamp(file) else None
            if times is not None:
                for part, put in zip(rows.values(), targets, strict=True):
                    stretch[put] = stretches(times[part], float(info["fps"]))
                    if np.isfinite(times[part]).all():
                        seconds[put] = times[part] - times[part][0]
            target_row = np.full(file.rows, -1)
            for taken, put in zip(rows.values(), targets, strict=True):
                target_row[taken] = np.arange(put.start, put.stop)
            vectors.read(file, target_row)
    pa.default_memory_pool().release_unused()
    vectors.warn(root)
    paused = metadata.episode_index[wanted][stretch[starts + lengths - 1] > 0].tolist()
    if paused:
        which = f"{len(paused)} episodes, the first is" if len(paused) > 1 else "episode"
        warn(f"{root}: the recording pauses in {which} {paused[0]}; a chunk has no target after a pause")
    return EpisodeTable(
        columns=vectors.columns,
        task_index=_task_positions(task_index, metadata, root),
        tasks=metadata.tasks,
        starts=starts,
        lengths=lengths,
        episode_index=metadata.episode_index[wanted],
        frame_id=index.frame_ids(frame_id if has_index else None, wanted),
        fps=float(info["fps"]),
        robot_type=info.get("robot_type"),
        source=root.resolve().name,
        features=vectors.descriptions,
        videos=metadata.videos,
        stretch=stretch,
        seconds=seconds,
        left_out=vectors.left_out,
        expected=expected_of_dataset(root),
        cut_ends=cut_ends_of_dataset(root),
    )


class _Vectors:
    """
    The vectors of a dataset, filled file by file.

    Args:
        info: content of `meta/info.json`.
        features: the vectors to read; None reads all.
        frames: number of frames of the selected episodes.
        spill_dir: folder of memory-mapped columns; None holds them in memory.
    """

    def __init__(
        self, info: Mapping[str, Any], features: Sequence[str] | None, frames: int, spill_dir: Path | None
    ) -> None:
        kinds = classify_features(info)
        self._required = features is not None
        self._frames, self._spill_dir = frames, spill_dir
        self._widths = {name: kind.width for name, kind in kinds.items() if kind.kind == "vector"}
        self._roles = derived_roles(info)
        self._parts = self._chosen(features)
        self._unreadable: dict[str, str] = {}
        self.columns: dict[str, np.ndarray] = {}
        self.left_out = {name: kind.reason for name, kind in kinds.items() if kind.reason}
        sound = {
            name: description
            for name, description in info["features"].items()
            if isinstance(description, dict)
            and isinstance(description.get("dtype"), str)
            and isinstance(description.get("shape"), list)
        }
        flat = {
            name: {**sound[name], "shape": [width], "names": component_names(sound[name])}
            for name, width in self._widths.items()
            if len(sound[name]["shape"]) != 1
        }
        joined = {
            name: joined_feature([sound[part] for part in parts], [self._widths[part] for part in parts])
            for name, parts in self._parts.items()
            if name not in self._widths
        }
        self.descriptions: dict[str, Any] = {**sound, **flat, **joined}

    def read(self, file: ColumnFile, target_row: np.ndarray) -> None:
        """
        Read all vectors of a file.

        Args:
            file: the open file.
            target_row: `(rows,)`, the row of the columns in which each row is stored; -1 leaves it out.

        Raises:
            InputError: a vector that was asked for cannot be read.
        """
        places: dict[str, list[tuple[str, int]]] = {}
        for name, parts in self._parts.items():
            first = 0
            for part in parts:
                places.setdefault(part, []).append((name, first))
                first += self._widths[part]
        for part, outputs in places.items():
            outputs = [(name, first) for name, first in outputs if name in self._parts]
            try:
                self._read_part(file, part, outputs, target_row)
            except InputError as error:
                if self._required:
                    raise
                self._unreadable.setdefault(part, str(error))
                for name, _ in outputs:
                    self.columns.pop(name, None)
                    del self._parts[name]

    def warn(self, root: Path) -> None:
        """Warn about derived roles and about vectors that could not be read."""
        for name, message in self._unreadable.items():
            self.left_out[name] = message
            warnings.warn(f"{root}: feature {name!r} is left out: {message}", DataWarning, stacklevel=2)
        for role, parts in self._roles.items():
            lost = [part for part in parts if part in self._unreadable]
            if role in self.columns:
                warn(f"{root}: {role} is missing; taken from {', '.join(parts)}")
            elif lost:
                self.left_out[role] = self.left_out[lost[0]]

    def _chosen(self, features: Sequence[str] | None) -> dict[str, list[str]]:
        """The vectors that make up each column."""
        if features is None:
            return {**{name: [name] for name in self._widths}, **self._roles}
        chosen: dict[str, list[str]] = {}
        for name in (feature.partition("@-")[0] if feature not in self._widths else feature for feature in features):
            if name in self._widths:
                chosen[name] = [name]
            elif name in self._roles:
                chosen[name] = self._roles[name]
            else:
                parts = [part.strip() for part in name.split(",")]
                if all(part in self._widths for part in parts):
                    chosen[name] = parts
        return chosen

    def _read_part(
        self, file: ColumnFile, part: str, outputs: Sequence[tuple[str, int]], target_row: np.ndarray
    ) -> None:
        width = self._widths[part]
        for first, block in file.blocks(part):
            here = target_row[first : first + len(block)]
            kept = np.flatnonzero(here >= 0)
            # Rows of other episodes are skipped unchecked.
            rows = block if len(kept) == len(here) else block.take(pa.array(kept))
            values = file.parse(rows, part, width, first + kept)
            for name, begin in outputs:
                # Allocated only now that a file has confirmed the width given in info.json.
                if name not in self.columns:
                    total = sum(self._widths[each] for each in self._parts[name])
                    self.columns[name] = _empty((self._frames, total), np.float32, self._spill_dir)
                self.columns[name][here[kept], begin : begin + width] = values
                release_pages(self.columns[name])


def _empty(shape: tuple[int, ...], dtype: type, spill_dir: Path | None) -> np.ndarray:
    return np.empty(shape, dtype) if spill_dir is None else memory_mapped_array(shape, dtype, spill_dir)


def _times(file: ColumnFile, rows: Mapping[int, slice], fps: float) -> np.ndarray | None:
    """
    The time stamps of a file, `(rows,)`, with order and rate checked. None for stamps that cannot be read: they are
    not used, and left to the validation.
    """
    try:
        times = file.numbers("timestamp", 1)[:, 0]
    except InputError:
        return None
    for episode, part in rows.items():
        for problem in clock_problems(times[part], fps):
            if problem.severity == "error":
                where = "" if problem.frame is None else f", frame {problem.frame}"
                raise InputError(f"{file.path}: episode {episode}{where}: {problem.message}", skip=[episode])
    return times


def _require_rows(root: Path, files: Iterable[str], frames: int) -> None:
    """Check row counts in the files' footers before memory is allocated by the metadata's lengths."""
    available = 0
    for name in files:
        if not (root / name).is_file():
            raise InputError(f"{root}: {name} is missing; the metadata list episodes in it")
        with open_columns(root / name) as file:
            available += file.rows
    if available < frames:
        raise InputError(f"{root}: the metadata list {frames} frames, the data files have {available}")


def _positions(metadata: Metadata, episodes: Sequence[int] | None, root: Path) -> np.ndarray:
    """The positions of the selected episodes in the metadata."""
    known = metadata.episode_index
    if not len(known):
        raise InputError(f"{root} has no episodes; record some first")
    if episodes is None:
        return np.arange(len(known))
    wanted = np.asarray(list(episodes), dtype=np.int64)
    if len(wanted) == 0:
        raise InputError(f"no episodes were selected from {root}; select at least one")
    unknown = wanted[~np.isin(wanted, known)]
    if len(unknown):
        raise UnknownEpisodeError(root, int(unknown[0]), known.tolist())
    values, counts = np.unique(wanted, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"episode {values[counts > 1][0]} of {root} is selected twice; list each episode once")
    return np.searchsorted(known, wanted)


def _task_positions(task_index: np.ndarray, metadata: Metadata, root: Path) -> np.ndarray:
    """Task numbers of the files as positions in `tasks`; the same array if tasks are numbered from 0."""
    numbers = metadata.task_numbers
    if np.array_equal(numbers, np.arange(len(numbers))) and 0 <= task_index.min() <= task_index.max() < len(numbers):
        return task_index
    positions = np.minimum(np.searchsorted(numbers, task_index), len(numbers) - 1)
    unknown = task_index[numbers[positions] != task_index]
    if len(unknown):
        raise InputError(f"{root}: the data use task_index {unknown[0]}, which is not in the metadata")
    return positions.astype(np.int64)


def _copy(source: np.ndarray, rows: Iterable[slice], target: np.ndarray, targets: Iterable[slice]) -> None:
    for taken, put in zip(rows, targets, strict=True):
        target[put] = source[taken]
