"""Reading the tables of a LeRobotDataset folder, v3.0 or v2.1. Does not need `lerobot`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.columns import ColumnFile, episode_runs, open_columns, rows_of_episode
from hf_ptr.data.lerobot.metadata import Metadata, read_metadata
from hf_ptr.data.memmap import memory_mapped_array, release_pages
from hf_ptr.errors import InputError, first_line

INDEX_COLUMNS = ("episode_index", "frame_index", "index", "task_index")
NOT_VECTORS = frozenset({*INDEX_COLUMNS, "timestamp"})
NUMERIC_DTYPE = re.compile(r"(float(16|32|64)|u?int(8|16|32|64)|bool)")


def read_dataset(
    path: str | Path,
    episodes: Sequence[int] | None = None,
    *,
    skip: Collection[int] = (),
    spill_dir: Path | None = None,
) -> EpisodeTable:
    """Read the numeric columns of a LeRobotDataset, v3.0 or v2.1.

    Every numeric feature of shape `[d]` becomes a float32 column `(F, d)`. Images and videos are decoded later, on
    demand. Strings and other features with more than one dimension are ignored. Only files with selected episodes are
    opened.

    Args:
        path: the dataset's folder.
        episodes: ids of the episodes to read, in this order; None reads all.
        skip: ids of episodes to leave out; damage in these episodes is ignored.
        spill_dir: a folder for temporary, unnamed files that back the columns by memory mapping, for datasets larger
            than memory; by default, columns are held in memory.

    Returns:
        The table; `frame_id` is the files' `index` column.

    Raises:
        InputError: the folder is not a dataset, a file is missing or damaged, metadata and data disagree, a path
            leaves the folder, or an observation or action is NaN or infinite. The dataset is never modified.
    """
    root = Path(path)
    try:
        return _read(root, episodes, frozenset(skip), spill_dir)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {first_line(error)}") from error


def _read(root: Path, episodes: Sequence[int] | None, skip: frozenset[int], spill_dir: Path | None) -> EpisodeTable:
    unreadable: set[int] = set()

    def report(message: str, episode: int | None) -> None:
        if episode not in skip:
            raise InputError(message)
        unreadable.add(episode)

    metadata = read_metadata(root, report)
    info = metadata.info
    known = metadata.episode_index
    unknown = sorted(skip - unreadable - set(known.tolist()))
    if unknown:
        raise InputError(f"{root} has no episode {unknown[0]} to skip")
    if skip:
        episodes = [episode for episode in (known.tolist() if episodes is None else episodes) if episode not in skip]
    wanted = _positions(metadata, episodes, root)
    lengths = metadata.lengths[wanted]
    slots: dict[str, list[int]] = {}
    for slot, position in enumerate(wanted.tolist()):
        slots.setdefault(metadata.files[position], []).append(slot)
    widths = vector_widths(info["features"])
    _require_rows(root, slots, [*widths, *INDEX_COLUMNS], sum(lengths.tolist()))

    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    columns: dict[str, np.ndarray] = {}
    task_index, frame_id = _empty((total,), np.int64, spill_dir), _empty((total,), np.int64, spill_dir)
    for name, in_file in slots.items():
        with open_columns(root / name) as file:
            rows = _episode_rows(file, metadata.episode_index[wanted[in_file]], lengths[in_file])
            targets = [
                slice(start, stop) for start, stop in zip(starts[in_file], (starts + lengths)[in_file], strict=True)
            ]
            for key, target in (("task_index", task_index), ("index", frame_id)):
                _copy(file.integers(key), rows, target, targets)
            target_row = np.full(file.rows, -1)
            for taken, put in zip(rows, targets, strict=True):
                target_row[taken] = np.arange(put.start, put.stop)
            for key, width in widths.items():
                for first, block in file.blocks(key):
                    here = target_row[first : first + len(block)]
                    kept = np.flatnonzero(here >= 0)
                    # Rows of other episodes are skipped unchecked.
                    part = block if len(kept) == len(here) else block.take(pa.array(kept))
                    values = file.parse(part, key, width, first + kept)
                    # Allocated only now that a file has confirmed the width given in info.json.
                    if key not in columns:
                        columns[key] = _empty((total, width), np.float32, spill_dir)
                    columns[key][here[kept]] = values
                    release_pages(columns[key])
    pa.default_memory_pool().release_unused()
    if not (frame_id[1:] > frame_id[:-1]).all() and len(np.unique(frame_id)) < len(frame_id):
        raise InputError(f"{root}: column 'index' repeats a value; every frame of a dataset needs its own")
    table = EpisodeTable(
        columns=columns,
        task_index=_task_positions(task_index, metadata, root),
        tasks=metadata.tasks,
        starts=starts,
        lengths=lengths,
        episode_index=metadata.episode_index[wanted],
        frame_id=frame_id,
        fps=float(info["fps"]),
        robot_type=info.get("robot_type"),
        source=root.resolve().name,
        features=info["features"],
        videos=metadata.videos,
    )
    table.require_finite([name for name in widths if name.startswith(("observation", "action"))])
    return table


def _empty(shape: tuple[int, ...], dtype: type, spill_dir: Path | None) -> np.ndarray:
    return np.empty(shape, dtype) if spill_dir is None else memory_mapped_array(shape, dtype, spill_dir)


def vector_widths(features: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The names and widths of the one-dimensional numeric features."""
    return {
        name: feature["shape"][0]
        for name, feature in features.items()
        if name not in NOT_VECTORS and NUMERIC_DTYPE.fullmatch(feature["dtype"]) and len(feature["shape"]) == 1
    }


def _require_rows(root: Path, files: Iterable[str], columns: Sequence[str], frames: int) -> None:
    """Check columns and row counts in the files' footers before memory is allocated by the metadata's lengths."""
    available = 0
    for name in files:
        if not (root / name).is_file():
            raise InputError(f"{root}: {name} is missing; the metadata list episodes in it")
        with open_columns(root / name) as file:
            file.require(columns)
            available += file.rows
    if available < frames:
        raise InputError(f"{root}: the metadata list {frames} frames, the data files have {available}")


def _positions(metadata: Metadata, episodes: Sequence[int] | None, root: Path) -> np.ndarray:
    """The positions of the selected episodes in the metadata."""
    known = metadata.episode_index
    if episodes is None:
        return np.arange(len(known))
    wanted = np.asarray(list(episodes), dtype=np.int64)
    if len(wanted) == 0:
        raise InputError(f"no episodes were selected from {root}; select at least one")
    unknown = wanted[~np.isin(wanted, known)]
    if len(unknown):
        raise InputError(f"{root} has no episode {unknown[0]}; its episode ids are in {known[0]}..{known[-1]}")
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


def _episode_rows(file: ColumnFile, episodes: np.ndarray, lengths: np.ndarray) -> list[slice]:
    """The rows of episodes in their file, checked against the lengths in the metadata."""
    runs = episode_runs(file.integers("episode_index"))
    frame_index = file.integers("frame_index")
    return [
        rows_of_episode(runs, frame_index, episode, length, file.path)
        for episode, length in zip(episodes.tolist(), lengths.tolist(), strict=True)
    ]
