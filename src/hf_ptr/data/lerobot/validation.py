"""Validation of datasets: all problems in one pass, each with episode and frame."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_ptr.data.lerobot.columns import ColumnFile, RowError, episode_runs, open_columns, rows_of_episode
from hf_ptr.data.lerobot.metadata import Metadata, read_metadata
from hf_ptr.data.lerobot.reader import INDEX_COLUMNS, vector_widths
from hf_ptr.data.video.decoding import FrameReader, VideoClip, VideoHeader, video_header
from hf_ptr.errors import InputError, first_line

Job = TypeVar("Job")
# Called with a description and a list; returns an iterable over the list, e.g. with a progress bar.
Progress = Callable[[str, Sequence[Any]], Iterable[Any]]

# Relative tolerance of the frame rate of time stamps and videos.
FPS_TOLERANCE = 0.02
# Decoded images are discarded, so they are scaled to a minimal size.
THUMBNAIL = (16, 16)


@dataclass(frozen=True)
class Problem:
    """
    A problem in a dataset.

    Attributes:
        message: the problem and its location, in one line.
        episode, frame: id of the affected episode and frame within it, or None.
        warning: True if the data are usable nonetheless.
        kind: name of the check, the same for all episodes; by default, messages that differ in numbers only are of
            one kind.
        amount: size of the problem, to find the worst of its kind; None without a size.
    """

    message: str
    episode: int | None = None
    frame: int | None = None
    warning: bool = False
    kind: str = ""
    amount: float | None = None

    def __str__(self) -> str:
        location = [
            f"{name} {at}" for name, at in (("episode", self.episode), ("frame", self.frame)) if at is not None
        ]
        return (
            f"{'warning' if self.warning else 'error'}: {', '.join(location)}{': ' if location else ''}{self.message}"
        )


@dataclass
class Validation:
    """
    The result of `validate_dataset`.

    Attributes:
        dataset: the folder.
        episodes, frames: numbers in the metadata; 0 if these cannot be read.
        cameras: the cameras that were checked.
        problems: all problems, in the order of the checks.
    """

    dataset: str
    episodes: int = 0
    frames: int = 0
    cameras: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """The problems that are not warnings."""
        return [problem for problem in self.problems if not problem.warning]

    @property
    def usable(self) -> bool:
        """Whether the dataset can be used for training."""
        return not self.errors

    @property
    def skippable(self) -> list[int] | None:
        """The episodes to leave out to make the rest usable; None if no such selection exists."""
        episodes = {problem.episode for problem in self.errors}
        if None in episodes or len(episodes) >= self.episodes:
            return None
        return sorted(episode for episode in episodes if episode is not None)

    def to_dict(self) -> dict[str, Any]:
        """The output of `hf-ptr validate --json`."""
        return {
            "dataset": self.dataset,
            "usable": self.usable,
            "episodes": self.episodes,
            "frames": self.frames,
            "cameras": list(self.cameras),
            "skip_episodes": self.skippable,
            "problems": [
                {
                    "severity": "warning" if problem.warning else "error",
                    "episode": problem.episode,
                    "frame": problem.frame,
                    "message": problem.message,
                }
                for problem in self.problems
            ],
        }


def no_progress(_: str, jobs: Sequence[Job]) -> Iterable[Job]:
    """The jobs without a progress bar."""
    return jobs


def validate_dataset(
    path: str | Path,
    *,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
    cameras: Collection[str] | None = None,
    decode: bool = True,
    every_frame: bool = False,
    progress: Progress = no_progress,
) -> Validation:
    """
    Check a LeRobotDataset, v3.0 or v2.1, and list its problems. Nothing is written.

    Args:
        path: the folder.
        episodes: ids of the episodes to check; all by default.
        skip: ids of episodes to ignore.
        cameras: cameras to check; all by default.
        decode: whether to decode the first and last image of each episode; video headers are always read.
        every_frame: whether to decode all images.
        progress: called with a description and a list, returns an iterable over the list, e.g. with a progress bar.

    Returns:
        The problems. If the metadata cannot be read, this is the only problem listed.
    """
    root = Path(path)
    found = Validation(dataset=str(path))
    checker = _Checker(root, found, None if episodes is None else frozenset(episodes), frozenset(skip))
    try:
        metadata = read_metadata(root, checker.report_of_metadata)
    except (InputError, OSError) as error:
        checker.report(checker.relative(error))
        return found
    unknown = sorted({*(episodes or ()), *skip} - set(metadata.episode_index.tolist()) - checker.reported)
    if unknown:
        raise InputError(f"{root} has no episode {unknown[0]}")
    found.episodes, found.frames = len(metadata.episode_index), sum(metadata.lengths.tolist())
    if not found.episodes and found.usable:
        checker.report("the dataset has no episodes")
    checker.check_tables(metadata, progress)
    found.cameras = tuple(camera for camera in metadata.videos if cameras is None or camera in cameras)
    for camera in found.cameras:
        checker.check_camera(metadata, camera, decode, every_frame, progress)
    return found


def require_usable(found: Validation, skip: Collection[int] = ()) -> None:
    """
    Check that a dataset can be used for training.

    Args:
        found: the result of `validate_dataset`.
        skip: ids of episodes that are left out already.

    Raises:
        InputError: it has errors; the message contains the first one and the episodes to skip.
    """
    if found.usable:
        return
    first, more = str(found.errors[0]).removeprefix("error: "), len(found.errors) - 1
    others = f" (and {more} more; hf-ptr validate {found.dataset} lists them)" if more else ""
    fix, left_out = "fix the dataset", set[int]()
    if found.skippable is not None:
        left_out = {*skip, *found.skippable}
        fix += f", or leave {'this episode' if len(left_out) == 1 else f'{len(left_out)} episodes'} out"
    raise InputError(f"{found.dataset} is not usable: {first}{others}; {fix}", skip=sorted(left_out))


class _Checker:
    """Checks the parts of a dataset and records the problems of each."""

    def __init__(self, root: Path, found: Validation, episodes: frozenset[int] | None, skip: frozenset[int]) -> None:
        self.root = root
        self.found = found
        self.episodes = episodes
        self.skip = skip
        self._span: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._indices: list[np.ndarray] = []
        self._readable: set[int] = set()
        # The episodes with a problem, ignored or not.
        self.reported: set[int] = set()

    def report(
        self,
        message: str,
        episode: int | None = None,
        frame: int | None = None,
        *,
        warning: bool = False,
        kind: str = "",
        amount: float | None = None,
    ) -> None:
        """Record a problem, unless its episode is ignored."""
        if episode is not None:
            self.reported.add(episode)
        if episode is None or self._wanted(episode):
            self.found.problems.append(Problem(message, episode, frame, warning, kind, amount))

    def report_of_metadata(self, message: str, episode: int | None = None) -> None:
        """Record a problem that `read_metadata` reports."""
        self.report(self._without_root(message), episode)

    def relative(self, error: Exception) -> str:
        """The message of an error of the reader, whose paths start with the dataset's folder, relative to it."""
        return self._without_root(first_line(error))

    def _without_root(self, message: str) -> str:
        # At the beginning and once: the folder may be called "data" or "a".
        for beginning in (f"{self.root}: ", f"{self.root}/"):
            if message.startswith(beginning):
                return message[len(beginning) :]
        return message

    def _wanted(self, episode: int) -> bool:
        return episode not in self.skip and (self.episodes is None or episode in self.episodes)

    def check_tables(self, metadata: Metadata, progress: Progress) -> None:
        """Check each data file, then unique indices and constant features over all of them."""
        episodes_in: dict[str, dict[int, int]] = {}
        for episode, length, name in zip(
            metadata.episode_index.tolist(), metadata.lengths.tolist(), metadata.files, strict=True
        ):
            if self._wanted(episode):
                episodes_in.setdefault(name, {})[episode] = length
        for name, lengths in progress("reading tables", list(episodes_in.items())):
            try:
                self._check_file(name, lengths, metadata)
            except (InputError, OSError) as error:
                self._report_each(self.relative(error), lengths)
        if self._indices:
            ordered = np.sort(np.concatenate(self._indices))
            if (ordered[1:] == ordered[:-1]).any():
                twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
                self.report(f"column 'index' has the value {twice} twice; every frame of a dataset needs its own")
        for name, (low, high) in self._span.items():
            constant = np.flatnonzero(low == high).tolist()
            if constant:
                listed = ", ".join(map(str, constant[:20])) + (", …" if len(constant) > 20 else "")
                self.report(f"feature {name!r} never changes in dimension {listed}", warning=True)

    def _report_each(self, message: str, episodes: Iterable[int]) -> None:
        """Record a problem of a file for each of its episodes, since each can be skipped separately."""
        for episode in episodes:
            self.report(message, episode)

    def _check_file(self, name: str, lengths: Mapping[int, int], metadata: Metadata) -> None:
        path = self.root / name
        if not path.is_file():
            self._report_each(f"{name} is missing", lengths)
            return
        features = metadata.info["features"]
        with open_columns(path) as file:
            runs = episode_runs(file.integers("episode_index"))
            frame_index = file.integers("frame_index")
            rows: dict[int, slice] = {}
            for episode, length in lengths.items():
                try:
                    rows[episode] = rows_of_episode(runs, frame_index, episode, length, path)
                except InputError as error:
                    self.report(self.relative(error), episode)
            self._check_indices(file, rows, metadata)
            self._check_times(file, rows, float(metadata.info["fps"]))
            for feature, width in vector_widths(features).items():
                self._check_vector(file, feature, width, rows)
            for feature, description in features.items():
                if description["dtype"] == "image" and feature not in file.names:
                    self._report_each(f"{name} lacks the column {feature!r}", rows)
                    return
            self._readable.update(rows)

    def _check_indices(self, file: ColumnFile, rows: Mapping[int, slice], metadata: Metadata) -> None:
        index, tasks = file.integers(INDEX_COLUMNS[2]), file.integers(INDEX_COLUMNS[3])
        unknown = ~np.isin(tasks, metadata.task_numbers)
        for episode, rows_of in rows.items():
            self._indices.append(index[rows_of])
            if unknown[rows_of].any():
                frame = int(unknown[rows_of].argmax())
                self.report(
                    f"task_index {tasks[rows_of][frame]} is not in the metadata",
                    episode, frame,
                )  # fmt: skip

    def _check_times(self, file: ColumnFile, rows: Mapping[int, slice], fps: float) -> None:
        if "timestamp" not in file.names:
            name = file.path.relative_to(self.root)
            self.report(f"{name} lacks the column 'timestamp'", warning=True)
            return
        for episode, times in self._parts(file, "timestamp", 1, rows):
            seconds = times[:, 0].astype(np.float64)
            if not np.isfinite(seconds).all():
                self.report("timestamp is NaN or infinite", episode, int(np.isfinite(seconds).argmin()))
                continue
            steps = np.diff(seconds)
            if (steps <= 0).any():
                self.report("timestamps are out of order", episode, int((steps <= 0).argmax()) + 1)
            elif len(steps) and abs(float(np.median(steps)) * fps - 1) > FPS_TOLERANCE:
                rate = 1 / float(np.median(steps))
                self.report(f"fps mismatch: timestamps give {rate:.4g} frames per second, info.json {fps:g}", episode)
            else:
                off = np.abs(seconds - np.arange(len(seconds)) / fps) > 0.5 / fps
                if off.any():
                    frame = int(off.argmax())
                    self.report(
                        f"timestamp {seconds[frame]:.3f} is more than half a frame from frame / fps", episode, frame,
                        warning=True,
                    )  # fmt: skip

    def _check_vector(self, file: ColumnFile, name: str, width: int, rows: Mapping[int, slice]) -> None:
        for episode, values in self._parts(file, name, width, rows):
            finite = np.isfinite(values).all(axis=1)
            if not finite.all() and name.startswith(("observation", "action")):
                frame, count = int(finite.argmin()), int((~finite).sum())
                more = f" ({count} frames in total)" if count > 1 else ""
                self.report(f"feature {name!r} is NaN or infinite{more}", episode, frame)
            if finite.any():
                low, high = values[finite].min(axis=0), values[finite].max(axis=0)
                before = self._span.get(name, (low, high))
                self._span[name] = np.minimum(before[0], low), np.maximum(before[1], high)

    def _parts(
        self, file: ColumnFile, name: str, width: int, rows: Mapping[int, slice]
    ) -> Iterable[tuple[int, np.ndarray]]:
        """Each episode's part of a column; parts that cannot be read are recorded as problems."""
        try:
            column = file.column(name)
        except InputError as error:
            self._report_each(self.relative(error), rows)
            return
        try:
            whole = file.parse(column, name, width)
        except RowError:
            whole = None
        except InputError as error:
            self._report_each(self.relative(error), rows)
            return
        for episode, part in rows.items():
            if whole is not None:
                yield episode, whole[part]
                continue
            try:
                yield episode, file.parse(column.slice(part.start, part.stop - part.start), name, width)
            except RowError as error:
                self.report(self.relative(error), episode, error.row)

    def check_camera(
        self, metadata: Metadata, camera: str, decode: bool, every_frame: bool, progress: Progress
    ) -> None:
        """Check that a camera's videos exist, match the dataset in rate, size and length, and can be decoded."""
        try:
            clips = metadata.videos[camera]
        except (InputError, OSError) as error:
            self.report(f"camera {camera!r}: {self.relative(error)}")
            return
        feature, fps = metadata.info["features"][camera], float(metadata.info["fps"])
        shape = feature["shape"]
        reader = FrameReader(camera, clips, fps, THUMBNAIL, cache_bytes=0)
        headers: dict[Path, VideoHeader | str] = {}
        listed = zip(metadata.episode_index.tolist(), metadata.lengths.tolist(), strict=True)
        for episode, length in progress(f"checking {camera}", [pair for pair in listed if self._wanted(pair[0])]):
            if feature["dtype"] == "image":
                # A missing table was reported already.
                if (decode or every_frame) and episode in self._readable:
                    self._check_images(reader, episode, length, every_frame)
                continue
            clip = clips.get(episode)
            if not isinstance(clip, VideoClip):
                self.report(f"the episode has no video of {camera!r}", episode)
                continue
            if clip.path not in headers:
                headers[clip.path] = self._header(clip.path, fps, shape)
            header = headers[clip.path]
            if isinstance(header, str):
                self.report(header, episode)
                continue
            self._check_length(clip, header, episode, length, fps, metadata.info["codebase_version"] == "v2.1")
            if decode or every_frame:
                available = header.frames - round(clip.start * fps)
                self._check_images(reader, episode, min(length, available), every_frame)

    def _header(self, path: Path, fps: float, shape: Sequence[int]) -> VideoHeader | str:
        """The header of a video file, or the problem that makes it unusable; a wrong size is recorded as a warning."""
        name = path.relative_to(self.root)
        if not path.is_file():
            return f"{name} is missing"
        try:
            header = video_header(path)
        except InputError as error:
            return self.relative(error)
        if abs(header.fps / fps - 1) > FPS_TOLERANCE:
            return f"fps mismatch: {name} has {header.fps:.4g} frames per second, info.json {fps:g}"
        if not {header.height, header.width} <= set(shape):
            self.report(f"{name} is {header.height} x {header.width}, info.json has {list(shape)}", warning=True)
        return header

    def _check_length(
        self, clip: VideoClip, header: VideoHeader, episode: int, length: int, fps: float, alone: bool
    ) -> None:
        available = header.frames - round(clip.start * fps)
        name = clip.path.relative_to(self.root)
        if available < length:
            self.report(
                f"{name} is shorter than the table: it has {max(available, 0)} frames of the episode's {length}",
                episode, max(available, 0),
            )  # fmt: skip
        elif alone and available > length:
            self.report(f"{name} has {available} frames, the table {length}", episode, warning=True)

    def _check_images(self, reader: FrameReader, episode: int, length: int, every_frame: bool) -> None:
        for frame in range(length) if every_frame else sorted({0, length - 1} - {-1}):
            try:
                reader.read([episode], [frame])
            except (InputError, OSError) as error:
                self.report(self.relative(error), episode, frame)
                return
