"""Values of state or command that leap away for some frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.neighbours import median_of, neighbours
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE, SWITCHES, Episode, abruptness
from hf_ptr.detection.windows import EVENT

# Frames on either side that a value is compared with; a spike of up to this many frames is seen.
REACH = 2
# A spike is this many times as large as what the neighbourhood moves by itself, plus `STEADY` units and this share of
# the value, and larger than in the dataset's own episodes: this quantile over the episodes of the largest, times the
# factor. Up to three episodes in ten may be faulty.
STANDS_OUT = 2.0
STEADY, OF_VALUE = 0.2, 0.03
USUAL, FACTOR = 0.67, 1.6
LEAST_LEAP = 0.25
# The leaps of an episode count in full if one of them is `1 + VARY / sqrt(n)` times the limit, and less below: the
# largest of n episodes vary.
VARY = 1.2
# A dimension moves in bursts where a third of the episodes have a leap of `BURST` units and its largest steps make up
# more than this share of its variation. The limit is larger there, and rises up to `SWITCHES`, where it only switches.
BURST, BURSTS = 0.5, 0.45
# Steps longer than this many frames' time: a velocity or an increment of a late frame is larger by as much.
LATE = 1.3


class _Spikes(Check):
    """The spikes of one signal: the root of the sum of the squares of all leaping values of an episode."""

    unit = "std"
    signal: ClassVar[Literal["state", "action"]]
    material = 0.6

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._scale = getattr(context.signals, self.signal)
        self._used = moving_dimensions(self._scale)
        largest = [self._leaps(view)[1].max(axis=0, initial=0.0) for view in context.views]
        self._vary = VARY / np.sqrt(len(context.views))
        usual = np.maximum(STANDS_OUT, FACTOR * np.quantile(largest, USUAL, axis=0))
        self._usual = usual * self._bursts([getattr(view.episode, self.signal) for view in context.views])

    def _bursts(self, values: list[np.ndarray]) -> np.ndarray:
        """How many times larger the limit is where a dimension moves in bursts, `(n,)`; values `(T, d)` by episode."""
        moving = [each[:, self._used] for each in values]
        leaps = np.quantile([np.abs(_leap(each)[0]).max(axis=0, initial=0.0) for each in moving], USUAL, axis=0)
        share = np.where(leaps > BURST, abruptness(moving), 0.0)
        return (SWITCHES - BURSTS) / np.maximum(SWITCHES - np.maximum(share, BURSTS), 1e-3)

    def measure(self, view: View) -> Measurement:
        away, ratio = self._leaps(view)
        excess = np.where(ratio > self._usual, away, 0.0)
        first, stop = runs_of(np.any(excess > 0, axis=1))
        # The first and last frames are often stale.
        inner = (first >= STALE) & (stop <= len(excess) - STALE)
        first, stop = first[inner], stop[inner]
        if not len(first):
            return {EVENT: Candidates.events([], [], [])}
        spikes = [excess[one:end] for one, end in zip(first, stop, strict=True)]
        # Single small leaps are common. Several together, in time or over dimensions, are not.
        clearest = max((ratio[one:end] / self._usual).max() for one, end in zip(first, stop, strict=True))
        together = np.sqrt(sum((spike**2).sum() for spike in spikes)) * min((clearest - 1) / self._vary, 1.0)
        largest = [spike.max(axis=0).argmax() for spike in spikes]
        return {EVENT: Candidates.events(first, stop, np.full(len(first), together), largest)}

    def _leaps(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """
        How far each value is from those around it, `(T, n)` units, and over what its neighbourhood moves; 0 for less
        than `LEAST_LEAP`.
        """
        away, moved = _leap(getattr(view.episode, self.signal)[:, self._used])
        size = self._followed(view, away)
        gap = np.diff(view.episode.seconds) * self.context.fps > LATE
        size[np.concatenate([gap, [False]]) | np.concatenate([[False], gap])] = 0.0
        size[size < LEAST_LEAP] = 0.0
        return size, size / moved

    def _followed(self, view: View, away: np.ndarray) -> np.ndarray:
        """The size of leaps `(T, n)`, without what the robot followed."""
        del view
        return np.abs(away)

    def cause(self, found: Found) -> str:
        what = "states" if self.signal == "state" else "commands"
        name = self._scale.names[self._used[int(found.detail)]]
        together = f"root of the sum of squares of all leaping values: {found.amount:.1f} standard deviations"
        return f"{what} of {name} leap for a moment; {together}"

    def plants(self) -> Sequence[Plant]:
        what = "state" if self.signal == "state" else "commands"
        return [Plant(f"three spikes of one standard deviation in the {what}", self._add, partial=False)]

    def _add(self, episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        values = getattr(episode, self.signal).copy()
        if len(values) <= 4 * REACH:
            return None
        for _ in range(3):
            at = int(rng.integers(STALE, len(values) - STALE - 1))
            chosen = busy_dimensions(values, getattr(context.signals, self.signal), rng)
            if not len(chosen):
                return None
            values[at : at + rng.integers(1, 3), chosen] += rng.choice([-1.0, 1.0])
        return episode.with_signals(**{self.signal: values})


class ActionSpikes(_Spikes):
    """
    Commands that leap away for one or two frames.

    Why it harms: one leap sets the scale of a normalisation by extremes, and is learned as a jerk.

    Example: a packet of the teleoperation was lost, and a zero was recorded.

    What to do: replace the values by their neighbours', or leave the frames out.

    Limits: a single leap below 0.6 standard deviations is not reported, nor are leaps that are small next to the
    motion around them or next to the largest of most episodes, those of a dimension that moves in bursts, and those in
    the first and last frames.
    """

    name, signal = "action/spikes", "action"
    reads = ("state", "action")
    action = "replace these actions by their neighbours', or leave the frames out"

    def _followed(self, view: View, away: np.ndarray) -> np.ndarray:
        model, size = self.context.model, np.abs(away)
        unexpected = _leap(view.episode.action[:, model.dimensions] - view.prediction.expected)[0]
        column = np.searchsorted(self._used, model.dimensions)
        both = np.minimum(size[:, column], np.abs(unexpected))
        size[:, column] = np.where(away[:, column] * unexpected > 0, both, 0.0)
        return size


class StateSpikes(_Spikes):
    """
    States that leap away for one or two frames.

    Why it harms: one leap sets the scale of a normalisation by extremes; the policy sees a position that never was.

    Example: an encoder wraps, or a packet was lost.

    What to do: replace the values by their neighbours', or leave the frames out.

    Limits: a single leap below 0.6 standard deviations is not reported, nor are leaps that are small next to the
    motion around them or next to the largest of most episodes, those of a dimension that moves in bursts, and those in
    the first and last frames.
    """

    name, signal = "state/spikes", "state"
    reads = ("state",)
    action = "replace these states by their neighbours', or leave the frames out"


def _leap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each of values `(T, n)` is from the median of those around it, and how much these move by themselves."""
    near = neighbours(values, REACH)
    middle = median_of(near)
    by_itself = np.abs(near[-1] - near[0]) + median_of([np.abs(one - middle) for one in near])
    return values - middle, by_itself + STEADY + OF_VALUE * np.abs(middle)
