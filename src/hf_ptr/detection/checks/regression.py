"""Ways that go back and are driven again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import Episode

# Seconds between the states that a way is made of, so that the noise of a sensor is not a way; and the distance of its
# points, units.
SPAN = 0.1
STEP = 0.1
# Distance up to which two points are the same place, and distance of a place in between from which it was left.
NEAR = 0.2
AWAY = 0.5
# Units that a gripper, which switches between two values, adds to a place.
SWITCH = 0.5
# Most points of a way: a longer way has fewer ones.
MOST_POINTS = 400


class Regression(Note):
    """
    A way that goes back to an earlier place of the episode and is driven again, more than in the other episodes.

    Why it harms: the policy learns a failed attempt, or to go back, from states that should lead on.

    Example: the arm misses the hole, withdraws, and approaches again.

    What to do: watch the episode; cut the failed attempt out, or keep it to teach recovery.

    Limits: where the other episodes of the task go back as well, nothing is reported. A second attempt on another way
    is not seen.
    """

    name, unit = "progress/regression", "std"
    reads = ("state", "action")
    action = "watch these frames; cut the failed attempt out, or keep it to teach recovery"
    material = 0.5

    def __init__(self, context: Context) -> None:
        signals = context.signals
        self._used = moving_dimensions(signals.state)
        self._switches = [np.flatnonzero(scale.moves & scale.two_valued) for scale in (signals.state, signals.action)]
        self._span = signals.frames(SPAN)
        super().__init__(context)

    def events(self, episode: Episode) -> Sequence[Event]:
        step, place, frame = self._way(episode)
        if len(place) < 3:
            return []
        square = (place**2).sum(axis=1)
        distance = np.sqrt(np.maximum(square[:, None] + square - 2 * place @ place.T, 0.0))
        index = np.arange(len(place))
        earlier = index[None] < index[:, None]
        # The last place before each point that is away from it.
        away = np.where((distance >= AWAY) & earlier, index[None], -1).max(axis=1)
        again = (distance < NEAR) & (index[None] < away[:, None])
        back = again.any(axis=1)
        if not back.any():
            return []
        first = np.where(again, index[None], len(place)).min(axis=1)
        turned = int(first.argmin())
        return [Event(int(frame[first[turned]]), int(frame[turned]) + 1, float(back.sum() * step))]

    def _way(self, episode: Episode) -> tuple[float, np.ndarray, np.ndarray]:
        """Distance of the points of a way, the points `(n, d)`, units, and their frames `(n,)`."""
        arm = episode.state[:, self._used] / np.sqrt(max(len(self._used), 1))
        switches = [episode.state[:, self._switches[0]], episode.action[:, self._switches[1]]]
        values = np.concatenate([arm, *(SWITCH * part for part in switches)], axis=1)
        rows = np.arange(0, len(values), self._span)
        values = values[rows]
        length = np.concatenate([[0.0], np.cumsum(np.sqrt((np.diff(values, axis=0) ** 2).sum(axis=1)))])
        step = max(STEP, length[-1] / MOST_POINTS)
        at = np.arange(0, length[-1], step)
        points = np.stack([np.interp(at, length, column) for column in values.T], axis=1) if len(at) else values[:0]
        return step, points, np.round(np.interp(at, length, rows)).astype(np.int64)

    def cause(self, found: Found) -> str:
        return f"the robot goes back and drives {found.amount:.1f} standard deviations of its way again"
