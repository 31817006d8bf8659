"""Commands of one dimension that stand still while the robot moves it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter1d

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# Seconds over which a speed is measured, so that the noise of a sensor is not motion; and share of the usual speed of
# a dimension below which it stands still.
SPAN = 0.1
STILL = 0.15
# The shortest stretch that counts, seconds and frames.
SHORTEST = 0.25
LEAST_FRAMES = 6
# Usual errors of an expected command that are not motion.
ERRORS = 3.0


class Dead(Check):
    """
    A dimension of the command that stands still while the state implies that it moves.

    The amount is what the state implies beyond what was commanded: the distance between the lowest and the highest
    implied command, less that of the recorded ones and three usual errors.

    Why it harms: the policy learns to hold this joint in the middle of a motion.

    Example: a joint of the leader arm was not recorded, or its cable came loose for a while.

    What to do: leave these frames out, or the dimension in this episode.

    Limits: a dimension that rests anyway may be dead without a trace. A command at its limit is not judged.
    """

    name, unit = "action/dead", "std"
    reads = ("state", "action")
    action = "leave these frames out, or restore this dimension of the actions"
    material = 0.6
    # The model errs more in some episodes than its usual error says.
    least_tail = 0.2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._span = context.signals.frames(SPAN, 2)
        self._least = context.signals.frames(SHORTEST, LEAST_FRAMES)
        every = np.concatenate([self._speed(view.prediction.action) for view in context.views])
        self._still = STILL * np.quantile(every, 0.75, axis=0) if len(every) else np.zeros(every.shape[1])

    def _smooth(self, values: np.ndarray) -> np.ndarray:
        return uniform_filter1d(values, self._span, axis=0, mode="nearest") if values.size else values

    def _speed(self, values: np.ndarray) -> np.ndarray:
        smooth = self._smooth(values)
        return np.abs(smooth[self._span :] - smooth[: -self._span])

    def measure(self, view: View) -> Measurement:
        model, action = self.context.model, view.prediction.action
        expected = self._smooth(view.prediction.expected)
        begin, end = (STALE, len(action) - STALE) if len(action) > 4 * STALE else (0, len(action))
        still = self._speed(action) <= self._still
        found: list[tuple[int, int, int, float, float]] = []
        for dimension in np.flatnonzero(model.known).tolist():
            for first, last in zip(*runs_of(still[:, dimension]), strict=True):
                first, stop = max(first, begin), min(last + self._span, end)
                # The expected command changes before and after the others begin to move.
                inner = slice(first + self._span // 2, stop - self._span // 2)
                if stop - first < self._least:
                    continue
                # Predictions end where the usual commands end, so that they stand still with a command at its limit.
                way = np.ptp(expected[inner, dimension])
                surplus = way - np.ptp(self._smooth(action[inner, dimension])) - ERRORS * model.sigma[dimension]
                found.append((first, stop, dimension, max(0.0, surplus), way))
        amount, ways = np.zeros((2, len(found), max(action.shape[1], 1)))
        for number, (_, _, dimension, surplus, way) in enumerate(found):
            amount[number, dimension], ways[number, dimension] = surplus, way
        return {EVENT: Candidates.events([row[0] for row in found], [row[1] for row in found], amount, ways)}

    def cause(self, found: Found) -> str:
        name = self.context.model.names[found.dimension]
        return f"commands of {name} stand still while the robot moves by {found.detail:.2f} standard deviations"

    def plants(self) -> Sequence[Plant]:
        return [Plant("one dimension dead", _stop)]


def _stop(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    action = episode.action.copy()
    chosen = busy_dimensions(action, context.signals.action, rng)
    action[:, chosen] = action[0, chosen]
    return episode.with_signals(action=action) if len(chosen) else None
