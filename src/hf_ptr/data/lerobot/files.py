"""Streaming writers for the numbered parquet and mp4 files of a LeRobotDataset v3.0, and its metadata files."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_ptr.data.statistics import ImageStatistics
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import write_json

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
FILES_PER_CHUNK = 1000
# Minimum rows of a row group; the last one of a file may have fewer.
GROUP_ROWS = 8192
# A row group is also complete at this size, since images are read one row group at a time.
GROUP_BYTES = 16 * 1024**2

# File system errors that the user can fix; any other OSError is a bug and keeps its traceback.
STORAGE_ERRORS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file too large for the file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "read-only file system",
    errno.ENOTDIR: "a parent is not a folder",
}

# Every player decodes H.264, and in contrast to AV1 at any size. A key frame at least every second frame (as in
# LeRobot) makes every frame reachable by one seek; without B-frames, frames leave the encoder in order. One thread,
# because the output of x264 depends on the number of threads.
VIDEO_CODEC: Final = "libx264"
VIDEO_OPTIONS = {"g": "2", "bf": "0", "crf": "18", "threads": "1"}


def video_template(camera: str) -> str:
    """
    The path template of a camera's video files.

    Raises:
        InputError: the name cannot be part of a path.
    """
    require_plain_name(camera)
    return VIDEO_PATH.replace("{video_key}", camera.replace("{", "{{").replace("}", "}}"))


def require_plain_name(feature: str) -> None:
    """
    Check that a feature's name is usable as the name of a column and of a folder.

    Raises:
        InputError: it is empty, or contains a path separator.
    """
    if not feature.strip(".") or any(sign in feature for sign in "/\\\0"):
        raise InputError(f"feature name {feature!r} cannot be used as a file name; use letters, digits, '_' and '.'")


class NumberedFiles:
    """A numbered series of files; a new file starts before the current one exceeds a size limit."""

    def __init__(self, template: str, limit_mb: float) -> None:
        self._template = template
        self._limit = limit_mb * 1024**2
        self._number = 0
        self.frames = 0

    @property
    def location(self) -> tuple[int, int]:
        """Chunk and file index of the current file."""
        return divmod(self._number, FILES_PER_CHUNK)

    def path(self, root: Path, number: int) -> Path:
        """The path of a file of the series."""
        chunk, file = divmod(number, FILES_PER_CHUNK)
        return root / self._template.format(chunk_index=chunk, file_index=file)

    def full(self, size: int, length: int) -> bool:
        """Whether `length` more frames of average size would make a file of `size` bytes exceed the limit."""
        return self.frames > 0 and size * (1 + length / self.frames) > self._limit


class DataFiles(NumberedFiles):
    """The parquet tables. Short episodes share a row group, since thousands of row groups make a file slow to open."""

    def __init__(self, limit_mb: float) -> None:
        super().__init__(DATA_PATH, limit_mb)
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []

    def add(self, root: Path, rows: pa.Table) -> tuple[int, int]:
        """Write an episode's rows and return the chunk and file index of their file."""
        length = len(rows)
        if self._writer is not None and self.full(self._size(root), length):
            self.close()
            self._number += 1
            self.frames = 0
        if self._writer is None:
            path = self.path(root, self._number)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Measurements rarely repeat, so dictionary encoding would cost space and time.
            repeating = [f.name for f in rows.schema if not pa.types.is_floating(_innermost(f.type))]
            self._writer = pq.ParquetWriter(path, rows.schema, use_dictionary=repeating)
        self._pending.append(rows)
        pending_bytes = sum(rows.nbytes for rows in self._pending)
        if sum(map(len, self._pending)) >= GROUP_ROWS or pending_bytes >= GROUP_BYTES:
            self._flush()
        self.frames += length
        return self.location

    def _size(self, root: Path) -> int:
        return self.path(root, self._number).stat().st_size + sum(rows.nbytes for rows in self._pending)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if self._writer is not None and pending:
            self._writer.write_table(pa.concat_tables(pending))

    def column(self, root: Path, name: str) -> np.ndarray:
        """A column of all written files, `(F, d)`."""
        parts = []
        for number in range(self._number + 1):
            with pq.ParquetFile(self.path(root, number)) as file:
                values = file.read(columns=[name]).column(name).combine_chunks()
            rows = len(values)
            while pa.types.is_nested(values.type):
                values = values.flatten()
            parts.append(values.to_numpy(zero_copy_only=False).reshape(rows, -1))
        return np.concatenate(parts)

    def close(self) -> None:
        """Write pending rows and finish the current file."""
        try:
            self._flush()
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def discard(self) -> None:
        """Close a file that is about to be removed, ignoring errors of the file system."""
        self._pending = []
        with contextlib.suppress(OSError):
            self.close()


