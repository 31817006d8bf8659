"""Speeds of signals, and the stretches in which they rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import uniform_filter1d

from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import Episode, Scale, Signals

# Seconds over which a speed is measured, so that the noise of a sensor is not motion.
SPAN = 0.2
# Share of the usual speed below which a signal rests.
SLOW = 0.1


def moving_dimensions(scale: Scale) -> np.ndarray:
    """The dimensions that move and do not only switch, `(n,)`."""
    return np.flatnonzero(scale.moves & ~scale.two_valued)


def speeds(values: np.ndarray, span: int) -> np.ndarray:
    """Root mean square over the dimensions of values `(T, d)` of their speed over `span` frames, `(T - span,)`."""
    if len(values) <= span or not values.shape[1]:
        return np.zeros(max(len(values) - span, 0))
    return np.sqrt(((values[span:] - values[:-span]) ** 2).mean(axis=1)) / span


class Motion:
    """
    How fast the robot usually moves.

    Args:
        signals: the episodes.

    Attributes:
        used: `(n,)` dimensions of the state that move.
        span: frames over which speeds are measured.
        usual: speed of a robot that moves: the upper quartile of all frames, units a frame.
    """

    def __init__(self, signals: Signals) -> None:
        self.used = moving_dimensions(signals.state)
        self.span = signals.frames(SPAN, 2)
        every = np.concatenate([self.speeds(episode.state) for episode in signals.episodes])
        self.usual = float(np.quantile(every, 0.75)) if len(every) else 0.0

    def speeds(self, state: np.ndarray) -> np.ndarray:
        """Speeds of a state `(T, ds)`, `(T - span,)`."""
        return speeds(state[:, self.used], self.span)

    def rests(self, state: np.ndarray) -> list[tuple[int, int]]:
        """First frame of each rest of a state `(T, ds)`, and the frame after its last."""
        slow = self.speeds(state) < SLOW * self.usual
        return [(int(first), int(stop) + self.span) for first, stop in zip(*runs_of(slow), strict=True)]


class Moving:
    """
    Which frames move: the state or the command changes.

    Args:
        signals: the episodes.
    """

    def __init__(self, signals: Signals) -> None:
        self._used = moving_dimensions(signals.state), moving_dimensions(signals.action)
        self._span = signals.frames(SPAN, 2)
        every = zip(*[self._speeds(episode) for episode in signals.episodes], strict=True)
        together = [np.concatenate(part) for part in every]
        self._least = [SLOW * np.quantile(each, 0.75) if len(each) else 0.0 for each in together]

    def frames(self, episode: Episode) -> np.ndarray:
        """Whether each frame moves, `(T,)` bool."""
        moving = np.zeros(len(episode), dtype=bool)
        for speed, least in zip(self._speeds(episode), self._least, strict=True):
            for first, stop in zip(*runs_of(speed > least), strict=True):
                moving[first : stop + self._span] = True
        return moving

    def _speeds(self, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
        signals = episode.state[:, self._used[0]], episode.action[:, self._used[1]]
        # The noise of commands is not motion either.
        state, action = (uniform_filter1d(each, self._span, axis=0) if each.size else each for each in signals)
        return speeds(state, self._span), speeds(action, self._span)


def medians_by_task(episodes: Sequence[Episode], values: ArrayLike) -> dict[int, np.ndarray]:
    """The medians of values `(E,)` or `(E, k)` over the episodes of each task: `()` or `(k,)` by task."""
    tasks, table = np.array([episode.task for episode in episodes]), np.array(values)
    return {task: np.median(table[tasks == task], axis=0) for task in np.unique(tasks).tolist()}
