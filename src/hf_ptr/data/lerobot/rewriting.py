"""Writing parts of the episodes of a LeRobotDataset, v3.0 or v2.x, as a new dataset v3.0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.data.features import INDEX_FEATURES, classify_features, vector_widths
from hf_ptr.data.lerobot.clock import clock_problems
from hf_ptr.data.lerobot.episode_rows import EpisodeRows, Rows, with_embedded_images, with_index
from hf_ptr.data.lerobot.files import DataFiles, statistics_columns, writable, write_metadata
from hf_ptr.data.lerobot.metadata import Metadata, warn
from hf_ptr.data.lerobot.part_columns import with_done_at_end, with_moved_notes
from hf_ptr.data.lerobot.remux import RemuxedFiles
from hf_ptr.data.lerobot.stored_statistics import Statistics, image_statistics, stored_statistics
from hf_ptr.data.lerobot.validation import Progress
from hf_ptr.data.lerobot.videos import UNSHOWN_FILE, cameras_of
from hf_ptr.data.statistics import feature_statistics, joined_statistics
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.errors import InputError, first_line
from hf_ptr.utils.atomic_files import StagedFolder, write_json, write_text

SIZE_LIMITS = (100.0, 200.0)
# Seconds up to which a time stamp is that of a video frame: the tolerance of LeRobot.
SAME_TIME = 1e-4
# Shares of the deviation of a clock from frame / fps, of which the first that gives a usable clock is kept.
SHARES = (1.0, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)
# Least step between the times of two video frames, frames: the time base of the file resolves it at any rate.
LEAST_STEP = 0.01


@dataclass(frozen=True)
class Part:
    """
    Frames of an episode that become an episode of the new dataset.

    Attributes:
        episode: id of the episode.
        first, stop: the first frame and the frame after the last.
        shift: frame `t` gets the actions of frame `t + shift`; both are frames of the episode.
        task: the instruction of all frames; None keeps theirs.
    """

    episode: int
    first: int
    stop: int
    shift: int = 0
    task: str | None = None


@dataclass(frozen=True)
class VideoCounts:
    """
    How the frames of all cameras were written.

    Attributes:
        copied: frames that were copied without decoding.
        encoded: frames that had to be encoded again.
        unshown: frames that no row shows, copied because a part begins between two key frames.
    """

    copied: int
    encoded: int
    unshown: int


def write_parts(
    root: Path,
    metadata: Metadata,
    parts: Sequence[Part],
    staged: StagedFolder,
    *,
    renumber: bool = True,
    encode: bool = True,
    shifted: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    even_times: bool = False,
    progress: Progress,
) -> VideoCounts:
    """
    Write parts of a dataset's episodes as a new dataset, atomically.

    Values keep their bits and types, except that time stamps count from the first frame of each part, the times of
    notes such as `language_persistent` are those of the new episode, and `next.done` is set at its end if it was set
    at the end of the source episode. Video frames get the times of their rows, at which LeRobot looks for them; time
    stamps that videos cannot have, which are NaN or do not rise, are moved towards `frame / fps`. Videos are copied
    without decoding where possible. Stored image statistics of whole episodes are kept; others are computed from a few
    decoded images.

    Args:
        root: folder of the dataset.
        metadata: its metadata.
        parts: the new episodes in order.
        staged: the new folder.
        renumber: whether episodes and frames are numbered from 0; otherwise, each part is a whole episode, and both
            keep their numbers.
        encode: whether video frames that cannot be copied are encoded again; otherwise, they are an error.
        shifted: the columns of the actions, for `Part.shift`.
        extra: texts of additional files for `meta/`, by file name.
        even_times: whether time stamps are replaced by `frame / fps`, at which videos without one frame for each row
            are encoded again.
        progress: called with a description and a list, returns an iterable over the list.

    Raises:
        InputError: a file cannot be read, only some episodes have a column, or the folder cannot be written.
    """
    fps = float(metadata.info["fps"])
    readers = {camera: FrameReader(camera, metadata.videos[camera], fps) for camera in metadata.videos}
    cameras = {
        camera: RemuxedFiles(
            camera, fps, SIZE_LIMITS[1], readers[camera] if encode or even_times else None, own_times=not even_times
        )
        for camera in cameras_of(metadata.info, "video")
    }
    data = DataFiles(SIZE_LIMITS[0])
    try:
        with writable(staged.out):
            target = staged.path()
            _write(root, target, metadata, parts, data, cameras, readers, renumber, shifted, even_times, progress)
            for name, content in (extra or {}).items():
                write_text(content, target / "meta" / name)
            staged.publish()
    finally:
        data.discard()
        for files in cameras.values():
            files.discard()
        staged.discard()
    shown = len(cameras) * sum(part.stop - part.first for part in parts)
    encoded = sum(files.encoded for files in cameras.values())
    return VideoCounts(shown - encoded, encoded, sum(files.unshown.total() for files in cameras.values()))


def _write(
    root: Path,
    target: Path,
    metadata: Metadata,
    parts: Sequence[Part],
    data: DataFiles,
    cameras: Mapping[str, RemuxedFiles],
    readers: Mapping[str, FrameReader],
    renumber: bool,
    shifted: Sequence[str],
    even_times: bool,
    progress: Progress,
) -> None:
    info, fps = metadata.info, float(metadata.info["fps"])
    stored = stored_statistics(root, info["codebase_version"], list(readers))
    image_cameras = [camera for camera in readers if camera not in cameras]
    widths = vector_widths(info)
    positions = np.searchsorted(metadata.episode_index, [part.episode for part in parts])
    tasks = _task_numbers(metadata, parts)
    task_of = {number: task for task, number in tasks.items()}
    source = EpisodeRows(root, metadata, positions)
    total = sum(part.stop - part.first for part in parts)
    frame_ids = np.arange(total) if renumber else source.frame_ids()
    episodes: list[dict[str, Any]] = []
    pooled: dict[str, list[Mapping[str, Any]]] = {camera: [] for camera in readers}
    schema: pa.Schema | None = None
    changed: list[int] = []
    frames = 0
    for part, position in zip(progress("writing", list(parts)), positions.tolist(), strict=True):
        length = part.stop - part.first
        number = len(episodes) if renumber else part.episode
        stored_rows = source.read(position)
        times, clock = _times(stored_rows, part, fps, even_times)
        if clock == "changed":
            changed.append(part.episode)
        taken = slice(part.first, part.stop)
        indices = {
            "timestamp": times,
            "frame_index": np.arange(length) if part.first else stored_rows.frame_index[taken],
            "episode_index": np.full(length, number),
            "index": frame_ids[frames : frames + length],
            "task_index": stored_rows.task_index[taken],
        }
        if part.task is not None:
            indices["task_index"] = np.full(length, tasks[part.task])
        rows = _with_shifted(stored_rows.table, part, shifted)
        shortened = length < len(stored_rows.table)
        if shortened:
            rows = with_done_at_end(rows, stored_rows.table)
        if shortened or clock != "stored":
            rows = with_moved_notes(rows, stored_rows.timestamp, part.first, times)
        for column, values in indices.items():
            rows = with_index(rows, column, values, keep=column != "timestamp" or clock == "stored")
        rows = _in_schema(rows, schema, stored_rows.file.path)
        for camera in image_cameras:
            rows = with_embedded_images(rows, camera, root)
        schema = rows.schema
        statistics: Statistics = {
            feature: feature_statistics(stored_rows.file.parse(rows[feature], feature, width))
            for feature, width in widths.items()
        }
        statistics |= {column: feature_statistics(values[:, None]) for column, values in indices.items()}
        chunk, file = data.add(target, rows)
        row = {
            "episode_index": number,
            "tasks": [task_of[task] for task in dict.fromkeys(indices["task_index"].tolist())],
            "length": length,
            "dataset_from_index": frames,
            "dataset_to_index": frames + length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        shown, stamps = range(part.first, part.stop), times.astype(np.float64)
        began = float(stored_rows.timestamp[part.first])
        moved = began - float(stamps[0]) if math.isfinite(began) else 0.0
        seconds = stamps if _differs(stamps, fps) else None
        for camera, files in cameras.items():
            clip = metadata.videos[camera][part.episode]
            assert isinstance(clip, VideoClip)
            row |= files.add(target, clip, shown, seconds, moved=moved)
        whole = length == metadata.lengths[position]
        for camera, reader in readers.items():
            known = stored.get(part.episode, {}).get(camera) if whole else None
            pooled[camera].append(known or image_statistics(reader, part.episode, shown))
            statistics[camera] = pooled[camera][-1]
        episodes.append({**row, **statistics_columns(statistics)})
        frames += length
    data.close()
    for files in cameras.values():
        files.close()
    unshown = {
        files.path(target, number).relative_to(target).as_posix(): count
        for files in cameras.values()
        for number, count in files.unshown.items()
        if count
    }
    if unshown:
        write_json(unshown, target / UNSHOWN_FILE)
    if changed:
        warn(
            f"{root}: time stamps of parts of episode{'s' if len(changed) > 1 else ''} {episode_ranges(changed)} are "
            "moved towards frame / fps, because those recorded there are not finite, do not rise, or do not have the "
            "frame rate of the dataset"
        )
    write_metadata(
        target,
        fps=fps,
        robot_type=info.get("robot_type"),
        features=_features(root, info, cameras),
        tasks=tasks,
        episodes=episodes,
        statistics={
            **{name: feature_statistics(data.column(target, name)) for name in (*widths, *INDEX_FEATURES)},
            **{camera: joined_statistics(each) for camera, each in pooled.items()},
        },
        size_limits=SIZE_LIMITS,
    )


def _task_numbers(metadata: Metadata, parts: Sequence[Part]) -> dict[str, int]:
    """The number of each instruction: those of the dataset keep theirs, and new ones follow."""
    tasks = dict(zip(metadata.tasks, metadata.task_numbers.tolist(), strict=True))
    for part in parts:
        if part.task is not None and part.task not in tasks:
            tasks[part.task] = max(tasks.values()) + 1
    return tasks


def _times(rows: Rows, part: Part, fps: float, even: bool) -> tuple[np.ndarray, str]:
    """The time stamps of a part, and whether they are `"stored"`, `"moved"` to its first frame, or `"changed"`."""
    times = rows.timestamp[part.first : part.stop]
    nominal = np.arange(len(times)) / fps
    if not np.isfinite(times).all():
        return nominal, "changed"
    since = times.astype(np.float64) - float(times[0])
    if even:
        # Smaller differences than a reader allows, and the rounding of times in a long file, add up to more.
        equal = np.array_equal(times.astype(np.float32), nominal.astype(np.float32))
        return (times, "stored") if equal else (nominal, "moved")
    shortened = len(times) < len(rows.timestamp)
    if shortened or not _rises(since, fps):
        # Readers refuse a part whose clock has another rate, although it is right over the whole episode, and two
        # video frames cannot have one time. As much of the clock as they accept is kept, because commands of
        # velocities depend on it.
        for share in SHARES:
            nearer = nominal + share * (since - nominal)
            if _rises(nearer, fps) and all(problem.severity != "error" for problem in clock_problems(nearer, fps)):
                break
        if share < 1:
            return nearer, "changed"
    if float(times[0]) == 0.0:
        return times, "stored"
    # Rounded stamps of a steady clock are those of frame / fps, which a difference of them is not.
    rounding = 2 * np.spacing(np.float32(np.abs(rows.timestamp).max()))
    steady = (np.abs(since - nominal) <= rounding).all()
    return nominal if steady else since, "moved"


def _rises(stamps: np.ndarray, fps: float) -> bool:
    """Whether video frames can have these times."""
    return bool((np.diff(stamps) * fps >= LEAST_STEP).all())


def _differs(stamps: np.ndarray, fps: float) -> bool:
    """Whether time stamps differ from `frame / fps`, so that video frames get these times."""
    return bool((np.abs(stamps - np.arange(len(stamps)) / fps) > SAME_TIME).any())


def _with_shifted(rows: pa.Table, part: Part, columns: Sequence[str]) -> pa.Table:
    """The rows of a part, with the actions of the frames `shift` later."""
    length = part.stop - part.first
    taken = rows.slice(part.first, length)
    for column in columns if part.shift else ():
        place = rows.schema.get_field_index(column)
        later = rows.column(place).slice(part.first + part.shift, length)
        taken = taken.set_column(place, rows.schema.field(place), later)
    return taken


def _in_schema(rows: pa.Table, schema: pa.Schema | None, path: Path) -> pa.Table:
    """
    The rows, cast to the schema of the previous episodes.

    Raises:
        InputError: a column is not one of all episodes, or has another type.
    """
    if schema is None or rows.schema.equals(schema, check_metadata=True):
        return rows
    for column in sorted(set(rows.schema.names) ^ set(schema.names)):
        has, lacks = ("has", "lack") if column in rows.schema.names else ("lacks", "have")
        raise InputError(
            f"{path} {has} the column {column!r}, which the previous episodes {lacks}; LeRobot needs the same columns "
            "in all episodes: add it, remove it, or leave these episodes out"
        )
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{path} has different columns from the previous episodes: {first_line(error)}") from error


def _features(root: Path, info: Mapping[str, Any], cameras: Mapping[str, RemuxedFiles]) -> dict[str, Any]:
    """The features of the new dataset: without videos that are not colour images, which are not copied."""
    kinds = classify_features(info)
    features = dict(info["features"])
    for name, kind in kinds.items():
        if isinstance(features[name], Mapping) and features[name].get("dtype") == "video" and name not in cameras:
            warn(f"{root}: the video {name!r} is left out, because {kind.reason}")
            del features[name]
    return features