class VideoFiles(NumberedFiles):
    """One camera's mp4 files. The encoder stays open across the episodes of a file, which avoids concatenation."""

    def __init__(self, key: str, shape: tuple[int, int, int], fps: float, limit_mb: float) -> None:
        super().__init__(video_template(key), limit_mb)
        self.key = key
        self.shape = shape
        self.rate = Fraction(fps).limit_denominator(1001)
        self.episode = ImageStatistics()
        self.total = ImageStatistics()
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        # Counted here, because the container buffers its output.
        self._bytes = 0

    def begin_episode(self, root: Path, length: int) -> None:
        """Open the file for an episode of `length` frames."""
        if self._container is not None and self.full(self._bytes, length):
            self.close()
            self._number += 1
            self.frames = self._bytes = 0
        if self._container is None:
            path = self.path(root, self._number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(path), "w")
            stream = self._container.add_stream(VIDEO_CODEC, rate=self.rate, options=dict(VIDEO_OPTIONS))
            stream.height, stream.width = self.shape[:2]
            # Colours at half the resolution need even sides.
            stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
            self._stream = stream
        self.episode = ImageStatistics()

    def add(self, frame: np.ndarray) -> None:
        """Encode a frame, `(height, width, 3)` uint8 RGB."""
        check_image(self.key, frame, self.shape)
        self.episode.add(frame)
        assert self._container is not None
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
            self._bytes += packet.size
            self._container.mux(packet)

    def end_episode(self, episode: int, length: int) -> dict[str, Any]:
        """The episode's columns of `meta/episodes`: file, and start and end in it (seconds)."""
        if self.episode.frames != length:
            raise InputError(
                f"video {self.key!r} of episode {episode} has {self.episode.frames} frames, expected {length}"
            )
        self.total.merge(self.episode)
        chunk, file = self.location
        start, self.frames = self.frames, self.frames + length
        return {
            f"videos/{self.key}/chunk_index": chunk,
            f"videos/{self.key}/file_index": file,
            f"videos/{self.key}/from_timestamp": float(start / self.rate),
            f"videos/{self.key}/to_timestamp": float(self.frames / self.rate),
        }

    def info(self) -> dict[str, Any]:
        """LeRobot's description of the video stream."""
        return {
            "video.height": self.shape[0],
            "video.width": self.shape[1],
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "is_depth_map": False,
            "video.fps": int(self.rate) if self.rate.denominator == 1 else float(self.rate),
            "video.channels": 3,
            "has_audio": False,
        }

    def close(self) -> None:
        """Flush the encoder and finish the current file."""
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()

    def discard(self) -> None:
        """Close a file that is about to be removed, ignoring errors."""
        with contextlib.suppress(OSError, av.error.FFmpegError):
            self.close()


def check_image(key: str, frame: np.ndarray, shape: tuple[int, ...]) -> None:
    """
    Check shape and type of a camera's frame.

    Raises:
        InputError: the shape differs from `shape`, or the type from uint8.
    """
    if frame.shape != shape or frame.dtype != np.uint8:
        raise InputError(f"camera {key!r} got a frame of shape {frame.shape}, {frame.dtype}; expected {shape}, uint8")


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Turn file system errors that the user can fix into a one-line `InputError` that names the path."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        reason = STORAGE_ERRORS.get(getattr(error, "errno", None) or 0)
        if reason is None:
            raise
        raise InputError(f"cannot write {out}: {reason}; partial output was removed") from error


def statistics_columns(statistics: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """An episode's statistics as columns of `meta/episodes`."""
    return {
        f"stats/{name}/{key}": np.asarray(value).tolist()
        for name, values in statistics.items()
        for key, value in values.items()
    }


def write_metadata(
    root: Path,
    *,
    fps: float,
    robot_type: str | None,
    features: Mapping[str, Any],
    tasks: Mapping[str, int],
    episodes: Sequence[Mapping[str, Any]],
    statistics: Mapping[str, Mapping[str, np.ndarray]],
    size_limits: tuple[float, float],
) -> None:
    """Write `meta/` of a LeRobotDataset v3.0.

    Args:
        root: the dataset's folder.
        fps, robot_type, features: as in `meta/info.json`.
        tasks: task number by instruction.
        episodes: rows of `meta/episodes`.
        statistics: statistics of every feature over the whole dataset.
        size_limits: size limits of data files and of video files, in MB.
    """
    has_videos = any(isinstance(each, Mapping) and each.get("dtype") == "video" for each in features.values())
    info = {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": len(episodes),
        "total_frames": sum(row["length"] for row in episodes),
        "total_tasks": len(tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": size_limits[0],
        "video_files_size_in_mb": size_limits[1],
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if has_videos else None,
        "features": dict(features),
    }
    serialised = {
        name: {key: np.asarray(value).tolist() for key, value in values.items()} for name, values in statistics.items()
    }
    for name, content in {"info.json": info, "stats.json": serialised}.items():
        write_json(content, root / "meta" / name)
    _write_tasks(tasks, root / "meta/tasks.parquet")
    path = root / EPISODES_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in episodes]), path)


def _write_tasks(tasks: Mapping[str, int], path: Path) -> None:
    """`meta/tasks.parquet`: a pandas table indexed by the instruction, as LeRobot reads it."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"task_index": list(tasks.values())}, index=pd.Index(list(tasks), name="task")).to_parquet(path)


def _innermost(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return kind


def arrow_schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The parquet schema from which `datasets` restores the features; shape `[1]` is a scalar, as in LeRobot."""
    import datasets

    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if feature["dtype"] == "image":
            columns[name] = datasets.Image()
            continue
        value = datasets.Value(feature["dtype"])
        width = feature["shape"][0]
        columns[name] = value if width == 1 else datasets.List(value, length=width)
    return datasets.Features(columns).arrow_schema


def arrow_table(
    arrays: Mapping[str, np.ndarray], images: Mapping[str, Sequence[bytes]], schema: pa.Schema
) -> pa.Table:
    """Columns `(n, d)` and encoded images as a table with the given schema."""
    columns = []
    for field in schema:
        if field.name in images:
            cells = [{"bytes": encoded, "path": None} for encoded in images[field.name]]
            columns.append(pa.array(cells, field.type))
            continue
        flat = pa.array(arrays[field.name].reshape(-1))
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        columns.append(flat)
    return pa.Table.from_arrays(columns, schema=schema)
