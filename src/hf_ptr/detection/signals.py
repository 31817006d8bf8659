"""State, command and camera images of an episode as signals in comparable units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hf_ptr.data.edited_copies import WHOLE, CutEnds
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.features import component_names
from hf_ptr.detection.cameras import Track
from hf_ptr.errors import InputError
from hf_ptr.utils.printable import printable

# Share of a dimension's values within `EXTREMES` of its range from the lowest or highest that makes it two-valued.
TWO_VALUED_SHARE = 0.9
# Quantile of a dimension's values that ends its range, and of the episodes' spreads that ends the usual ones: single
# damaged frames must not set a scale.
EXTENT = 0.998
USUAL = 0.95
EXTREMES = 0.05
# Dimensions of one feature may have several physical units: those whose spreads differ by less than this factor from
# the next have the same.
SAME_UNIT = 30.0
# Spread of a dimension below which it rests, and least unit, as shares of the spread of the dimensions that move most
# (upper quartile) among those with the same physical unit: the sag of a resting arm is not a motion.
RESTING = 0.1
LEAST_UNIT = 0.25
# A dimension switches between levels if this share of its variation is in its largest steps, `LARGEST` of all.
SWITCHES = 0.7
LARGEST = 0.05
# Frames at both ends of an episode that are left out: first frames are often stale, with a leap after them.
STALE = 3
# Variance of the steps of a dimension, as a multiple of its variance, above which it is noise; white noise has 2.
NOISE_ONLY = 0.7
# Square of the median absolute step of an episode, as a share of its variance, above which it is noise; of white noise
# 0.9.
NOISE_STEPS = 0.5


@dataclass(frozen=True)
class Episode:
    """
    The signals of an episode of T frames.

    Attributes:
        state: `(T, ds)` float64, in units of [`Scale`].
        action: `(T, da)` float64, in units of [`Scale`].
        seconds: `(T,)` float64, increasing times of the frames.
        stretch: `(T,)` int64, number of the stretch without a pause of the recording.
        position: position of the episode in the table; a planted fault keeps that of its original.
        task: index of its instruction.
        cameras: by camera, its reduced images; a camera without images in this episode is left out.
        cut: whether frames of the recording before its start, and after its end, were left out in an edited copy.
    """

    state: np.ndarray
    action: np.ndarray
    seconds: np.ndarray
    stretch: np.ndarray
    position: int
    task: int
    cameras: Mapping[str, Track] = field(default_factory=dict)
    cut: CutEnds = WHOLE

    def __len__(self) -> int:
        return len(self.state)

    def with_signals(
        self,
        state: np.ndarray | None = None,
        action: np.ndarray | None = None,
        cameras: Mapping[str, Track] | None = None,
    ) -> Episode:
        """A copy with other signals of the same length, for planted faults."""
        return replace(
            self,
            state=self.state if state is None else state,
            action=self.action if action is None else action,
            cameras=self.cameras if cameras is None else cameras,
        )

    def take(self, rows: np.ndarray, seconds: np.ndarray) -> Episode:
        """The episode of the given rows, with new times; for planted faults that change the length. No cameras."""
        return replace(
            self,
            state=self.state[rows],
            action=self.action[rows],
            seconds=seconds,
            stretch=np.zeros(len(rows), dtype=np.int64),
            cameras={},
        )


@dataclass(frozen=True)
class Scale:
    """
    Centre and unit of each dimension of a feature, and how it behaves.

    Attributes:
        centre: `(d,)`, the median of all frames.
        unit: `(d,)`, the typical standard deviation within an episode.
        moves: `(d,)` bool, False where the dimension is constant, rests, or is noise only.
        two_valued: `(d,)` bool, True for dimensions that switch between values, such as a gripper command.
        names: names of the dimensions.
    """

    centre: np.ndarray
    unit: np.ndarray
    moves: np.ndarray
    two_valued: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: np.ndarray, starts: np.ndarray, lengths: np.ndarray, names: Sequence[str]) -> Scale:
        """The scale of a column `(F, d)` with the given episodes."""
        column = np.asarray(column, dtype=np.float64)
        parts = [column[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        parts = [part[STALE:-STALE] if len(part) > 4 * STALE else part for part in parts]
        spread = np.array([part.std(axis=0) for part in parts])
        changes = [np.diff(part, axis=0) if len(part) > 1 else part * 0 for part in parts]
        steps = np.array([change.var(axis=0) for change in changes])
        middle = np.median(spread, axis=0)
        # A joint that moves in a few episodes only has a median of zero; it still has a unit. A glitch has none.
        usual = np.minimum(spread, np.quantile(spread, USUAL, axis=0, method="lower"))
        # Where a joint rests with some noise in most episodes, the noise of the others is not a motion either.
        typical = np.array([np.median(np.abs(change), axis=0) for change in changes])
        usual = np.where((typical**2 > NOISE_STEPS * spread**2) & (middle > 0), np.minimum(usual, middle), usual)
        unit = np.maximum(middle, 0.7 * np.sqrt((usual**2).mean(axis=0)))
        reference = _reference(unit)
        low, high = np.quantile(column, [1 - EXTENT, EXTENT], axis=0)
        extent = high - low
        rough = np.median(steps, axis=0) > NOISE_ONLY * np.maximum(np.median(spread**2, axis=0), 1e-300)
        at_ends = ((column < low + EXTREMES * extent) | (column > high - EXTREMES * extent)).mean(axis=0)
        two_valued = (extent > 0) & ((at_ends > TWO_VALUED_SHARE) | (abruptness(parts) > SWITCHES))
        moves = (unit > RESTING * reference) & (extent > 0) & (~rough | two_valued)
        unit = np.where(unit > 0, np.maximum(unit, LEAST_UNIT * reference), 1.0)
        return cls(np.median(column, axis=0), unit, moves, two_valued, tuple(names))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values `(T, d)` in units, relative to the centre."""
        return (np.asarray(values, dtype=np.float64) - self.centre) / self.unit


