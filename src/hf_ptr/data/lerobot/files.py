"""The numbered parquet and mp4 files of a LeRobotDataset v3.0, written as a stream."""

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
# Rows, at least, of a row group; the last of a file may have fewer.
GROUP_ROWS = 8192
# Or so many bytes: pictures are read a row group at a time.
GROUP_BYTES = 16 * 1024**2

# What the file system refuses, and the user can mend; any other OSError is a bug and keeps its traceback.
STORAGE_ERRORS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file too large for the file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "read-only file system",
    errno.ENOTDIR: "a parent is not a folder",
}

# H.264 is decoded by everything that plays video, and unlike AV1 at any size. A key frame at least every second frame
# (as LeRobot writes it) makes every frame one seek away; without B-frames frames leave the encoder in order. One
# thread, because the bits that x264 writes depend on how many there are.
VIDEO_CODEC: Final = "libx264"
VIDEO_OPTIONS = {"g": "2", "bf": "0", "crf": "18", "threads": "1"}


def video_template(camera: str) -> str:
    """
    The template of a camera's files.

    Raises:
        InputError: its name cannot be part of a path.
    """
    require_plain_name(camera)
    return VIDEO_PATH.replace("{video_key}", camera.replace("{", "{{").replace("}", "}}"))


def require_plain_name(feature: str) -> None:
    """
    Check that a feature's name can be that of a column and a folder.

    Raises:
        InputError: it cannot.
    """
    if not feature.strip(".") or any(sign in feature for sign in "/\\\0"):
        raise InputError(f"feature name {feature!r} cannot be written; use letters, digits, '_' and '.'")


class NumberedFiles:
    """A numbered series of files, each begun before the last outgrows a size."""

    def __init__(self, template: str, limit_mb: float) -> None:
        self._template = template
        self._limit = limit_mb * 1024**2
        self._number = 0
        self.frames = 0

    @property
    def place(self) -> tuple[int, int]:
        """Chunk and file index."""
        return divmod(self._number, FILES_PER_CHUNK)

    def path(self, root: Path, number: int) -> Path:
        chunk, file = divmod(number, FILES_PER_CHUNK)
        return root / self._template.format(chunk_index=chunk, file_index=file)

    def full(self, size: int, length: int) -> bool:
        """Whether an episode of `length` frames, as large per frame as those before, outgrows a file of `size`."""
        return self.frames > 0 and size * (1 + length / self.frames) > self._limit


class DataFiles(NumberedFiles):
    """The parquet tables. Short episodes share a row group: thousands of them make a file slow to open."""

    def __init__(self, limit_mb: float) -> None:
        super().__init__(DATA_PATH, limit_mb)
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []

    def add(self, root: Path, rows: pa.Table) -> tuple[int, int]:
        """Write an episode's rows; returns the chunk and file index of where they are."""
        length = len(rows)
        if self._writer is not None and self.full(self._size(root), length):
            self.close()
            self._number += 1
            self.frames = 0
        if self._writer is None:
            path = self.path(root, self._number)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Measurements hardly repeat: a dictionary of them costs space and time.
            repeating = [f.name for f in rows.schema if not pa.types.is_floating(_innermost(f.type))]
            self._writer = pq.ParquetWriter(path, rows.schema, use_dictionary=repeating)
        self._pending.append(rows)
        held = sum(rows.nbytes for rows in self._pending)
        if sum(map(len, self._pending)) >= GROUP_ROWS or held >= GROUP_BYTES:
            self._flush()
        self.frames += length
        return self.place

    def _size(self, root: Path) -> int:
        return self.path(root, self._number).stat().st_size + sum(rows.nbytes for rows in self._pending)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if self._writer is not None and pending:
            self._writer.write_table(pa.concat_tables(pending))

    def column(self, root: Path, name: str) -> np.ndarray:
        """A column of all files written, `(F, d)`."""
        parts = []
        for number in range(self._number + 1):
            with pq.ParquetFile(self.path(root, number)) as file:
                values = file.read(columns=[name]).column(name).combine_chunks()
            rows = len(values)
            if pa.types.is_nested(values.type):
                values = values.flatten()
            parts.append(values.to_numpy(zero_copy_only=False).reshape(rows, -1))
        return np.concatenate(parts)

    def close(self) -> None:
        try:
            self._flush()
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def discard(self) -> None:
        self._pending = []
        with contextlib.suppress(OSError):
            self.close()


class VideoFiles(NumberedFiles):
    """One camera's mp4 files. An encoder stays open over the episodes of a file, so none is ever copied together."""

    def __init__(self, key: str, shape: tuple[int, int, int], fps: float, limit_mb: float) -> None:
        super().__init__(video_template(key), limit_mb)
        self.key = key
        self.shape = shape
        self.rate = Fraction(fps).limit_denominator(1001)
        self.episode = ImageStatistics()
        self.total = ImageStatistics()
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        # Counted here, because the container keeps what it has written in a buffer for long.
        self._bytes = 0

    def begin_episode(self, root: Path, length: int) -> None:
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
            stream.pix_fmt = "yuv420p"
            self._stream = stream
        self.episode = ImageStatistics()

    def add(self, frame: np.ndarray) -> None:
        check_image(self.key, frame, self.shape)
        self.episode.add(frame)
        assert self._container is not None
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
            self._bytes += packet.size
            self._container.mux(packet)

    def end_episode(self, episode: int, length: int) -> dict[str, Any]:
        """The episode's columns in `meta/episodes`: which file, and from when to when in it (seconds)."""
        if self.episode.frames != length:
            raise InputError(f"video {self.key!r} of episode {episode} has {self.episode.frames} frames, not {length}")
        self.total.merge(self.episode)
        chunk, file = self.place
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
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()

    def discard(self) -> None:
        with contextlib.suppress(OSError, av.error.FFmpegError):
            self.close()


def check_image(key: str, frame: np.ndarray, shape: tuple[int, ...]) -> None:
    """
    Check that a frame is a picture of a camera.

    Raises:
        InputError: it has another shape or type.
    """
    if frame.shape != shape or frame.dtype != np.uint8:
        raise InputError(f"camera {key!r} got a frame of shape {frame.shape}, {frame.dtype}; expected {shape}, uint8")


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Turn a refusal of the file system into one line that names the path."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        reason = STORAGE_ERRORS.get(getattr(error, "errno", None) or 0)
        if reason is None:
            raise
        raise InputError(f"cannot write {out}: {reason}; nothing was left behind") from error


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
        tasks: the instructions' numbers.
        episodes: rows of `meta/episodes`.
        statistics: of every feature over the whole dataset.
        size_limits: of data files and of videos, in MB.
    """
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
        "video_path": VIDEO_PATH if any(feature["dtype"] == "video" for feature in features.values()) else None,
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
    """The parquet schema with which `datasets` restores the features; shape `[1]` is a scalar, as in LeRobot."""
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
    arrays: Mapping[str, np.ndarray], pictures: Mapping[str, Sequence[bytes]], schema: pa.Schema
) -> pa.Table:
    """Columns `(n, d)`, and encoded pictures, as a table of that schema."""
    columns = []
    for field in schema:
        if field.name in pictures:
            cells = [{"bytes": encoded, "path": None} for encoded in pictures[field.name]]
            columns.append(pa.array(cells, field.type))
            continue
        flat = pa.array(arrays[field.name].reshape(-1))
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        columns.append(flat)
    return pa.Table.from_arrays(columns, schema=schema)
