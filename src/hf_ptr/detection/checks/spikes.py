"""Values of state or command that leap away for some frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.neighbours import median_of, neighbours
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# Frames on either side that a value is compared with; a spike of up to this many frames is seen.
REACH = 3
# A spike is this many times as large as what the neighbourhood moves by itself.
STANDS_OUT = 2.0
LEAST_LEAP = 0.25
# Standard deviation of the residual, units, below which the state shows a command well.
SHOWN_SIGMA = 0.08


class _Spikes(Check):
    """The spikes of one signal: the root of the sum of the squares of all of an episode's."""

    unit = "std"
    signal: ClassVar[Literal["state", "action"]]
    material = 0.8

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._scale = getattr(context.signals, self.signal)
        self._used = np.flatnonzero(self._scale.moves & ~self._scale.two_valued)

    def measure(self, view: View) -> Measurement:
        values = self._values(view)[:, self._used]
        length = len(values)
        if length <= 4 * REACH or not len(self._used):
            return {EVENT: Candidates.events([], [], [])}
        near = neighbours(values, REACH)
        middle = median_of(near)
        away = np.abs(values - middle)
        moved = np.abs(near[-1] - near[0]) + median_of([np.abs(one - middle) for one in near])
        excess = np.where(away > STANDS_OUT * moved, away, 0.0)
        # The first and last frames are often stale, and have no neighbours.
        excess[:STALE] = excess[length - STALE :] = 0.0
        excess[excess < LEAST_LEAP] = 0.0
        leaps = np.any(excess > 0, axis=1)
        first, stop = runs_of(leaps)
        if not len(first):
            return {EVENT: Candidates.events([], [], [])}
        largest = np.array([excess[one:end].max(axis=0) for one, end in zip(first, stop, strict=True)])
        # Single small leaps are common. Several together, in time or over dimensions, are not.
        together = np.full(len(first), np.sqrt((largest**2).sum()))
        return {EVENT: Candidates.events(first, stop, together, largest.argmax(axis=1))}

    def _values(self, view: View) -> np.ndarray:
        """The signal `(T, d)`."""
        return getattr(view.episode, self.signal)

    def cause(self, found: Found) -> str:
        what = "state" if self.signal == "state" else "commands"
        name = self._scale.names[self._used[int(found.detail)]]
        return f"{what} of {name} leaps for a moment; together the leaps have {found.amount:.1f} standard deviations"

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
    Commands that leap away for one to three frames.

    Why it harms: one leap sets the scale of a normalisation by extremes, and is learned as a jerk.

    Example: a packet of the teleoperation was lost, and a zero was recorded.

    What to do: replace the values by their neighbours', or leave the frames out.

    Limits: a single leap below a standard deviation, and those in the first and last frames, are not reported.
    """

    name, signal = "action/spikes", "action"

    def _values(self, view: View) -> np.ndarray:
        # Where the state shows a command well, a spike is a leap that the robot did not follow.
        values, model = view.episode.action.copy(), self.context.model
        shown = model.known & (model.sigma < SHOWN_SIGMA)
        values[:, model.dimensions[shown]] -= view.prediction.expected[:, shown]
        return values

    action = "replace these actions by their neighbours', or leave the frames out"


class StateSpikes(_Spikes):
    """
    States that leap away for one to three frames.

    Why it harms: one leap sets the scale of a normalisation by extremes; the policy sees a position that never was.

    Example: an encoder wraps, or a packet was lost.

    What to do: replace the values by their neighbours', or leave the frames out.

    Limits: a single leap below a standard deviation, and those in the first and last frames, are not reported.
    """

    name, signal = "state/spikes", "state"
    reads = ("state",)
    action = "replace these states by their neighbours', or leave the frames out"
