"""A long rest at the end of an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Share of the usual speed below which the robot rests, and seconds over which the speed is measured.
SLOW = 0.1
SPAN = 0.2


class IdleEnd(Check):
    """
    A rest at the end that is much longer than in the other episodes.

    Why it harms: the policy learns to stop, and stops in the middle of a task that looks like the end.

    Example: the operator forgot to stop the recording.

    What to do: cut the episode where the motion ends.

    Limits: a rest that most episodes have is the dataset's convention, and is not reported.
    """

    name, unit = "time/idle_end", "seconds"
    reads = ("state",)
    action = "cut the episode at the first of these frames"
    material = 1.0

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if context.signals.state.moves.any() else "no dimension of the state moves"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = np.flatnonzero(context.signals.state.moves)
        self._gap = context.signals.frames(SPAN, 2)
        speeds = np.concatenate([self._speed(episode.state) for episode in context.signals.episodes])
        self._slow = SLOW * float(np.quantile(speeds, 0.75)) if len(speeds) else 0.0

    def _speed(self, state: np.ndarray) -> np.ndarray:
        # Over a fifth of a second, so that the noise of the sensor is not motion.
        gap = min(self._gap, max(1, len(state) - 1))
        return np.sqrt(((state[gap:, self._used] - state[:-gap, self._used]) ** 2).mean(axis=1)) / gap

    def measure(self, view: View) -> Measurement:
        length, seconds = len(view.episode), view.episode.seconds
        moving = np.flatnonzero(self._speed(view.episode.state) > self._slow)
        rest = min(int(moving[-1]) + self._gap, length - 1) if len(moving) else 0
        return {EVENT: Candidates.events([rest], [length], [float(seconds[-1] - seconds[rest])])}

    def cause(self, found: Found) -> str:
        return f"the robot rests for the last {found.amount:.1f} s"

    def plants(self) -> Sequence[Plant]:
        return [Plant("a rest of 3 s at the end", _rest, partial=False)]


def _rest(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del rng
    added = context.signals.frames(3.0)
    rows = np.concatenate([np.arange(len(episode)), np.full(added, len(episode) - 1)])
    rest = episode.seconds[-1] + np.arange(1, added + 1) / context.fps
    return episode.take(rows, np.concatenate([episode.seconds, rest]))
