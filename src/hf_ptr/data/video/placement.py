"""Which frame of a video file belongs to which row of the table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from hf_ptr.data.video.frame_index import FrameIndex, read_frame_index
from hf_ptr.errors import DataWarning, InputError

# Distances between a frame and the time of its row, in frames: silent up to the first, refused above the second.
EXACT, LIMIT = 0.1, 0.5
# Below this distance a frame that is left out or shown twice is one that the table leaves out or repeats, too. A video
# of another rate passes every distance up to half a frame before it slips by one.
CLEAR = 0.25


@dataclass(frozen=True)
class EpisodeFrames:
    """
    The frames of one episode in a video file.

    Attributes:
        frames: `(length,)` int64, positions in the file's `FrameIndex`; empty if the episode is refused.
        problem: why the episode is refused, or None.
        frame: the first row concerned, or None.
    """

    frames: np.ndarray
    problem: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Placement:
    """
    The frames of all episodes in a video file.

    Attributes:
        episodes: frames by episode id.
        notes: what a user should know although the frames can be read, each one line.
    """

    episodes: Mapping[int, EpisodeFrames]
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class VideoFile:
    """
    A video file and the episodes in it.

    Where the file has as many frames as all its episodes have rows, frames belong to rows in order. That needs no
    time stamps, so it is exact for a camera at 29.97 frames per second in a dataset of 30. Elsewhere each row gets
    the frame nearest to its time, and the distance is measured.

    Attributes:
        path: the file.
        episodes: start (seconds) and number of rows by episode id: all that lie in the file, also unselected ones.
        times: returns the `timestamp` column of an episode, `(length,)` seconds, or None if it has none.
        noted: whether a note on this camera was given, shared by the camera's files.
        unshown: number of frames that belong to no row on purpose.
    """

    path: Path
    episodes: Mapping[int, tuple[float, int]]
    times: Callable[[int], np.ndarray | None] | None = None
    noted: set[str] = field(default_factory=set)
    unshown: int = 0
    _placements: dict[float, Placement] = field(default_factory=dict, repr=False)

    @property
    def index(self) -> FrameIndex:
        """The frames of the file, read again unless it is among the last indices: a dataset has thousands of files.

        Raises:
            InputError: see [`read_frame_index`].
        """
        return read_frame_index(self.path)

    def placement(self, fps: float) -> Placement:
        """
        The frames of all episodes in the file.

        Args:
            fps: frames per second of the table.

        Raises:
            InputError: the file cannot be read.
        """
        if fps not in self._placements:
            self._placements[fps] = place(self.path, self.index, self.episodes, fps, self.times, self.unshown)
        return self._placements[fps]

    def frame_of(self, episode: int, row: int, fps: float) -> int:
        """
        The position in the file of the frame that belongs to a row of an episode.

        Raises:
            InputError: the file cannot be read, or the episode's frames are not known for sure.
        """
        placement = self.placement(fps)
        found = placement.episodes[episode]
        if found.problem is not None:
            raise InputError(found.problem)
        # One line for each camera: a dataset may have thousands of files of the same kind.
        if placement.notes and not self.noted:
            self.noted.add(placement.notes[0])
            warnings.warn(f"{placement.notes[0]} (hf-ptr validate lists all such files)", DataWarning, stacklevel=2)
        return int(found.frames[row])


def place(
    path: Path,
    index: FrameIndex,
    episodes: Mapping[int, tuple[float, int]],
    fps: float,
    times: Callable[[int], np.ndarray | None] | None = None,
    unshown: int = 0,
) -> Placement:
    """
    The frame of every row of the episodes in a video file.

    Args:
        path: the file, for messages.
        index: its frames.
        episodes: start (seconds) and number of rows by episode id.
        fps: frames per second of the table.
        times: returns the `timestamp` column of an episode, or None.
        unshown: number of frames that belong to no row on purpose, which need no note.
    """
    order = sorted(episodes, key=lambda episode: (episodes[episode][0], episode))
    starts = np.array([episodes[episode][0] for episode in order])
    lengths = np.array([episodes[episode][1] for episode in order])
    file = _File(path, index, fps, order, starts, lengths, times, unshown)
    return file.by_order() if lengths.sum() == len(index) else file.by_time()


@dataclass(frozen=True, eq=False)
class _File:
    """The episodes of a file in order of their starts."""

    path: Path
    index: FrameIndex
    fps: float
    order: list[int]
    starts: np.ndarray
    lengths: np.ndarray
    times: Callable[[int], np.ndarray | None] | None
    unshown: int

    def by_order(self) -> Placement:
        """The frames in order: the first rows have the first frames."""
        first = np.cumsum(self.lengths) - self.lengths
        found: dict[int, EpisodeFrames] = {}
        worst, where = LIMIT, None
        for number, (begin, length) in enumerate(zip(first, self.lengths, strict=True)):
            frames = np.arange(begin, begin + length)
            found[self.order[number]] = EpisodeFrames(frames)
            shown = self.index.seconds[frames] + self.starts[0]
            off = np.inf
            for rows in self._row_times(number):
                off = min(off, float(np.abs(shown - rows).max()) * self.fps)
                if off <= LIMIT:
                    break
            if off > worst:
                worst, where = off, self.order[number]
        if where is None:
            return Placement(found)
        cause = f", because {self._drift}" if self._drift else ""
        note = (
            f"{self.path}: the frames of episode {where} are up to {worst:.1f} frames away from the times of their "
            f"rows{cause}; the file has one frame for each row, so frames are assigned in order"
        )
        return Placement(found, (note,))

    def by_time(self) -> Placement:
        """Each row's nearest frame, with the distance checked."""
        clock = self._clock()
        chosen = [self._nearest(number, clock) for number in range(len(self.order))]
        # Episodes behind the end of the file say nothing about the times of the others.
        begins = np.array([off[0] for _, _, off in chosen])[self.starts <= clock[-1] + LIMIT / self.fps]
        # Starts that were measured in the video are times of its frames; then nothing accumulates along the file.
        measured = bool((np.abs(begins) <= EXACT).all())
        lost = np.zeros(len(chosen), dtype=bool)
        if not measured:
            drift = np.abs(np.unwrap(begins, period=1.0))
            steps = np.abs(np.remainder(np.diff(begins, prepend=begins[0]) + 0.5, 1.0) - 0.5)
            # After a large step it is not known to which side the starts drift, unless the rate says so.
            lost[: len(begins)] = np.logical_or.accumulate((drift > LIMIT) | ((steps > CLEAR) & (not self._drift)))
        found: dict[int, EpisodeFrames] = {}
        worst = 0.0
        for number, (frames, rows, off) in enumerate(chosen):
            following = int(chosen[number + 1][0][0]) if number + 1 < len(begins) else len(self.index)
            if measured and number < len(begins) and following - frames[0] == len(rows):
                # The part of the file from this start to the next has one frame for each row.
                found[self.order[number]] = EpisodeFrames(np.arange(frames[0], following))
                continue
            origin = chosen[number if measured else 0]
            # Frames passed, less those of the time that has passed.
            slip = np.round(frames - origin[0][0] - (rows - origin[1][0]) * self._nominal_rate).astype(int)
            wrong = (np.abs(off) > LIMIT) | (frames >= following)
            if not measured or np.abs(off).max() > CLEAR:
                wrong |= slip != 0
            if wrong.any() or lost[number]:
                wrong |= lost[number]
                found[self.order[number]] = self._refused(
                    number, frames, rows, off, wrong, following, bool(lost[number])
                )
            else:
                found[self.order[number]] = EpisodeFrames(frames)
                worst = max(worst, float(np.abs(off).max()))
        total, listed = len(self.index), int(self.lengths.sum())
        if worst <= EXACT and total == listed + self.unshown:
            return Placement(found)
        notes = [f"{self.path} has {total} frames, the table {listed}; frames are chosen by time"]
        if worst > EXACT:
            cause = f", because {self._drift}" if self._drift else ""
            notes[0] += f", up to {worst:.2f} frames away from the times of their rows{cause}"
        return Placement(found, tuple(notes))

    def _refused(
        self,
        number: int,
        frames: np.ndarray,
        rows: np.ndarray,
        off: np.ndarray,
        wrong: np.ndarray,
        following: int,
        drifted: bool,
    ) -> EpisodeFrames:
        """The reason why the frames of an episode are not known: too few, another rate, a drift, or a gap."""
        episode, row = self.order[number], int(wrong.argmax())
        ends = bool(wrong[row:].all() and (frames[row:] >= following - 1).all())
        if ends and not drifted and np.abs(off[:row]).max(initial=0.0) <= CLEAR:
            problem = f"{self.path} is shorter than the table: it has {row} frames of the episode's {len(rows)}"
        elif self._drift:
            apart = max(float(rows[-1] - self.starts[0]) * abs(self.index.mean_rate - self._nominal_rate), LIMIT)
            problem = (
                f"{self.path}: the frames of episode {episode} are up to {apart:.1f} frames away from the times of "
                f"their rows, because {self._drift}; re-encode the video with one frame for each row"
            )
        elif drifted:
            apart = abs((self.starts[number] - self.starts[0]) * self.fps - self.lengths[:number].sum())
            problem = (
                f"{self.path}: from_timestamp of episode {episode} is {apart:.1f} frames away from the end of the "
                "rows before it, and the file does not have one frame for each row; correct from_timestamp"
            )
        else:
            problem = (
                f"{self.path}: the frame nearest to row {row} of episode {episode} is {abs(off[row]):.2f} frames away "
                "from its time; a frame is missing, or from_timestamp is wrong"
            )
        return EpisodeFrames(np.arange(0), problem, row)

    def _clock(self) -> np.ndarray:
        """When frames are shown, on the clock of `starts`: from the first frame, or from the file's time zero."""
        relative, absolute = self.index.seconds, self.index.seconds + self.index.start
        off = [np.abs(clock[_nearest(clock, self.starts)] - self.starts).max() for clock in (relative, absolute)]
        return absolute if off[1] < off[0] else relative

    def _row_times(self, number: int) -> Iterator[np.ndarray]:
        """Times of an episode's rows: by the frame rate, then, if the column is sound, by `timestamp`."""
        length, start = int(self.lengths[number]), self.starts[number]
        yield start + np.arange(length) / self.fps
        stamps = None if self.times is None else self.times(self.order[number])
        if stamps is not None and len(stamps) == length and np.isfinite(stamps).all() and (np.diff(stamps) > 0).all():
            yield start + stamps

    def _nearest(self, number: int, clock: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest frames of an episode's rows, the rows' times, and the signed distances in frames."""
        found = []
        for rows in self._row_times(number):
            frames = _nearest(clock, rows)
            found.append((frames, rows, (clock[frames] - rows) * self.fps))
        # Rows that were dropped show in `timestamp` only; a clock that jitters fits the frames less well than `fps`.
        worst = [float(np.abs(off).max()) for _, _, off in found]
        return found[-1] if worst[-1] <= EXACT else found[worst.index(min(worst))]

    @property
    def _nominal_rate(self) -> float:
        """The frame rate of the table, or a multiple of it that the video was made for."""
        return max(1, round(self.index.mean_rate / self.fps)) * self.fps

    @cached_property
    def _drift(self) -> str:
        """A video rate that is steady and not the table's, in words; empty if the rate is not the cause of a drift."""
        rate, seconds = self.index.mean_rate, self.index.seconds
        apart = abs(rate / self._nominal_rate - 1)
        steady = np.abs(seconds - np.linspace(0, seconds[-1], len(seconds))).max() * self.fps < CLEAR
        if not steady or len(seconds) * apart < EXACT:
            return ""
        return (
            f"the video runs at {rate:.5g} frames per second and info.json has {self.fps:g} (half a frame after "
            f"{int(LIMIT / apart)} frames)"
        )


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of the values of `times` (ascending) that are nearest to each of `wanted`."""
    if len(times) == 1:
        return np.zeros(len(wanted), dtype=np.int64)
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    return np.where(wanted - times[after - 1] <= times[after] - wanted, after - 1, after)