@dataclass(frozen=True)
class Signals:
    """
    The episodes of a dataset as signals.

    Attributes:
        episodes: one for each episode of the table.
        state, action: scales of the two features.
        fps: frames per second.
        tasks: the instructions.
        episode_index: ids of the episodes.
        cameras: names of the cameras that were read, those without any images among them.
    """

    episodes: tuple[Episode, ...]
    state: Scale
    action: Scale
    fps: float
    tasks: tuple[str, ...]
    episode_index: tuple[int, ...]
    cameras: tuple[str, ...] = ()

    @classmethod
    def of_table(cls, table: EpisodeTable, state_feature: str, action_feature: str) -> Signals:
        """
        The signals of a table.

        Args:
            table: the episodes.
            state_feature, action_feature: names of vector features, several joined by commas.

        Raises:
            InputError: a feature is missing or not finite, or the table has one episode only.
        """
        if table.num_episodes < 2:
            raise InputError(
                f"dataset {table.source!r} has one episode; faults are found by comparison, which needs several"
            )
        table.require_finite([state_feature, action_feature])
        columns = [np.asarray(table.feature(name), dtype=np.float64) for name in (state_feature, action_feature)]
        scales = [
            Scale.of(column, table.starts, table.lengths, _names(table, name, column.shape[1]))
            for name, column in zip((state_feature, action_feature), columns, strict=True)
        ]
        state, action = (scale.apply(column) for scale, column in zip(scales, columns, strict=True))
        episodes = []
        for position, (start, length) in enumerate(zip(table.starts.tolist(), table.lengths.tolist(), strict=True)):
            rows = slice(start, start + length)
            seconds = table.seconds[rows]
            if (np.diff(seconds) <= 0).any():
                seconds = np.arange(length) / table.fps
            task = int(table.task_index[start])
            episode = Episode(state[rows], action[rows], seconds, table.stretch[rows], position, task)
            cut = table.cut_ends.get(int(table.episode_index[position]), episode.cut)
            episodes.append(replace(episode, cut=cut))
        ids = tuple(table.episode_index.tolist())
        return cls(tuple(episodes), scales[0], scales[1], table.fps, tuple(table.tasks), ids)

    def with_tracks(self, tracks: Sequence[Mapping[str, Track]], read: Sequence[str] = ()) -> Signals:
        """
        A copy with the images of every episode.

        Args:
            tracks: the images, as `read_tracks` returns them.
            read: names of the cameras that were read; those with images need not be named.
        """
        episodes = [replace(each, cameras=track) for each, track in zip(self.episodes, tracks, strict=True)]
        names = dict.fromkeys([*map(printable, read), *(name for track in tracks for name in track)])
        return replace(self, episodes=tuple(episodes), cameras=tuple(sorted(names)))

    def frames(self, seconds: float, least: int = 1) -> int:
        """A duration in frames, at least `least`."""
        return max(least, round(seconds * self.fps))


def _reference(unit: np.ndarray) -> np.ndarray:
    """Upper quartile of the units among the dimensions with the same physical unit, `(d,)`."""
    reference = np.ones_like(unit)
    order = np.argsort(unit)
    order = order[unit[order] > 0]
    breaks = np.flatnonzero(unit[order][1:] > SAME_UNIT * unit[order][:-1]) + 1
    for members in np.split(order, breaks):
        if len(members):
            reference[members] = np.quantile(unit[members], 0.75)
    return reference


def abruptness(parts: Sequence[np.ndarray]) -> np.ndarray:
    """
    Share of the variation that is in the largest steps of each dimension in the typical episode, `(d,)`.

    Args:
        parts: values `(T, d)` of each episode.
    """
    shares = []
    for part in parts:
        steps = np.sort(np.abs(np.diff(part, axis=0)), axis=0)
        largest = steps[len(steps) - max(1, round(LARGEST * len(steps))) :].sum(axis=0)
        total = steps.sum(axis=0)
        shares.append(np.where(total > 0, largest / np.maximum(total, 1e-300), np.nan))
    moved = np.isfinite(shares).any(axis=0)
    return np.nanmedian(np.where(moved, shares, 0.0), axis=0)


def _names(table: EpisodeTable, feature: str, width: int) -> list[str]:
    """Names of the dimensions of a feature: those of the dataset, or their numbers."""
    names: list[str] = []
    for part in (part.strip().partition("@-")[0] for part in feature.split(",")):
        known = component_names(table.features.get(part, {}))
        names += known or [str(number) for number in range(table.columns[part].shape[1])]
    return [printable(name) for name in names] if len(names) == width else [str(number) for number in range(width)]
