"""Conversion of a LeRobotDataset v2.1 to v3.0, with bit-identical tables and videos copied packet by packet."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.data.features import INDEX_FEATURES, vector_widths
from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.lerobot.files import DataFiles, statistics_columns, writable, write_metadata
from hf_ptr.data.lerobot.index_columns import IndexColumns
from hf_ptr.data.lerobot.metadata import Metadata, read_metadata, warn
from hf_ptr.data.lerobot.paths import within
from hf_ptr.data.lerobot.remux import RemuxedFiles
from hf_ptr.data.lerobot.stored_images import encoded_image
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import Progress, no_progress, validate_dataset
from hf_ptr.data.lerobot.videos import cameras_of
from hf_ptr.data.statistics import ImageStatistics, feature_statistics, joined_statistics
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.errors import InputError, first_line
from hf_ptr.utils.atomic_files import StagedFolder

SIZE_LIMITS = (100.0, 200.0)
# Images per episode, evenly spaced, for image statistics, which change little from frame to frame.
IMAGES_FOR_STATISTICS = 16

# By feature, then by LeRobot's name of the statistic.
Statistics = dict[str, Mapping[str, Any]]


def convert_lerobot(
    folder: str | Path,
    out: str | Path,
    *,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
    progress: Progress = no_progress,
) -> Path:
    """
    Convert a LeRobotDataset v2.1 or v2.0 to v3.0.

    Rows keep every value and type; episodes, frames and tasks keep their numbers. If episodes are left out, the others
    and their frames are numbered from 0, because LeRobot requires numbers without gaps. Index
    columns that are missing, or not single integers, are written as LeRobot needs them. Videos are concatenated
    without re-encoding. Stored image statistics are kept; if they are missing, they are computed from a few decoded
    images.

    Args:
        folder: folder of the dataset.
        out: the new folder; must be missing or empty. It is written atomically.
        episodes: ids of the episodes to convert; all by default.
        skip: ids of episodes to leave out, even if they are damaged.
        progress: called with a description and a list, returns an iterable over the list, e.g. with a progress bar.

    Returns:
        `out`.

    Raises:
        InputError: the dataset is not v2.x or is not usable (see `hf-ptr validate`), only some episodes have a column,
            or `out` cannot be written.
    """
    root, staged = Path(folder), StagedFolder(out)

    def report(message: str, episode: int | None) -> None:
        if episode not in skip:
            raise InputError(message, skip=() if episode is None else (episode,))

    metadata = read_metadata(root, report)
    if metadata.info["codebase_version"] != "v2.1":
        raise InputError(f"{root} is already {metadata.info['codebase_version']}; no conversion is needed")
    require_usable(validate_dataset(root, episodes=episodes, skip=skip, decode=False), skip)
    kept = [
        position
        for position, episode in enumerate(metadata.episode_index.tolist())
        if episode not in skip and (episodes is None or episode in episodes)
    ]
    if not kept:
        raise InputError(f"no episode of {root} is left to convert; leave out fewer")
    cameras = {
        camera: RemuxedFiles(camera, float(metadata.info["fps"]), SIZE_LIMITS[1])
        for camera in cameras_of(metadata.info, "video")
    }
    data = DataFiles(SIZE_LIMITS[0])
    try:
        with writable(staged.out):
            _write(root, staged.path(), metadata, kept, data, cameras, progress)
            staged.publish()
    finally:
        data.discard()
        for files in cameras.values():
            files.discard()
        staged.discard()
    return staged.out


def _write(
    root: Path,
    target: Path,
    metadata: Metadata,
    kept: Sequence[int],
    data: DataFiles,
    cameras: Mapping[str, RemuxedFiles],
    progress: Progress,
) -> None:
    info = metadata.info
    stored = _stored_statistics(root)
    readers = {camera: FrameReader(camera, metadata.videos[camera], float(info["fps"])) for camera in metadata.videos}
    image_cameras = [camera for camera in metadata.videos if camera not in cameras]
    widths = vector_widths(info)
    task_of = dict(zip(metadata.task_numbers.tolist(), metadata.tasks, strict=True))
    episodes: list[dict[str, Any]] = []
    image_statistics: dict[str, list[Mapping[str, Any]]] = {camera: [] for camera in readers}
    schema: pa.Schema | None = None
    off_time: list[int] = []
    frames = 0
    index = IndexColumns(root, metadata, warn)
    renumbered = len(kept) < len(metadata.files)
    frame_ids = np.arange(int(metadata.lengths[kept].sum())) if renumbered else _frame_ids(root, metadata, index, kept)
    for position in progress("converting", kept):
        episode, length = int(metadata.episode_index[position]), int(metadata.lengths[position])
        number = len(episodes) if renumbered else episode
        numbers = (number, frame_ids[frames : frames + length])
        rows, statistics = _rows(root, metadata, position, schema, widths, index, numbers)
        for camera in image_cameras:
            rows = _with_embedded_images(rows, camera, root)
        schema = rows.schema
        chunk, file = data.add(target, rows)
        row = {
            "episode_index": number,
            "tasks": [task_of[number] for number in dict.fromkeys(rows["task_index"].to_pylist())],
            "length": length,
            "dataset_from_index": frames,
            "dataset_to_index": frames + length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for camera, files in cameras.items():
            clip = metadata.videos[camera][episode]
            assert isinstance(clip, VideoClip)
            row |= files.add(target, clip)
        if any(files.on_time for files in cameras.values()) and _off_time(rows, float(info["fps"])):
            off_time.append(episode)
        for camera, reader in readers.items():
            known = stored.get(episode, {}).get(camera)
            image_statistics[camera].append(known or _image_statistics(reader, episode, length))
            statistics[camera] = image_statistics[camera][-1]
        episodes.append({**row, **statistics_columns(statistics)})
        frames += length
    data.close()
    for files in cameras.values():
        files.close()
    if off_time:
        warn(
            f"{root}: time stamps are more than half a frame away from frame / fps in episodes "
            f"{episode_ranges(off_time)}; their video frames are copied without these gaps, so hf-ptr, which counts "
            "frames, finds each row's frame, but a reader that looks for frames by time stamp does not"
        )
    write_metadata(
        target,
        fps=float(info["fps"]),
        robot_type=info.get("robot_type"),
        features=info["features"],
        tasks={task: number for number, task in task_of.items()},
        episodes=episodes,
        statistics={
            **{name: feature_statistics(data.column(target, name)) for name in (*widths, *INDEX_FEATURES)},
            **{camera: joined_statistics(parts) for camera, parts in image_statistics.items()},
        },
        size_limits=SIZE_LIMITS,
    )


def _frame_ids(root: Path, metadata: Metadata, index: IndexColumns, kept: Sequence[int]) -> np.ndarray:
    """The number of each frame in the dataset, `(F,)` int64; derived where the files have none or repeat one."""
    parts = []
    for position in kept:
        with open_columns(root / metadata.files[position]) as file:
            parts.append(index.index(file))
    known = [part for part in parts if part is not None]
    return index.frame_ids(np.concatenate(known) if len(known) == len(parts) else None, np.array(kept))


def _off_time(rows: pa.Table, fps: float) -> bool:
    """Whether a row's time stamp is more than half a frame away from `frame / fps`, the time of its video frame."""
    if "timestamp" not in rows.column_names:
        return False
    seconds = np.array(rows["timestamp"].to_pylist(), dtype=np.float64).ravel()
    return bool((np.abs(seconds * fps - np.arange(len(seconds))) > 0.5).any())


