"""The metadata of a LeRobotDataset folder, v3.0 or v2.x: episodes, tasks, and paths of their files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.lerobot.metadata_files import read_json, read_json_lines, read_tasks
from hf_ptr.data.lerobot.paths import (
    DEFAULT_DATA_PATHS,
    DEFAULT_VIDEO_PATHS,
    clear_link_cache,
    filled,
    path_fields,
    within,
)
from hf_ptr.data.lerobot.versions import layout_of
from hf_ptr.data.lerobot.videos import CameraClips, camera_clips
from hf_ptr.errors import DataWarning, InputError

# Called with a problem, and the id of the affected episode or None.
Report = Callable[[str, int | None], None]
# Called with a warning: something of the metadata is wrong or missing, and was derived.
Note = Callable[[str], None]


def raise_problem(message: str, episode: int | None = None) -> None:
    """Report a problem by raising it, which stops reading.

    Raises:
        InputError: always.
    """
    raise InputError(message)


def warn(message: str) -> None:
    """Report something that was derived, as a `DataWarning`."""
    warnings.warn(message, DataWarning, stacklevel=2)


INFO_FILE = "meta/info.json"


@dataclass(frozen=True)
class Metadata:
    """
    The metadata of a dataset, episodes sorted by id.

    Attributes:
        info: content of `meta/info.json`; `codebase_version` is the layout, `"v3.0"` or `"v2.1"`.
        episode_index, lengths: `(E,)` int64, ids and frame counts.
        first_row: `(E,)` int64, number of each episode's first frame, counted from 0 in the order of the files.
        files: data file of each episode, relative to the dataset's folder.
        task_numbers, tasks: the task numbers used in the files, and their instructions.
        videos: the location of each episode's images, by camera and episode id.
        empty: ids of episodes without frames, which are left out.
        tasks_of: returns the instructions of every episode by its id, as far as the metadata list them.
    """

    info: Mapping[str, Any]
    episode_index: np.ndarray
    lengths: np.ndarray
    first_row: np.ndarray
    files: list[str]
    task_numbers: np.ndarray
    tasks: tuple[str, ...]
    videos: CameraClips
    empty: frozenset[int]
    tasks_of: Callable[[], Mapping[int, Sequence[str]]]


def read_metadata(root: Path, report: Report = raise_problem, note: Note = warn) -> Metadata:
    """
    Read the metadata of the dataset in a folder.

    Args:
        root: the folder.
        report: called with each problem that does not prevent reading the rest. If it returns, the affected episodes
            are left out.
        note: called with each warning.

    Raises:
        InputError: as [`hf_ptr.data.read_dataset`].
    """
    clear_link_cache()
    info = _read_info(root, note)
    return (_read_v3 if info["codebase_version"] == "v3.0" else _read_v21)(root, info, report, note)


def require_dataset_folder(root: Path) -> None:
    """
    Check that a path is the folder of a dataset.

    Raises:
        InputError: it is missing, a file, or without `meta/info.json`; the message names the dataset around it.
    """
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}; pass the folder of a LeRobotDataset")
    if not (root / within(root, INFO_FILE)).is_file():
        above = (*root.parents, *root.resolve().parents)
        dataset = next((folder for folder in above if (folder / INFO_FILE).is_file()), None)
        fix = "pass the folder of one" if dataset is None else f"pass {dataset}, the dataset around it"
        raise InputError(f"{root} is not a LeRobotDataset: {INFO_FILE} is missing; {fix}")


def _read_info(root: Path, note: Note) -> dict[str, Any]:
    require_dataset_folder(root)
    path = root / within(root, INFO_FILE)
    info = read_json(path)
    if not isinstance(info, dict):
        raise InputError(f"{path} is not a JSON object")
    layout = layout_of(root, info, note)
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise InputError(f"{path}: fps is {fps!r}; it must be a positive number of frames per second")
    if info.get("robot_type") is not None and not isinstance(info["robot_type"], str):
        raise InputError(f"{path}: robot_type is {info['robot_type']!r}; it must be a name or null")
    features = info.get("features")
    if not isinstance(features, dict) or not features:
        raise InputError(f"{path}: 'features' is missing or empty")
    info.setdefault("data_path", DEFAULT_DATA_PATHS[layout])
    info.setdefault("video_path", DEFAULT_VIDEO_PATHS[layout])
    return {**info, "codebase_version": layout, "chunks_size": _chunks_size(info, path)}


def _chunks_size(info: Mapping[str, Any], path: Path) -> int:
    size = info.get("chunks_size", 1000)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{path}: chunks_size is {size!r}; it must be a positive integer")
    return size


def _read_v3(root: Path, info: Mapping[str, Any], report: Report, note: Note) -> Metadata:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/episodes/chunk-000/file-000.parquet is missing")
    placed = [name for name in ("chunk_index", "file_index") if f"{{{name}" in str(info["data_path"])]
    if "{episode_index" in str(info["data_path"]):
        # One file for each episode, whose place need not be listed.
        with open_columns(root / within(root, files[0].relative_to(root).as_posix())) as file:
            placed = [name for name in placed if f"data/{name}" in file.names]
    names = ("episode_index", "length", *(f"data/{name}" for name in placed))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    begins: list[np.ndarray] = []
    for path in files:
        within(root, path.relative_to(root).as_posix())
        with open_columns(path) as file:
            for name in names:
                parts[name].append(file.integers(name))
            begins += [file.integers("dataset_from_index")] if "dataset_from_index" in file.names else []
    episodes, lengths, *places = (np.concatenate(parts[name]) for name in names)
    task_numbers, tasks = read_tasks(root, "v3.0", note)
    kept = _sound_episodes(root, info, episodes, lengths, report, note)
    ids, counts = episodes[kept].tolist(), lengths[kept].tolist()
    # The place of an episode, by the columns that the template names.
    columns = dict(zip(placed, (place[kept].tolist() for place in places), strict=True))
    where = [{name: values[number] for name, values in columns.items()} for number in range(len(ids))]
    tables = _tables(root, info, ids, where)
    tables = _with_true_files(root, ids, counts, tables, note)
    first_row = np.cumsum(lengths[kept]) - lengths[kept]
    if len(begins) == len(files):
        # Episodes may be stored in another order than that of their ids.
        stored = np.argsort(np.concatenate(begins)[kept], kind="stable")
        first_row[stored] = np.cumsum(lengths[kept][stored]) - lengths[kept][stored]
    return Metadata(
        info,
        episodes[kept],
        lengths[kept],
        first_row,
        tables,
        *_sound_tasks(root, task_numbers, tasks, report),
        camera_clips(root, info, files, *_sorted(first_row, ids, counts, tables)),
        frozenset(episodes[lengths < 1].tolist()),
        lambda: _tasks_of_files(files),
    )


def _sorted(keys: np.ndarray, *lists: Sequence[Any]) -> list[list[Any]]:
    """The lists in the order of the keys."""
    order = np.argsort(keys, kind="stable").tolist()
    return [[each[position] for position in order] for each in lists]


def _read_v21(root: Path, info: Mapping[str, Any], report: Report, note: Note) -> Metadata:
    records = read_json_lines(root, "meta/episodes.jsonl", {"episode_index": int, "length": int})
    numbers, tasks = read_tasks(root, "v2.1", note)
    episodes, lengths = (
        np.array([record[key] for record in records], dtype=np.int64) for key in ("episode_index", "length")
    )
    kept = _sound_episodes(root, info, episodes, lengths, report, note)
    ids, counts = episodes[kept].tolist(), lengths[kept].tolist()
    tables = _tables(root, info, ids, [{}] * len(ids))
    return Metadata(
        info,
        episodes[kept],
        lengths[kept],
        np.cumsum(lengths[kept]) - lengths[kept],
        tables,
        *_sound_tasks(root, numbers, tasks, report),
        camera_clips(root, info, (), ids, counts, tables),
        frozenset(episodes[lengths < 1].tolist()),
        lambda: {record["episode_index"]: _texts(record.get("tasks")) for record in records},
    )


def _tables(
    root: Path, info: Mapping[str, Any], episodes: Sequence[int], places: Sequence[Mapping[str, int]]
) -> list[str]:
    """The data file of each episode, by the template of info.json."""
    # Many episodes share a file, so each path is filled in once.
    paths: dict[tuple[int, ...], str] = {}
    single = any(f"{{{name}" in str(info["data_path"]) for name in ("episode_chunk", "episode_index"))
    tables = []
    for episode, place in zip(episodes, places, strict=True):
        key = (*place.values(), *([episode] if single or not place else []))
        if key not in paths:
            paths[key] = filled(info, "data_path", {**path_fields(info, episode), **place}, root)
        tables.append(paths[key])
    return tables


def _with_true_files(
    root: Path, episodes: Sequence[int], lengths: Sequence[int], tables: Sequence[str], note: Note
) -> list[str]:
    """
    The data files that hold the episodes. LeRobot's converter to v3.0 lists the first episode of a file in the file
    before it, so an episode that its file lacks is looked up in the two neighbours.
    """
    listed: dict[str, list[int]] = {}
    for position, name in enumerate(tables):
        listed.setdefault(name, []).append(position)
    names, found = list(listed), list(tables)
    held: dict[str, set[int]] = {}

    def episodes_in(name: str) -> set[int]:
        if name not in held:
            held[name] = _episodes_in(root, name)
        return held[name]

    stored: list[str] = []
    for name in names:
        # The footer tells whether rows are missing, without reading any.
        if _rows_in(root / name) in (None, sum(lengths[position] for position in listed[name])):
            continue
        own = episodes_in(name)
        stored = stored or sorted(
            path.relative_to(root).as_posix() for path in (root / name.split("/")[0]).rglob("*.parquet")
        )
        for position in listed[name]:
            # By the metadata, and by the names in the folder: a file that holds this episode alone is listed by none.
            near = [*_next_to(name, names), *_next_to(name, stored)]
            other = None if episodes[position] in own else next(
                (each for each in near if episodes[position] in episodes_in(each)), None
            )  # fmt: skip
            if other is not None:
                found[position] = other
                note(f"{root}: episode {episodes[position]} lies in {other}, not in {name} as the metadata list")
    return found


def _next_to(name: str, names: Sequence[str]) -> list[str]:
    """The names after and before a name."""
    at = names.index(name) if name in names else len(names)
    return [*names[at + 1 : at + 2], *names[max(at - 1, 0) : at]]


def _rows_in(path: Path) -> int | None:
    """The number of rows of a data file; None if it cannot be read, which is reported when it is needed."""
    try:
        with open_columns(path) as file:
            return file.rows
    except InputError:
        return None


def _episodes_in(root: Path, name: str) -> set[int]:
    try:
        with open_columns(root / within(root, name)) as file:
            return set(np.unique(file.integers("episode_index")).tolist())
    except InputError:
        return set()


def _tasks_of_files(files: Sequence[Path]) -> dict[int, list[str]]:
    tasks: dict[int, list[str]] = {}
    for path in files:
        with open_columns(path) as file:
            if "tasks" in file.names:
                ids = file.integers("episode_index").tolist()
                tasks.update(zip(ids, map(_texts, file.texts("tasks")), strict=True))
    return tasks


def _texts(value: Any) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [text for text in listed if isinstance(text, str)]


def _sound_episodes(
    root: Path, info: Mapping[str, Any], episodes: np.ndarray, lengths: np.ndarray, report: Report, note: Note
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
        note(f"{root}: episode {episode} has no frames in the metadata, and is left out")
    for key, found in (("total_episodes", len(episodes)), ("total_frames", sum(lengths.tolist()))):
        if key in info and info[key] != found:
            note(f"{root}: meta/info.json has {key} {info[key]!r}, the episodes' metadata {found}, which is used")
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
