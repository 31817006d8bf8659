"""Commands of one dimension that stand still while the robot moves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.majority import majority, sound_quantile
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT, WHOLE

# Seconds over which a speed is measured, so that the noise of a sensor is not motion; and share of the usual speed of
# a dimension below which it stands still, or deviations of a speed that is noise only.
SPAN = 0.1
STILL = 0.15
NOISE_SPEEDS = 3.0
# White noise of a dimension from the lower quartile of its second differences.
LOWER = 0.25
NOISE_OF_LOWER = 1 / (0.319 * 6**0.5)
# The shortest stretch that counts, seconds and frames.
SHORTEST = 0.25
LEAST_FRAMES = 6
# Episodes, as a share, whose longest stretch is a usual one.
USUAL = 0.75
# Least scale of the tail of the longest stretches, in logarithms.
LEAST_TAIL = 0.15
# Share of the moving frames in which a dimension stands still throughout, and the least amount of that which counts:
# it is less ambiguous than a rest.
THROUGHOUT = 0.8
MATERIAL_THROUGHOUT = 10.0
# Least motion that the state implies, units, and share of a dimension's variance that the model must explain.
LEAST_WAY = 0.25
EXPLAINED = 0.5


class _Stretch(NamedTuple):
    """Frames `[first, stop)` in which a dimension stands still; in `moving` of them the robot moves."""

    first: int
    stop: int
    dimension: int
    moving: int


class Dead(Check):
    """
    A dimension of the command that stands still while the state implies that it moves.

    The amount is a product: the distance between the lowest and the highest command that the state implies, less that
    of the recorded ones, in usual errors of an implied command; times the duration, in durations that this dimension
    usually stands still for. Either alone also occurs without a fault.

    Why it harms: the policy learns to hold this joint in the middle of a motion.

    Example: a joint of the leader arm was not recorded, or its cable came loose for a while.

    What to do: leave these frames out, or the dimension in this episode.

    Limits: a dimension that rests anyway may be dead without a trace, and so may one whose command the state does not
    reflect. A command at its limit is not judged.
    """

    name, unit = "action/dead", "times usual"
    reads = ("state", "action")
    action = "leave these frames out, or restore this dimension of the actions"
    material = 15.0
    # Both factors are relative to what is usual in this dimension, so that sound amounts hardly vary.
    least_tail = 0.08

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._span = context.signals.frames(SPAN, 2)
        self._least = context.signals.frames(SHORTEST, LEAST_FRAMES)
        self._judged = np.flatnonzero(context.model.explained > EXPLAINED)
        commands = [view.prediction.action for view in context.views]
        speeds = np.concatenate([self._speed(values) for values in commands])
        rough = [
            np.quantile(np.abs(np.diff(values, n=2, axis=0)), LOWER, axis=0) for values in commands if len(values) > 2
        ]
        width = len(context.model.dimensions)
        noise = NOISE_OF_LOWER * np.median(rough, axis=0) if rough else np.zeros(width)
        usual = np.quantile(speeds, 0.75, axis=0) if len(speeds) else np.zeros(width)
        self._still = np.maximum(STILL * usual, NOISE_SPEEDS * np.sqrt(2 / self._span) * noise)
        longest = np.zeros((len(context.views), width))
        for row, view in enumerate(context.views):
            for stretch in self._stretches(view):
                longest[row, stretch.dimension] = max(longest[row, stretch.dimension], stretch.moving)
        longest = np.maximum(longest, self._least)
        # Dead dimensions of two fifths of the episodes are not usual.
        follows = majority(np.log(longest), LEAST_TAIL)
        self._usual = sound_quantile(longest, follows, USUAL)

    def material_at(self, scale: str) -> float:
        return MATERIAL_THROUGHOUT if scale == WHOLE else super().material_at(scale)

    def _smooth(self, values: np.ndarray) -> np.ndarray:
        return uniform_filter1d(values, self._span, axis=0, mode="nearest") if values.size else values

    def _speed(self, values: np.ndarray) -> np.ndarray:
        smooth = self._smooth(values)
        return np.abs(smooth[self._span :] - smooth[: -self._span])

    def _stretches(self, view: View) -> list[_Stretch]:
        action = view.prediction.action
        begin, end = (STALE, len(action) - STALE) if len(action) > 4 * STALE else (0, len(action))
        still = self._speed(action) <= self._still
        moving = np.concatenate([[0], np.cumsum(view.moving)])
        found = []
        for dimension in self._judged.tolist():
            for first, last in zip(*runs_of(still[:, dimension]), strict=True):
                first, stop = max(int(first), begin), min(int(last) + self._span, end)
                if stop - first >= self._least:
                    found.append(_Stretch(first, stop, dimension, int(moving[stop] - moving[first])))
        return found

    def measure(self, view: View) -> Measurement:
        model = self.context.model
        action, expected = self._smooth(view.prediction.action), self._smooth(view.prediction.expected)
        stretches = self._stretches(view)
        amount, ways = np.zeros((2, len(stretches), max(action.shape[1], 1)))
        for row, (first, stop, dimension, moving) in enumerate(stretches):
            # The expected command changes before and after the others begin to move.
            inner = slice(first + self._span // 2, stop - self._span // 2)
            # Predictions end where the usual commands end, so that they stand still with a command at its limit.
            way = np.ptp(expected[inner, dimension])
            missed = way - np.ptp(action[inner, dimension])
            if missed >= LEAST_WAY:
                amount[row, dimension] = missed / model.sigma[dimension] * moving / self._usual[dimension]
                ways[row, dimension] = way
        found = {
            EVENT: Candidates.events([one.first for one in stretches], [one.stop for one in stretches], amount, ways)
        }
        if stretches and view.windows:
            # Rests within the episodes of a task may be a habit; that other episodes of it never move, is none.
            all_of_it = np.array([one.moving for one in stretches]) >= THROUGHOUT * view.moving.sum()
            whole = np.where(all_of_it[:, None], amount, 0.0)
            detail = np.take_along_axis(ways, whole.argmax(axis=0)[None], axis=0)
            found[WHOLE] = Candidates.of(view.windows[-1], whole.max(axis=0)[None], detail)
        return found

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
