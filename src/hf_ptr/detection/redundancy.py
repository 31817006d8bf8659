"""How each dimension of the state follows from the others, and from the command."""

from __future__ import annotations

import numpy as np

from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.signals import Episode, Signals
from hf_ptr.detection.windows import inner_rows

# Ridge penalty as a share of each dimension's variance.
RIDGE = 1e-3
FOLDS = 10
# Times that the model is fitted; episodes whose residual is this many times the median count less in the next fit.
FITS = 3
OUTLYING = 4.0
# Share of a dimension's variance that the others must explain for its residual to mean anything, and least variance.
EXPLAINED = 0.8
LEAST_VARIANCE = 0.04
# Least size of a residual, in units.
LEAST_SIGMA = 0.05
# Speeds are differences over so many seconds to either side.
SPEED = 0.1


class StateModel:
    """
    Linear regressions of each dimension of the state on all others and the speeds, within a task, fitted without the
    episode that they are applied to.

    All regressions follow from one covariance matrix: with its inverse `P`, the residual of dimension j is
    `(P x)_j / P_jj`.

    Args:
        signals: the episodes.
        commands: whether the command belongs to the others.

    Attributes:
        dimensions: `(d,)` state dimensions that move, have more than two values, and follow from the others.
        sigma: `(d,)` typical size of their residuals.
    """

    def __init__(self, signals: Signals, commands: bool) -> None:
        self._states = moving_dimensions(signals.state)
        self._commands = np.flatnonzero(signals.action.moves) if commands else np.empty(0, dtype=np.int64)
        self._reach = signals.frames(SPEED)
        episodes = signals.episodes
        inner = [inner_rows(self._values(episode)) for episode in episodes]
        means = np.stack([part.mean(axis=0) for part in inner])
        tasks = np.array([episode.task for episode in episodes])
        self._centre = {int(task): np.median(means[tasks == task], axis=0) for task in np.unique(tasks)}
        self._middle = np.median(means, axis=0)
        inner = [part - self._centre[episode.task] for part, episode in zip(inner, episodes, strict=True)]
        self._fold = np.arange(len(episodes)) % min(len(episodes), FOLDS)
        weight = np.ones(len(episodes))
        for _ in range(FITS):
            self._residual = self._fit(inner, weight)
            square = np.array(
                [
                    ((part @ self._residual[fold]) ** 2).mean(axis=0)
                    for part, fold in zip(inner, self._fold, strict=True)
                ]
            )
            usual = np.maximum(np.median(square, axis=0), 1e-8)
            weight = 1 / np.maximum((square / usual).max(axis=1, initial=0.0) / OUTLYING, 1.0)
        variance = np.median([part[:, : len(self._states)].var(axis=0) for part in inner], axis=0)
        self._known = 1 - usual / np.maximum(variance, LEAST_VARIANCE) > EXPLAINED
        self.dimensions = self._states[self._known]
        self.sigma = np.maximum(np.sqrt(usual[self._known]), LEAST_SIGMA)

    def residual(self, episode: Episode) -> np.ndarray:
        """What the others do not explain in each dimension, `(T, d)`, by the model of the episode's fold."""
        values = self._values(episode) - self._centre.get(episode.task, self._middle)
        return values @ self._residual[self._fold[episode.position]][:, self._known]

    def of_shift(self, episode: Episode) -> np.ndarray:
        """
        The residuals that a shift of one dimension by one unit makes in all, `(d, d)`: row j is those of a shift of
        dimension j.
        """
        rows = np.flatnonzero(self._known)
        return self._residual[self._fold[episode.position]][np.ix_(rows, rows)]

    def _values(self, episode: Episode) -> np.ndarray:
        state = episode.state[:, self._states]
        # A command leads by more where the robot moves faster.
        before, after = (np.clip(np.arange(len(state)) + step * self._reach, 0, len(state) - 1) for step in (-1, 1))
        speed = state[after] - state[before]
        return np.concatenate([state, speed, episode.action[:, self._commands]], axis=1)

    def _fit(self, parts: list[np.ndarray], weight: np.ndarray) -> list[np.ndarray]:
        """For each fold the matrix that makes residuals of values, `(D, d)`."""
        width = parts[0].shape[1]
        grams = np.zeros((int(self._fold.max()) + 1, width, width))
        frames = np.zeros(len(grams))
        for part, fold, w in zip(parts, self._fold.tolist(), weight, strict=True):
            grams[fold] += w * part.T @ part
            frames[fold] += w * len(part)
        found = []
        for own, count in zip(grams, frames, strict=True):
            covariance = (grams.sum(axis=0) - own) / max(frames.sum() - count, 1e-9)
            covariance[np.diag_indices(width)] *= 1 + RIDGE
            covariance[np.diag_indices(width)] += 1e-9
            inverse = np.linalg.inv(covariance)
            found.append((inverse / np.diag(inverse))[:, : len(self._states)])
        return found
