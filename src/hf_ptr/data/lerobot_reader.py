"""Reading the tables of a LeRobotDataset folder, v3.0 or v2.1, without `lerobot`."""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from hf_ptr.data.columns import ColumnFile, first_line, open_columns
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError

# What LeRobot wrote before info.json carried the template.
DEFAULT_DATA_PATHS = {
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
INDEX_COLUMNS = ("episode_index", "frame_index", "index", "task_index")
NOT_VECTORS = frozenset({*INDEX_COLUMNS, "timestamp"})
NUMERIC_DTYPE = re.compile(r"(float(16|32|64)|u?int(8|16|32|64)|bool)")
PADDED_INTEGER = re.compile(r"(0?\d{1,2})?d?")


@dataclass(frozen=True)
class _Metadata:
    """What the metadata say about episodes, in the order of their ids. `files` are relative to the dataset."""

    episode_index: np.ndarray
    lengths: np.ndarray
    files: list[str]
    task_numbers: np.ndarray
    tasks: tuple[str, ...]


def read_dataset(path: str | Path, episodes: Sequence[int] | None = None) -> EpisodeTable:
    """Read the numeric columns of a LeRobotDataset, v3.0 or v2.1.

    Every numeric feature of shape `[d]` becomes a float32 column `(F, d)`; images, videos, strings and features of
    more than one dimension are left out. Only the files that hold the wanted episodes are opened.

    Args:
        path: the dataset's folder.
        episodes: ids of the episodes to read, in this order; None reads all.

    Returns:
        The table; `frame_id` is the files' `index` column.

    Raises:
        InputError: the folder is no dataset, a file is missing or damaged, metadata and data disagree, a path leaves
            the folder, or an observation or action is NaN or infinite. Nothing is ever written.
    """
    root = Path(path)
    try:
        return _read(root, episodes)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {first_line(error)}") from error


def _read(root: Path, episodes: Sequence[int] | None) -> EpisodeTable:
    info = _read_info(root)
    metadata = _read_v3(root, info) if info["codebase_version"] == "v3.0" else _read_v21(root, info)
    wanted = _positions(metadata, episodes, root)
    lengths = metadata.lengths[wanted]
    slots: dict[str, list[int]] = {}
    for slot, position in enumerate(wanted.tolist()):
        slots.setdefault(metadata.files[position], []).append(slot)
    widths = _vector_widths(info["features"])
    _require_rows(root, slots, [*widths, *INDEX_COLUMNS], sum(lengths.tolist()))

    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    columns: dict[str, np.ndarray] = {}
    task_index = np.empty(total, dtype=np.int64)
    frame_id = np.empty(total, dtype=np.int64)
    for name, held in slots.items():
        with open_columns(root / name) as file:
            rows = _episode_rows(file, metadata.episode_index[wanted[held]], lengths[held])
            targets = [slice(start, stop) for start, stop in zip(starts[held], (starts + lengths)[held], strict=True)]
            for key, target in (("task_index", task_index), ("index", frame_id)):
                _copy(file.integers(key), rows, target, targets)
            for key, width in widths.items():
                values = file.numbers(key, width)
                # Not before a file has proved that its rows have the width that info.json claims.
                if key not in columns:
                    columns[key] = np.empty((total, width), dtype=np.float32)
                _copy(values, rows, columns[key], targets)
    ordered = np.sort(frame_id)
    if (ordered[1:] == ordered[:-1]).any():
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
    )
    table.require_finite([name for name in widths if name.startswith(("observation", "action"))])
    return table