def _rows(
    root: Path,
    metadata: Metadata,
    position: int,
    schema: pa.Schema | None,
    widths: Mapping[str, int],
    index: IndexColumns,
    numbers: tuple[int, np.ndarray],
) -> tuple[pa.Table, Statistics]:
    """
    An episode's rows, cast to the schema of the previous episodes, and their statistics.

    Args:
        root: the dataset's folder.
        metadata: its metadata.
        position: position of the episode in the metadata.
        schema: the schema of the previous episodes; None for the first.
        widths: the vectors and their widths.
        index: the index columns of the dataset.
        numbers: the episode's id and the numbers of its frames in the new dataset.

    Raises:
        InputError: a column cannot be read, or is not one of all episodes.
    """
    name, length = metadata.files[position], int(metadata.lengths[position])
    path, (number, frame_ids) = root / name, numbers
    rows = pq.ParquetFile(path).read()
    with open_columns(path) as file:
        runs = index.runs(file, name)
        rows_of = {int(metadata.episode_index[position]): slice(0, length)}
        timed = index.timestamp(file)
        nominal = (np.arange(length) / float(metadata.info["fps"])).astype(np.float32)
        indices = {
            "timestamp": file.numbers("timestamp", 1)[:, 0] if timed else nominal,
            "frame_index": index.frame_index(file, runs),
            "episode_index": np.full(length, number),
            "index": frame_ids,
            "task_index": index.task_index(file, rows_of),
        }
        statistics: Statistics = {
            feature: feature_statistics(file.numbers(feature, width)) for feature, width in widths.items()
        }
    for column, values in indices.items():
        statistics[column] = feature_statistics(values[:, None])
        rows = _with_index(rows, column, values)
    if schema is None or rows.schema.equals(schema, check_metadata=True):
        return rows, statistics
    for column in sorted(set(rows.schema.names) ^ set(schema.names)):
        has, lacks = ("has", "lack") if column in rows.schema.names else ("lacks", "have")
        raise InputError(
            f"{path} {has} the column {column!r}, which the previous episodes {lacks}; LeRobot needs the same columns "
            "in all episodes: add it, remove it, or leave these episodes out"
        )
    try:
        return rows.select(schema.names).cast(schema), statistics
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{path} has different columns from the previous episodes: {first_line(error)}") from error


