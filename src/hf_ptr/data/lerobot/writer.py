"""Writing a LeRobotDataset v3.0 folder: parquet tables, metadata, statistics and mp4 videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.files import (
    DataFiles,
    VideoFiles,
    arrow_schema,
    arrow_table,
    check_image,
    require_plain_name,
    statistics_columns,
    writable,
    write_metadata,
)
from hf_ptr.data.lerobot.stored_images import png
from hf_ptr.data.statistics import ImageStatistics, feature_statistics
from hf_ptr.errors import InputError, nearest
from hf_ptr.utils.atomic_files import StagedFolder, write_json

# Columns that every dataset has; filled in by the writer.
DEFAULT_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
NUMERIC_DTYPES = frozenset(
    ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
)


class DatasetWriter:
    """Writes episodes into a new LeRobotDataset v3.0 folder, atomically.

    Files are written to a hidden folder next to `out`, which `finish` renames to `out`; an error or an interrupt
    removes it. As a context manager, the writer finishes on success. Video frames are encoded immediately, so memory
    does not grow with their number. Equal episodes give equal bytes.

    ```python
    features = {"observation.state": {"dtype": "float32", "shape": [4], "names": None}, …}
    with DatasetWriter("out", fps=80, features=features, robot_type="sawyer") as writer:
        writer.add_episode({"observation.state": states, "action": actions}, task="open the door")
    ```

    Args:
        out: the dataset's folder; must be missing or empty.
        fps: frames per second.
        features: LeRobot features, name to `{"dtype", "shape", "names"}`: numeric ones of shape `[d]`, and `video`
            or `image` ones of shape `[height, width, 3]`; images are stored in the tables, as PNG. Index columns are
            added.
        robot_type: the robot's name.
        tasks: instructions numbered first, in this order; others are numbered in order of appearance.
        data_files_size_in_mb: size limit of a table file.
        video_files_size_in_mb: size limit of a video file.

    Raises:
        InputError: `out` is not empty, a feature is not supported, or (while writing) the disk is full, or the data
            do not match the features.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        fps: float,
        features: Mapping[str, Mapping[str, Any]],
        robot_type: str | None = None,
        tasks: Sequence[str] = (),
        data_files_size_in_mb: float = 100,
        video_files_size_in_mb: float = 200,
    ) -> None:
        self._folder = StagedFolder(out)
        self.out = self._folder.out
        if not (np.isfinite(fps) and fps > 0):
            raise InputError(f"fps is {fps}; it must be a positive number")
        self.fps = fps
        self.robot_type = robot_type
        self._numeric, self._videos, self._images = _checked_features(features)
        self.features = {
            **{name: dict(feature) for name, feature in features.items() if name not in DEFAULT_FEATURES},
            **{name: dict(feature) for name, feature in DEFAULT_FEATURES.items()},
        }
        self._size_limits = (data_files_size_in_mb, video_files_size_in_mb)
        self._tasks: dict[str, int] = {task: number for number, task in enumerate(tasks)}
        self._episodes: list[dict[str, Any]] = []
        self._meta: dict[str, Any] = {}
        self._frames = 0
        self._closed = False
        self._schema = arrow_schema(self._table_features())
        self._data = DataFiles(data_files_size_in_mb)
        self._images_seen = {key: ImageStatistics() for key in self._images}
        self._video = {
            key: VideoFiles(key, tuple(self.features[key]["shape"]), fps, video_files_size_in_mb)
            for key in self._videos
        }

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self._closed:
            self.finish()

    def add_episode(
        self,
        columns: Mapping[str, np.ndarray],
        task: str | Sequence[str],
        videos: Mapping[str, Iterable[np.ndarray]] | None = None,
    ) -> None:
        """Append an episode of `n` frames.

        Args:
            columns: every numeric feature, `(n, d)`.
            task: the instruction, or one per frame.
            videos: the `n` frames of every video and image feature, each `(height, width, 3)` uint8 RGB; may be a
                generator.

        Raises:
            InputError: features are missing or unknown, shapes or lengths do not match, a value is NaN or infinite, or
                the file system reports an error. An error while the episode is written removes the whole dataset.
        """
        if self._closed:
            raise RuntimeError("the writer is closed; open a new one to add episodes")
        arrays = self._checked_columns(columns)
        videos = videos or {}
        _same_names("videos", videos, [*self._videos, *self._images])
        length = len(next(iter(arrays.values())))
        per_frame = [task] * length if isinstance(task, str) else list(task)
        if len(per_frame) != length:
            raise InputError(f"episode {len(self._episodes)} has {length} frames but {len(per_frame)} instructions")
        try:
            self._write_episode(arrays, per_frame, videos)
        except BaseException:
            self.abort()
            raise

    def add_meta(self, name: str, content: Any) -> None:
        """Let `finish` write `content` as JSON to `meta/NAME`, together with the dataset."""
        self._meta[name] = content

    def finish(self) -> Path:
        """Write the metadata and move the dataset to `out`.

        Returns:
            `out`.

        Raises:
            InputError: there is no episode, or the file system reports an error.
        """
        if self._closed:
            raise RuntimeError("the writer is closed already")
        if not self._episodes:
            self.abort()
            raise InputError(f"no episode was written to {self.out}; a dataset needs at least one")
        try:
            with writable(self.out):
                root = self._folder.path()
                self._data.close()
                for files in self._video.values():
                    files.close()
                self._write_metadata(root)
                self._folder.publish()
        except BaseException:
            self.abort()
            raise
        self._closed = True
        return self.out

    def abort(self) -> None:
        """Remove everything written so far; does nothing after `finish`."""
        if self._closed:
            return
        self._closed = True
        self._data.discard()
        for files in self._video.values():
            files.discard()
        self._folder.discard()

    def _table_features(self) -> dict[str, dict[str, Any]]:
        return {name: feature for name, feature in self.features.items() if name not in self._videos}

    def _checked_columns(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        _same_names("columns", columns, self._numeric)
        episode = len(self._episodes)
        arrays: dict[str, np.ndarray] = {}
        length = len(columns[self._numeric[0]])
        for name in self._numeric:
            feature, array = self.features[name], np.asarray(columns[name])
            if array.shape != (length, feature["shape"][0]) or length == 0:
                raise InputError(
                    f"feature {name!r} of episode {episode} has shape {array.shape}; "
                    f"expected ({length or 'at least 1'}, {feature['shape'][0]})"
                )
            finite = np.isfinite(array).all(axis=1)
            if not finite.all():
                raise InputError(f"feature {name!r} is NaN or infinite in episode {episode}, frame {finite.argmin()}")
            arrays[name] = array.astype(feature["dtype"])
        return arrays

    def _write_episode(
        self, arrays: dict[str, np.ndarray], tasks: list[str], videos: Mapping[str, Iterable[np.ndarray]]
    ) -> None:
        episode, length = len(self._episodes), len(tasks)
        for task in tasks:
            self._tasks.setdefault(task, len(self._tasks))
        frame_index = np.arange(length, dtype=np.int64)
        arrays = {
            **arrays,
            "timestamp": (frame_index / self.fps).astype(np.float32)[:, None],
            "frame_index": frame_index[:, None],
            "episode_index": np.full((length, 1), episode, dtype=np.int64),
            "index": self._frames + frame_index[:, None],
            "task_index": np.array([[self._tasks[task]] for task in tasks], dtype=np.int64),
        }
        statistics = {name: feature_statistics(array) for name, array in arrays.items()}
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": list(dict.fromkeys(tasks)),
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        images = {}
        for key in self._images:
            images[key], seen = self._encoded(key, videos[key], length)
            self._images_seen[key].merge(seen)
            statistics[key] = seen.statistics()
        with writable(self.out):
            row["data/chunk_index"], row["data/file_index"] = self._data.add(
                self._folder.path(), arrow_table(arrays, images, self._schema)
            )
        for key, files in self._video.items():
            with writable(self.out):
                files.begin_episode(self._folder.path(), length)
            for frame in videos[key]:
                with writable(self.out):
                    files.add(frame)
            row.update(files.end_episode(episode, length))
            statistics[key] = files.episode.statistics()
        row.update(statistics_columns(statistics))
        self._episodes.append(row)
        self._frames += length

    def _encoded(self, key: str, frames: Iterable[np.ndarray], length: int) -> tuple[list[bytes], ImageStatistics]:
        """An episode's images of an image feature as PNG, and their statistics."""
        shape, seen = tuple(self.features[key]["shape"]), ImageStatistics()
        encoded = []
        for frame in frames:
            check_image(key, frame, shape)
            seen.add(frame)
            encoded.append(png(frame))
        if len(encoded) != length:
            raise InputError(
                f"image {key!r} of episode {len(self._episodes)} has {len(encoded)} frames, expected {length}"
            )
        return encoded, seen

    def _write_metadata(self, root: Path) -> None:
        for key, files in self._video.items():
            self.features[key]["info"] = files.info()
        numeric = [name for name in self._table_features() if name not in self._images]
        statistics = {name: feature_statistics(self._data.column(root, name)) for name in numeric}
        statistics |= {key: seen.statistics() for key, seen in self._images_seen.items()}
        statistics |= {key: files.total.statistics() for key, files in self._video.items()}
        write_metadata(
            root,
            fps=self.fps,
            robot_type=self.robot_type,
            features=self.features,
            tasks=self._tasks,
            episodes=self._episodes,
            statistics=statistics,
            size_limits=self._size_limits,
        )
        for name, content in self._meta.items():
            write_json(content, root / "meta" / name)


def write_table(table: EpisodeTable, out: str | Path, *, meta: Mapping[str, Any] | None = None) -> Path:
    """Write a table as a LeRobotDataset v3.0 without images and videos.

    Episodes and frames (`index`) are renumbered from 0 in the table's order; instructions keep their numbers.

    Args:
        table: the episodes.
        out: the dataset's folder; must be missing or empty.
        meta: additional JSON files for `meta/`, by file name.

    Returns:
        `out`.

    Raises:
        InputError: as `DatasetWriter`.
    """
    features = {name: table.features[name] for name in table.features if name in table.columns}
    writer = DatasetWriter(out, fps=table.fps, features=features, robot_type=table.robot_type, tasks=table.tasks)
    with writer:
        for start, length in zip(table.starts.tolist(), table.lengths.tolist(), strict=True):
            rows = slice(start, start + length)
            tasks = [table.tasks[number] for number in table.task_index[rows].tolist()]
            writer.add_episode({name: column[rows] for name, column in table.columns.items()}, tasks)
        for name, content in (meta or {}).items():
            writer.add_meta(name, content)
    return writer.out


def _checked_features(features: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str], list[str]]:
    """The names of the numeric, video and image features.

    Raises:
        InputError: a feature is not supported.
    """
    numeric: list[str] = []
    videos: list[str] = []
    images: list[str] = []
    for name, feature in features.items():
        if name in DEFAULT_FEATURES:
            continue
        dtype, shape = feature.get("dtype"), list(feature.get("shape") or ())
        require_plain_name(name)
        if dtype == "video":
            if len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2 or min(shape) < 1:
                raise InputError(f"video {name!r} has shape {shape}; it must be [height, width, 3] with even sides")
            videos.append(name)
        elif dtype == "image":
            if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
                raise InputError(f"image {name!r} has shape {shape}; it must be [height, width, 3]")
            images.append(name)
        elif dtype in NUMERIC_DTYPES and len(shape) == 1 and shape[0] >= 1:
            numeric.append(name)
        else:
            raise InputError(
                f"feature {name!r} ({dtype}, shape {shape}) is not supported; use numeric vectors, videos or images"
            )
    if not numeric:
        raise InputError("features contain no numeric vector; a dataset needs at least a state or an action")
    return numeric, videos, images


def _same_names(argument: str, given: Mapping[str, Any], expected: Sequence[str]) -> None:
    for name in given:
        if name not in expected:
            raise InputError(
                f"{argument} has {name!r}, which is not a feature of the dataset.{nearest(name, expected)}"
            )
    for name in expected:
        if name not in given:
            raise InputError(f"{argument} lacks the feature {name!r}")
