"""The metadata of a LeRobotDataset folder, v3.0 or v2.1: episodes, tasks, and paths of their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.lerobot.paths import DEFAULT_DATA_PATHS, DEFAULT_VIDEO_PATHS, clear_link_cache, filled, within
from hf_ptr.data.lerobot.videos import CameraClips, camera_clips
from hf_ptr.errors import InputError, first_line

# Called with a problem, and the id of the affected episode or None.
Report = Callable[[str, int | None], None]


def raise_problem(message: str, episode: int | None = None) -> None:
    """Report a problem by raising it, which stops reading.

    Raises:
        InputError: always.
    """
    raise InputError(message)


@dataclass(frozen=True)
class Metadata:
    """
    The metadata of a dataset, episodes sorted by id.

    Attributes:
        info: content of `meta/info.json`.
        episode_index, lengths: `(E,)` int64, ids and frame counts.
        files: data file of each episode, relative to the dataset's folder.
        task_numbers, tasks: the task numbers used in the files, and their instructions.
        videos: the location of each episode's images, by camera and episode id.
    """

    info: Mapping[str, Any]
    episode_index: np.ndarray
    lengths: np.ndarray
    files: list[str]
    task_numbers: np.ndarray
    tasks: tuple[str, ...]
    videos: CameraClips


def read_metadata(root: Path, report: Report = raise_problem) -> Metadata:
    """
    Read the metadata of the dataset in a folder.

    Args:
        root: the folder.
        report: called with each problem that does not prevent reading the rest. If it returns, the affected episodes
            are left out.

    Raises:
        InputError: as [`hf_ptr.data.read_dataset`].
    """
    clear_link_cache()
    info = _read_info(root)
    return (_read_v3 if info["codebase_version"] == "v3.0" else _read_v21)(root, info, report)


def _read_info(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}; pass the folder of a LeRobotDataset")
    path = root / within(root, "meta/info.json")
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset: meta/info.json is missing")
    info = _json(_text(path), path)
    if not isinstance(info, dict):
        raise InputError(f"{path} is not a JSON object")
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
    info.setdefault("video_path", DEFAULT_VIDEO_PATHS[version])
    return info


def _read_v3(root: Path, info: Mapping[str, Any], report: Report) -> Metadata:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/episodes/chunk-000/file-000.parquet is missing")
    names = ("episode_index", "length", "data/chunk_index", "data/file_index")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for path in files:
        within(root, path.relative_to(root).as_posix())
        with open_columns(path) as file:
            for name in names:
                parts[name].append(file.integers(name))
    episodes, lengths, chunks, numbers = (np.concatenate(parts[name]) for name in names)
    # Many episodes share a file, so each path is filled in once.
    paths = {
        pair: filled(info, "data_path", dict(zip(("chunk_index", "file_index"), pair, strict=True)), root)
        for pair in set(zip(chunks.tolist(), numbers.tolist(), strict=True))
    }
    path = root / within(root, "meta/tasks.parquet")
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/tasks.parquet is missing")
    with open_columns(path) as file:
        # The instruction is the pandas index, stored under its own name or under a generated one.
        text = "__index_level_0__" if "__index_level_0__" in file.names else "task"
        tasks = file.texts(text)
        task_numbers = file.integers("task_index")
    kept = _sound_episodes(root, info, episodes, lengths, report)
    tables = [paths[pair] for pair in zip(chunks[kept].tolist(), numbers[kept].tolist(), strict=True)]
    return Metadata(
        info,
        episodes[kept],
        lengths[kept],
        tables,
        *_sound_tasks(root, task_numbers, tasks, report),
        camera_clips(root, info, files, episodes[kept].tolist(), lengths[kept].tolist(), tables),
    )


def _read_v21(root: Path, info: Mapping[str, Any], report: Report) -> Metadata:
    records = _json_lines(root, "meta/episodes.jsonl", {"episode_index": int, "length": int})
    tasks = _json_lines(root, "meta/tasks.jsonl", {"task_index": int, "task": str})
    size = info.get("chunks_size", 1000)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{root}/meta/info.json: chunks_size is {size!r}; it must be a positive integer")
    info = {**info, "chunks_size": size}
    episodes, lengths = (
        np.array([record[key] for record in records], dtype=np.int64) for key in ("episode_index", "length")
    )
    kept = _sound_episodes(root, info, episodes, lengths, report)
    ids, counts = episodes[kept].tolist(), lengths[kept].tolist()
    fields = [{"episode_chunk": episode // size, "episode_index": episode} for episode in ids]
    tables = [filled(info, "data_path", values, root) for values in fields]
    return Metadata(
        info,
        episodes[kept],
        lengths[kept],
        tables,
        *_sound_tasks(
            root,
            np.array([task["task_index"] for task in tasks], dtype=np.int64),
            [task["task"] for task in tasks],
            report,
        ),
        camera_clips(root, info, (), ids, counts, tables),
    )


def _sound_episodes(
    root: Path, info: Mapping[str, Any], episodes: np.ndarray, lengths: np.ndarray, report: Report
) -> np.ndarray:
    """The positions of the readable episodes, sorted by id."""
    if len(episodes) == 0:
        raise InputError(f"{root} has no episodes; record some first")
    order = np.argsort(episodes, kind="stable")
    known = episodes[order]
    repeated = np.concatenate(([False], known[1:] == known[:-1]))
    for episode in np.unique(known[repeated]).tolist():
        report(f"{root}: the metadata list episode {episode} twice", episode)
    empty = lengths[order] < 1
    for episode in known[empty & ~repeated].tolist():
        report(f"{root}: episode {episode} has no frames in the metadata", episode)
    for key, found in (("total_episodes", len(episodes)), ("total_frames", sum(lengths.tolist()))):
        if key in info and info[key] != found:
            report(f"{root}: meta/info.json has {key} {info[key]!r}, the episodes' metadata {found}", None)
    return order[~(repeated | empty)]


def _sound_tasks(
    root: Path, numbers: np.ndarray, tasks: Sequence[Any], report: Report
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The task numbers in ascending order, and their instructions."""
    if not tasks or not all(isinstance(task, str) for task in tasks):
        raise InputError(f"{root}: the metadata contain no task, or a task that is not a text")
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    if len(np.unique(ordered)) != len(ordered):
        report(f"{root}: the metadata assign one task_index to several tasks", None)
    return ordered, tuple(tasks[i] for i in order.tolist())


def _json_lines(root: Path, name: str, keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, checked to have the given keys with the given types."""
    path = root / within(root, name)
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