def _with_index(rows: pa.Table, column: str, values: np.ndarray) -> pa.Table:
    """The rows with an index column of single numbers; a stored one that is right keeps its type and bits."""
    kind = pa.float32() if column == "timestamp" else pa.int64()
    if column not in rows.schema.names:
        return rows.append_column(column, pa.array(values, kind))
    stored = rows.schema.field(column).type
    right = pa.types.is_floating(stored) if column == "timestamp" else pa.types.is_integer(stored)
    if right and (column == "timestamp" or np.array_equal(rows[column].to_numpy(), values)):
        return rows
    return rows.set_column(rows.schema.get_field_index(column), column, pa.array(values, kind))


def _with_embedded_images(rows: pa.Table, camera: str, root: Path) -> pa.Table:
    """The rows with images embedded that were stored in separate files, which v3.0 does not support."""
    column = rows[camera]
    kind = column.type
    if (
        not pa.types.is_struct(kind)
        or kind.get_field_index("bytes") < 0
        or not pc.struct_field(column, "bytes").null_count
    ):
        return rows
    cells = [None if cell is None else {**cell, "bytes": encoded_image(cell, root)} for cell in column.to_pylist()]
    return rows.set_column(rows.schema.get_field_index(camera), rows.schema.field(camera), pa.array(cells, kind))


def _stored_statistics(root: Path) -> dict[int, Mapping[str, Any]]:
    """The statistics in `meta/episodes_stats.jsonl` by episode; invalid lines are ignored."""
    path = root / within(root, "meta/episodes_stats.jsonl")
    found: dict[int, Mapping[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            found[int(record["episode_index"])] = {
                name: {key: np.asarray(value, dtype=np.float64) for key, value in values.items()}
                for name, values in record["stats"].items()
                if _is_image_statistics(values)
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


def _is_image_statistics(values: Mapping[str, Any]) -> bool:
    """Whether these are complete statistics of three colour channels, which can be pooled."""
    names = ("min", "max", "mean", "std")
    if not {*names, "count"} <= set(values) or np.asarray(values["count"]).size != 1:
        return False
    arrays = [np.asarray(value, dtype=np.float64) for name, value in values.items() if name != "count"]
    shaped = all(array.shape == (3, 1, 1) and bool(np.isfinite(array).all()) for array in arrays)
    return shaped and float(np.asarray(values["count"]).ravel()[0]) > 0


def _image_statistics(reader: FrameReader, episode: int, length: int) -> Mapping[str, Any]:
    counted = ImageStatistics()
    frames: Sequence[int] = np.unique(np.linspace(0, length - 1, IMAGES_FOR_STATISTICS).astype(int)).tolist()
    for image in reader.read([episode] * len(frames), frames):
        counted.add(image)
    return counted.statistics()
