"""Validation of datasets: all problems in one pass, each with episode and frame."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_ptr.data.features import ACTION, STATE, FeatureKind, classify_features, derived_roles, vector_widths
from hf_ptr.data.lerobot.clock import clock_problems
from hf_ptr.data.lerobot.columns import ColumnFile, RowError, open_columns, rows_of_episode
from hf_ptr.data.lerobot.index_columns import IndexColumns
from hf_ptr.data.lerobot.metadata import Metadata, read_metadata
from hf_ptr.data.lerobot.validation_videos import LEROBOT_TIMES, CameraCheck
from hf_ptr.data.lerobot.videos import cameras_of
from hf_ptr.errors import InputError, UnknownEpisodeError, first_line

Job = TypeVar("Job")
# Called with a description and a list; returns an iterable over the list, e.g. with a progress bar.
Progress = Callable[[str, Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Problem:
    """
    A problem in a dataset.

    Attributes:
        message: the problem and its location, in one line.
        episode, frame: id of the affected episode and frame within it, or None.
        severity: `"error"` if the data are not usable; `"warning"` if they are, and the owner can fix the cause;
            `"note"` if nothing needs to be done.
        kind: name of the check, the same for all episodes; by default, messages that differ in numbers only are of
            one kind.
        amount: size of the problem, to find the worst of its kind; None without a size.
    """

    message: str
    episode: int | None = None
    frame: int | None = None
    severity: str = "error"
    kind: str = ""
    amount: float | None = None

    def __str__(self) -> str:
        location = [
            f"{name} {at}" for name, at in (("episode", self.episode), ("frame", self.frame)) if at is not None
        ]
        return f"{self.severity}: {', '.join(location)}{': ' if location else ''}{self.message}"


@dataclass
class Validation:
    """
    The result of `validate_dataset`.

    Attributes:
        dataset: the folder.
        episodes, frames: numbers of the selection in the metadata; 0 if these cannot be read.
        cameras: the cameras that were checked.
        features: the use of each feature, and why some are left out.
        problems: all problems, in the order of the checks.
        selected: ids of the selected episodes in the metadata.
    """

    dataset: str
    episodes: int = 0
    frames: int = 0
    cameras: tuple[str, ...] = ()
    features: Mapping[str, FeatureKind] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    selected: frozenset[int] = frozenset()

    @property
    def refused_by_lerobot(self) -> bool:
        """Whether LeRobot refuses rows because their times are not those of video frames."""
        return any(problem.kind.startswith(LEROBOT_TIMES) for problem in self.problems)

    @property
    def errors(self) -> list[Problem]:
        """The problems that make the dataset, or an episode of it, unusable."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def usable(self) -> bool:
        """Whether the dataset can be used for training."""
        return not self.errors

    @property
    def skippable(self) -> list[int] | None:
        """The episodes to leave out to make the rest usable; None if no such selection exists."""
        episodes = {problem.episode for problem in self.errors}
        if None in episodes or episodes >= self.selected:
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
            "features": {name: str(kind) for name, kind in self.features.items()},
            "skip_episodes": self.skippable,
            "problems": [
                {
                    "severity": problem.severity,
                    "episode": problem.episode,
                    "frame": problem.frame,
                    "kind": problem.kind or None,
                    "amount": problem.amount,
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
    features: Sequence[str] = (),
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
        features: the vectors that are used; problems of others are warnings. By default, the state and the action.
        cameras: cameras to check; all by default.
        decode: whether to decode the first and last image of each episode; video headers are always read.
        every_frame: whether to decode all images.
        progress: called with a description and a list, returns an iterable over the list, e.g. with a progress bar.

    Returns:
        The problems. If the metadata cannot be read, this is the only problem listed.

    Raises:
        InputError: an id is not in the dataset, or no episode is selected.
    """
    root = Path(path)
    found = Validation(dataset=str(path))
    checker = _Checker(root, found, None if episodes is None else frozenset(episodes), frozenset(skip))
    try:
        metadata = read_metadata(root, checker.report_of_metadata, checker.note)
    except (InputError, OSError) as error:
        checker.report(checker.relative(error))
        return found
    unknown = sorted(
        {*(episodes or ()), *skip} - set(metadata.episode_index.tolist()) - metadata.empty - checker.reported
    )
    if unknown:
        raise UnknownEpisodeError(root, unknown[0], metadata.episode_index.tolist())
    found.features = classify_features(metadata.info)
    lengths = dict(zip(metadata.episode_index.tolist(), metadata.lengths.tolist(), strict=True))
    wanted = {episode: length for episode, length in lengths.items() if checker.wanted(episode)}
    found.episodes, found.frames, found.selected = len(wanted), sum(wanted.values()), frozenset(wanted)
    if not wanted and found.usable:
        if lengths:
            raise InputError(f"no episodes were selected from {root}; select at least one")
        checker.report("the dataset has no episodes")
    checker.check_tables(metadata, features or (STATE, ACTION), progress)
    found.cameras = tuple(camera for camera in metadata.videos if cameras is None or camera in cameras)
    for camera in found.cameras:
        check = CameraCheck(root, metadata, camera, checker.report, checker.relative)
        check.check(wanted, checker.readable, checker.stamps, decode, every_frame, progress)
    return found


def validate_videos(
    path: str | Path, cameras: Sequence[str], *, episodes: Collection[int] | None = None, skip: Collection[int] = ()
) -> dict[str, Validation]:
    """
    The problems of the videos of each camera, without decoding images; tables are not read.

    Raises:
        InputError: the metadata cannot be read.
    """
    root, result = Path(path), {}
    metadata = read_metadata(root, note=lambda _: None)
    lengths = dict(zip(metadata.episode_index.tolist(), metadata.lengths.tolist(), strict=True))
    for camera in cameras:
        found = result[camera] = Validation(str(path), cameras=(camera,))
        checker = _Checker(root, found, None if episodes is None else frozenset(episodes), frozenset(skip))
        wanted = {episode: length for episode, length in lengths.items() if checker.wanted(episode)}
        found.episodes, found.frames, found.selected = len(wanted), sum(wanted.values()), frozenset(wanted)
        CameraCheck(root, metadata, camera, checker.report, checker.relative).check(
            wanted, (), {}, decode=False, every_frame=False, progress=no_progress
        )
    return result


class _Checker:
    """Checks the parts of a dataset and records the problems of each."""

    def __init__(self, root: Path, found: Validation, episodes: frozenset[int] | None, skip: frozenset[int]) -> None:
        self.root = root
        self.found = found
        self.episodes = episodes
        self.skip = skip
        self._span: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._used: frozenset[str] = frozenset()
        self.readable: set[int] = set()
        # Time stamps of the episodes with a usable clock.
        self.stamps: dict[int, np.ndarray] = {}
        # The episodes with a problem, ignored or not.
        self.reported: set[int] = set()

    def report(
        self,
        message: str,
        episode: int | None = None,
        frame: int | None = None,
        *,
        severity: str = "error",
        kind: str = "",
        amount: float | None = None,
    ) -> None:
        """Record a problem, unless its episode is ignored."""
        if episode is not None:
            self.reported.add(episode)
        if episode is None or self.wanted(episode):
            self.found.problems.append(Problem(message, episode, frame, severity, kind, amount))

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

    def note(self, message: str) -> None:
        """Record a warning about the whole dataset."""
        self.report(self._without_root(message), severity="warning")

    def wanted(self, episode: int) -> bool:
        """Whether an episode is checked."""
        return episode not in self.skip and (self.episodes is None or episode in self.episodes)

    def check_tables(self, metadata: Metadata, features: Sequence[str], progress: Progress) -> None:
        """Check each data file, then unique indices and constant features over all of them.

        Args:
            metadata: the dataset's metadata.
            features: the vectors that are used.
            progress: as in `validate_dataset`.
        """
        self._used = frozenset(self._stored(metadata, features))
        listed = metadata.episode_index.tolist()
        positions = [position for position, episode in enumerate(listed) if self.wanted(episode)]
        in_file: dict[str, dict[int, int]] = {}
        for position in positions:
            in_file.setdefault(metadata.files[position], {})[listed[position]] = int(metadata.lengths[position])
        index = IndexColumns(self.root, metadata, self.note)
        stored: dict[int, np.ndarray | None] = {}
        for name, lengths in progress("reading tables", list(in_file.items())):
            try:
                self._check_file(name, lengths, metadata, index, stored)
            except (InputError, OSError) as error:
                self._report_each(self.relative(error), lengths)
        read = [position for position in positions if listed[position] in stored]
        parts = [stored[listed[position]] for position in read]
        if parts:
            kept = [part for part in parts if part is not None]
            index.frame_ids(np.concatenate(kept) if len(kept) == len(parts) else None, np.array(read))
        for name, (low, high) in self._span.items():
            constant = np.flatnonzero(low == high).tolist()
            if constant:
                numbers = ", ".join(map(str, constant[:20])) + (", …" if len(constant) > 20 else "")
                self.report(f"feature {name!r} never changes in dimension {numbers}", severity="note", kind="constant")

    def _stored(self, metadata: Metadata, features: Sequence[str]) -> Iterable[str]:
        """The features of the files that make up the vectors that are used."""
        widths, roles = vector_widths(metadata.info), derived_roles(metadata.info)
        for name in (part.strip().partition("@-")[0] for feature in features for part in feature.split(",")):
            if name in widths:
                yield name
            elif name in roles:
                self.note(f"{name} is missing; taken from {', '.join(roles[name])}")
                yield from roles[name]

    def _report_each(self, message: str, episodes: Iterable[int], *, severity: str = "error") -> None:
        """Record a problem of a file for each of its episodes, since each can be skipped separately."""
        for episode in episodes:
            self.report(message, episode, severity=severity)

    def _check_file(
        self,
        name: str,
        lengths: Mapping[int, int],
        metadata: Metadata,
        index: IndexColumns,
        stored: dict[int, np.ndarray | None],
    ) -> None:
        """Check a data file; the column `index` of each readable episode is added to `stored`."""
        path = self.root / name
        if not path.is_file():
            self._report_each(f"{name} is missing", lengths)
            return
        with open_columns(path) as file:
            runs = index.runs(file, name)
            frame_index = index.frame_index(file, runs)
            rows: dict[int, slice] = {}
            for episode, length in lengths.items():
                try:
                    rows[episode] = rows_of_episode(runs, frame_index, episode, length, path)
                except InputError as error:
                    self.report(self.relative(error), episode)
            numbers = index.index(file)
            stored.update({episode: None if numbers is None else numbers[part] for episode, part in rows.items()})
            self._check_tasks(index.task_index(file, rows), rows, metadata)
            if index.timestamp(file):
                self._check_times(file, rows, float(metadata.info["fps"]))
            for feature, width in vector_widths(metadata.info).items():
                self._check_vector(file, feature, width, rows)
            for feature in cameras_of(metadata.info, "image"):
                if feature not in file.names:
                    self._report_each(f"{name} lacks the column {feature!r}", rows)
                    return
            self.readable.update(rows)

    def _check_tasks(self, tasks: np.ndarray, rows: Mapping[int, slice], metadata: Metadata) -> None:
        unknown = ~np.isin(tasks, metadata.task_numbers)
        for episode, part in rows.items():
            if unknown[part].any():
                frame = int(unknown[part].argmax())
                self.report(f"task_index {tasks[part][frame]} is not in the metadata", episode, frame, kind="task")

    def _check_times(self, file: ColumnFile, rows: Mapping[int, slice], fps: float) -> None:
        for episode, times in self._parts(file, "timestamp", 1, rows, severity="warning"):
            found = clock_problems(times[:, 0], fps)
            if all(problem.severity != "error" for problem in found):
                self.stamps[episode] = times[:, 0]
            for problem in found:
                self.report(
                    problem.message, episode, problem.frame,
                    severity=problem.severity, kind=problem.kind, amount=problem.amount,
                )  # fmt: skip

    def _check_vector(self, file: ColumnFile, name: str, width: int, rows: Mapping[int, slice]) -> None:
        severity = "error" if name in self._used else "warning"
        for episode, values in self._parts(file, name, width, rows, severity=severity):
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                frame, count = int(finite.argmin()), int((~finite).sum())
                more = f" ({count} frames in total)" if count > 1 else ""
                self.report(
                    f"feature {name!r} is NaN or infinite{more}", episode, frame,
                    severity=severity, kind=f"not_finite {name}", amount=count,
                )  # fmt: skip
            if finite.any():
                low, high = values[finite].min(axis=0), values[finite].max(axis=0)
                before = self._span.get(name, (low, high))
                self._span[name] = np.minimum(before[0], low), np.maximum(before[1], high)

    def _parts(
        self, file: ColumnFile, name: str, width: int, rows: Mapping[int, slice], *, severity: str
    ) -> Iterable[tuple[int, np.ndarray]]:
        """Each episode's part of a column; parts that cannot be read are recorded as problems."""
        try:
            column = file.column(name)
        except InputError as error:
            self._report_each(self.relative(error), rows, severity=severity)
            return
        try:
            whole = file.parse(column, name, width)
        except RowError:
            whole = None
        except InputError as error:
            self._report_each(self.relative(error), rows, severity=severity)
            return
        for episode, part in rows.items():
            if whole is not None:
                yield episode, whole[part]
                continue
            try:
                yield episode, file.parse(column.slice(part.start, part.stop - part.start), name, width)
            except RowError as error:
                self.report(self.relative(error), episode, error.row, severity=severity)