def _vector_widths(features: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The numeric features of one dimension and their widths."""
    return {
        name: feature["shape"][0]
        for name, feature in features.items()
        if name not in NOT_VECTORS and NUMERIC_DTYPE.fullmatch(feature["dtype"]) and len(feature["shape"]) == 1
    }


def _require_rows(root: Path, files: Iterable[str], columns: Sequence[str], frames: int) -> None:
    """Check the files' footers, so that a wrong length in the metadata cannot ask for memory in vain."""
    available = 0
    for name in files:
        if not (root / name).is_file():
            raise InputError(f"{root}: {name} is missing, which holds episodes that the metadata list")
        with open_columns(root / name) as file:
            file.require(columns)
            available += file.rows
    if available < frames:
        raise InputError(f"{root}: the metadata give the episodes {frames} frames, their data files have {available}")


def _read_info(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {what}; give the folder of a LeRobotDataset")
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset: meta/info.json is missing")
    info = _json(_text(path), path)
    if not isinstance(info, dict):
        raise InputError(f"{path} holds no JSON object")
    version = info.get("codebase_version")
    if version not in ("v3.0", "v2.1"):
        raise InputError(f"{path}: codebase_version {version!r} is not supported; convert the dataset to v3.0 or v2.1")
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise InputError(f"{path}: fps is {fps!r}; it must be a positive number of frames per second")
    if info.get("robot_type") is not None and not isinstance(info["robot_type"], str):
        raise InputError(f"{path}: robot_type is {info['robot_type']!r}; it must be a name or null")
    features = info.get("features")
    if not isinstance(features, dict) or not features:
        raise InputError(f"{path}: 'features' is missing or empty")
    for name, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        sound = isinstance(shape, list) and all(isinstance(n, int) and 0 < n < 2**31 for n in shape)
        if not sound or not isinstance(feature.get("dtype"), str):
            raise InputError(f"{path}: feature {name!r} lacks a dtype or a shape of positive integers")
    info.setdefault("data_path", DEFAULT_DATA_PATHS[version])
    return info


def _read_v3(root: Path, info: Mapping[str, Any]) -> _Metadata:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/episodes/chunk-000/file-000.parquet is missing")
    names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for path in files:
        with open_columns(path) as file:
            for name in names:
                parts[name].append(file.integers(name))
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    order = np.argsort(columns["episode_index"], kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    pairs = zip(columns["data/chunk_index"].tolist(), columns["data/file_index"].tolist(), strict=True)
    paths = [_data_path(info["data_path"], {"chunk_index": chunk, "file_index": file}, root) for chunk, file in pairs]
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/tasks.parquet is missing")
    with open_columns(path) as file:
        # pandas stores the index, which holds the instruction, under its name or under a name of its own.
        text = "__index_level_0__" if "__index_level_0__" in file.names else "task"
        tasks = file.column(text).to_pylist()
        numbers = file.integers("task_index")
    return _metadata(root, info, columns["episode_index"], columns["length"], paths, numbers, tasks)


def _read_v21(root: Path, info: Mapping[str, Any]) -> _Metadata:
    episodes = _json_lines(root, "meta/episodes.jsonl", {"episode_index": int, "length": int})
    tasks = _json_lines(root, "meta/tasks.jsonl", {"task_index": int, "task": str})
    size = info.get("chunks_size", 1000)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{root}/meta/info.json: chunks_size is {size!r}; it must be a positive integer")
    episodes.sort(key=lambda episode: episode["episode_index"])
    index = [episode["episode_index"] for episode in episodes]
    paths = [
        _data_path(info["data_path"], {"episode_chunk": number // size, "episode_index": number}, root)
        for number in index
    ]
    numbers = np.array([task["task_index"] for task in tasks], dtype=np.int64)
    lengths = np.array([episode["length"] for episode in episodes], dtype=np.int64)
    return _metadata(root, info, np.array(index, dtype=np.int64), lengths, paths, numbers, [t["task"] for t in tasks])


def _metadata(
    root: Path,
    info: Mapping[str, Any],
    episode_index: np.ndarray,
    lengths: np.ndarray,
    files: list[str],
    task_numbers: np.ndarray,
    tasks: Sequence[Any],
) -> _Metadata:
    """Check what both versions have in common."""
    if len(episode_index) == 0:
        raise InputError(f"{root} has no episodes; record some first")
    repeated = episode_index[1:][episode_index[1:] == episode_index[:-1]]
    if len(repeated):
        raise InputError(f"{root}: the metadata list episode {repeated[0]} twice")
    if (lengths < 1).any():
        raise InputError(f"{root}: episode {episode_index[(lengths < 1).argmax()]} has no frames in the metadata")
    for key, found in (("total_episodes", len(episode_index)), ("total_frames", sum(lengths.tolist()))):
        if key in info and info[key] != found:
            raise InputError(f"{root}: meta/info.json gives {key} {info[key]!r}, the episodes' metadata {found}")
    if not tasks or not all(isinstance(task, str) for task in tasks):
        raise InputError(f"{root}: the metadata name no task, or one that is not text")
    order = np.argsort(task_numbers, kind="stable")
    numbers = task_numbers[order]
    if len(np.unique(numbers)) != len(numbers):
        raise InputError(f"{root}: the metadata give one task_index to several tasks")
    return _Metadata(episode_index, lengths, files, numbers, tuple(tasks[i] for i in order.tolist()))


def _positions(metadata: _Metadata, episodes: Sequence[int] | None, root: Path) -> np.ndarray:
    """Positions in the metadata of the wanted episodes."""
    known = metadata.episode_index
    if episodes is None:
        return np.arange(len(known))
    wanted = np.asarray(list(episodes), dtype=np.int64)
    if len(wanted) == 0:
        raise InputError(f"no episodes were selected from {root}; name at least one")
    unknown = wanted[~np.isin(wanted, known)]
    if len(unknown):
        raise InputError(f"{root} has no episode {unknown[0]}; its episodes lie in {known[0]}..{known[-1]}")
    values, counts = np.unique(wanted, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"episode {values[counts > 1][0]} of {root} is selected twice; name each episode once")
    return np.searchsorted(known, wanted)


def _data_path(template: Any, values: Mapping[str, int], root: Path) -> str:
    """Fill in a path template of info.json, refusing whatever is not a path inside the dataset.

    The check is on the text and not on the resolved path: in the Hub's cache, files inside a dataset's folder are
    links to a store beside it.
    """
    try:
        fields = list(string.Formatter().parse(template)) if isinstance(template, str) else None
    except ValueError:
        fields = None
    # A width such as {episode_index:999999999d} would exhaust the memory, an attribute would reach into Python.
    if fields is None or any(
        field is not None and (field not in values or conversion or not PADDED_INTEGER.fullmatch(spec or ""))
        for _, field, spec, conversion in fields
    ):
        raise InputError(f"{root}/meta/info.json: data_path {template!r} is not a template of {', '.join(values)}")
    path = template.format(**values)
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or PureWindowsPath(path).drive or "\0" in path:
        raise InputError(f"{root}/meta/info.json: data_path {template!r} leaves the dataset's folder")
    return path


def _task_positions(task_index: np.ndarray, metadata: _Metadata, root: Path) -> np.ndarray:
    """Task numbers of the files as positions in `tasks`; most datasets number from 0 and nothing changes."""
    numbers = metadata.task_numbers
    positions = np.minimum(np.searchsorted(numbers, task_index), len(numbers) - 1)
    unknown = task_index[numbers[positions] != task_index]
    if len(unknown):
        raise InputError(f"{root}: the data use task_index {unknown[0]}, which the metadata's tasks do not have")
    return positions.astype(np.int64)


def _copy(source: np.ndarray, rows: Iterable[slice], target: np.ndarray, places: Iterable[slice]) -> None:
    for taken, place in zip(rows, places, strict=True):
        target[place] = source[taken]


def _episode_rows(file: ColumnFile, episodes: np.ndarray, lengths: np.ndarray) -> list[slice]:
    """The rows of episodes in their file, checked against the metadata's lengths."""
    episode_index = file.integers("episode_index")
    frame_index = file.integers("frame_index")
    edges = np.flatnonzero(np.diff(episode_index)) + 1
    runs: dict[int, slice] = {}
    for start, stop in itertools.pairwise([0, *edges.tolist(), len(episode_index)]):
        episode = int(episode_index[start]) if start < stop else -1
        if episode in runs:
            raise InputError(f"{file.path}: the rows of episode {episode} are not adjacent; write the dataset anew")
        runs[episode] = slice(start, stop)
    found = []
    for episode, length in zip(episodes.tolist(), lengths.tolist(), strict=True):
        rows = runs.get(episode, slice(0, 0))
        if rows.stop - rows.start != length:
            rows_found = rows.stop - rows.start
            raise InputError(f"{file.path}: episode {episode} has {rows_found} rows, its metadata say {length}")
        wrong = frame_index[rows] != np.arange(length)
        if wrong.any():
            raise InputError(
                f"{file.path}: episode {episode} is out of order: its row {wrong.argmax()} has another frame_index"
            )
        found.append(rows)
    return found


def _json_lines(root: Path, name: str, keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, each with the keys of the given types."""
    path = root / name
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset v2.1: {name} is missing")
    records = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = _json(line, f"{path}, line {number}")
        for key, kind in keys.items():
            value = record.get(key) if isinstance(record, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"{path}, line {number}: {key!r} is missing or not of type {kind.__name__}")
            if isinstance(value, int) and not 0 <= value < 2**31:
                raise InputError(f"{path}, line {number}: {key!r} is {value}, out of range")
        records.append(record)
    return records


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {first_line(error)}") from error


def _json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {first_line(error)}") from error
