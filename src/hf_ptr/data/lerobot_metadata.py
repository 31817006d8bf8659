"""The metadata of a LeRobotDataset folder, v3.0 or v2.1: its episodes, tasks, and where their files lie."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from hf_ptr.data.columns import first_line, open_columns
from hf_ptr.data.video import VideoClip
from hf_ptr.errors import InputError

# What LeRobot wrote before info.json carried the templates.
DEFAULT_DATA_PATHS = {
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
DEFAULT_VIDEO_PATHS = {
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
# A year: no video is longer, and a wild number would be sought for in vain.
MAX_SECONDS = 3.2e7
PADDED_INTEGER = re.compile(r"(0?\d{1,2})?d?")


@dataclass(frozen=True)
class Metadata:
    """
    What the metadata say about episodes, in the order of their ids.

    Attributes:
        info: `meta/info.json`.
        episode_index, lengths: `(E,)` int64.
        files: of the episodes' rows, relative to the dataset.
        task_numbers, tasks: the numbers in the files and their instructions.
        videos: by camera and episode id.
    """

    info: Mapping[str, Any]
    episode_index: np.ndarray
    lengths: np.ndarray
    files: list[str]
    task_numbers: np.ndarray
    tasks: tuple[str, ...]
    videos: dict[str, dict[int, VideoClip]]


def read_metadata(root: Path) -> Metadata:
    """
    The metadata of the dataset in a folder.

    Raises:
        InputError: as [`hf_ptr.data.read_dataset`].
    """
    info = _read_info(root)
    return _read_v3(root, info) if info["codebase_version"] == "v3.0" else _read_v21(root, info)


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
    info.setdefault("video_path", DEFAULT_VIDEO_PATHS[version])
    return info


def _read_v3(root: Path, info: Mapping[str, Any]) -> Metadata:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/episodes/chunk-000/file-000.parquet is missing")
    cameras = _cameras(info)
    with open_columns(files[0]) as file:
        # Without them the tables can still be read, and a policy on vectors trained.
        cameras = [camera for camera in cameras if f"videos/{camera}/from_timestamp" in file.names]
    names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    names += [f"videos/{camera}/{part}_index" for camera in cameras for part in ("chunk", "file")]
    begins = [f"videos/{camera}/from_timestamp" for camera in cameras]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*names, *begins)}
    for path in files:
        with open_columns(path) as file:
            for name in names:
                parts[name].append(file.integers(name))
            for name in begins:
                parts[name].append(file.numbers(name, 1)[:, 0].astype(np.float64))
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    order = np.argsort(columns["episode_index"], kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    pairs = zip(columns["data/chunk_index"].tolist(), columns["data/file_index"].tolist(), strict=True)
    paths = [_filled(info, "data_path", {"chunk_index": chunk, "file_index": file}, root) for chunk, file in pairs]
    videos: dict[str, dict[int, VideoClip]] = {}
    for camera in cameras:
        keys = (f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp"))
        places = (columns[key].tolist() for key in keys)
        videos[camera] = {}
        which = (columns[key].tolist() for key in ("episode_index", "length"))
        for episode, length, chunk, file_index, start in zip(*which, *places, strict=True):
            if not 0 <= start < MAX_SECONDS:
                raise InputError(f"{root}: the video {camera!r} of episode {episode} begins at {start} seconds")
            values = {"video_key": camera, "chunk_index": chunk, "file_index": file_index}
            videos[camera][episode] = VideoClip(root / _filled(info, "video_path", values, root), start, length)
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset v3.0: meta/tasks.parquet is missing")
    with open_columns(path) as file:
        # pandas stores the index, which holds the instruction, under its name or under a name of its own.
        text = "__index_level_0__" if "__index_level_0__" in file.names else "task"
        tasks = file.column(text).to_pylist()
        numbers = file.integers("task_index")
    return _metadata(root, info, columns["episode_index"], columns["length"], paths, numbers, tasks, videos)


def _read_v21(root: Path, info: Mapping[str, Any]) -> Metadata:
    episodes = _json_lines(root, "meta/episodes.jsonl", {"episode_index": int, "length": int})
    tasks = _json_lines(root, "meta/tasks.jsonl", {"task_index": int, "task": str})
    size = info.get("chunks_size", 1000)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{root}/meta/info.json: chunks_size is {size!r}; it must be a positive integer")
    episodes.sort(key=lambda episode: episode["episode_index"])
    index = [episode["episode_index"] for episode in episodes]
    places = [{"episode_chunk": number // size, "episode_index": number} for number in index]
    paths = [_filled(info, "data_path", place, root) for place in places]
    videos: dict[str, dict[int, VideoClip]] = {}
    for camera in _cameras(info):
        files = [root / _filled(info, "video_path", {"video_key": camera, **place}, root) for place in places]
        clips = [VideoClip(file, 0.0, episode["length"]) for file, episode in zip(files, episodes, strict=True)]
        videos[camera] = dict(zip(index, clips, strict=True))
    numbers = np.array([task["task_index"] for task in tasks], dtype=np.int64)
    lengths = np.array([episode["length"] for episode in episodes], dtype=np.int64)
    texts = [task["task"] for task in tasks]
    return _metadata(root, info, np.array(index, dtype=np.int64), lengths, paths, numbers, texts, videos)


def _metadata(
    root: Path,
    info: Mapping[str, Any],
    episode_index: np.ndarray,
    lengths: np.ndarray,
    files: list[str],
    task_numbers: np.ndarray,
    tasks: Sequence[Any],
    videos: dict[str, dict[int, VideoClip]],
) -> Metadata:
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
    texts = tuple(tasks[i] for i in order.tolist())
    return Metadata(info, episode_index, lengths, files, numbers, texts, videos)


def _cameras(info: Mapping[str, Any]) -> list[str]:
    return [name for name, feature in info["features"].items() if feature["dtype"] == "video"]


def _filled(info: Mapping[str, Any], key: str, values: Mapping[str, int | str], root: Path) -> str:
    """Fill in a path template of info.json, refusing whatever is not a path inside the dataset.

    The check is on the text and not on the resolved path: in the Hub's cache, files inside a dataset's folder are
    links to a store beside it.
    """
    template = info[key]
    try:
        fields = list(string.Formatter().parse(template)) if isinstance(template, str) else None
    except ValueError:
        fields = None
    # A width such as {episode_index:999999999d} would exhaust the memory, an attribute would reach into Python.
    if fields is None or any(
        field is not None and (field not in values or conversion or not _plain(spec or "", values[field]))
        for _, field, spec, conversion in fields
    ):
        raise InputError(f"{root}/meta/info.json: {key} {template!r} is not a template of {', '.join(values)}")
    path = template.format(**values)
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or PureWindowsPath(path).drive or "\0" in path:
        raise InputError(f"{root}/meta/info.json: {key} {template!r} leaves the dataset's folder")
    return path


def _plain(spec: str, value: int | str) -> bool:
    return spec == "" if isinstance(value, str) else PADDED_INTEGER.fullmatch(spec) is not None


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
