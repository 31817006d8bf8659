"""The response model: the command that the recorded state around a frame implies, cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.signals import Episode, Signals
from hf_ptr.detection.windows import inner_rows

# Times of the state around a command, seconds: a robot follows its command, so mostly later ones.
TIMES = (-0.1, -0.05, 0.0, 0.025, 0.05, 0.1, 0.2, 0.35)
# Ridge penalty as a share of the mean of the Gram matrix's diagonal.
RIDGE = 1e-3
# Tasks above which there is one intercept for all.
MOST_TASKS = 64
# Folds that a large dataset is fitted in; a small one leaves out one episode at a time.
FOLDS = 10
# Least standard deviation of a residual, in units: nothing smaller is a fault of an action.
LEAST_SIGMA = 0.05
# Standard deviation of a command around its prediction where the model knows the state, units.
KNOWN = 0.25
# Episodes whose residual is this many times the median count little in the second fit.
OUTLYING = 3.0
# Seconds that a command may be held by a sender with a lower rate.
LONGEST_HOLD = 0.15
# Share of the commands at either end that are beyond the usual range of a dimension.
EXTREME = 0.002
# Sound frames from which an episode counts in the fit.
LEAST_ROWS = 12
# Times that the model is fitted, each with the weights of the fit before.
FITS = 3
# Share of a dimension's variance that the model must explain for its residual to mean anything.
EXPLAINED = 0.8


@dataclass(frozen=True)
class Prediction:
    """
    The commands of an episode and the ones that its state implies, over the dimensions that the model predicts.

    Attributes:
        action, expected: `(T, d)`, units, within the usual range.
    """

    action: np.ndarray
    expected: np.ndarray


class ResponseModel:
    """
    Ridge regression from the state around a frame to its command, fitted without the episode that it predicts.

    Args:
        signals: the episodes.

    Attributes:
        dimensions: `(d,)` action dimensions that move and have more than two values.
        names: their names.
        lowest, highest: `(d,)`, usual range of the commands, units.
        unit, centre: `(d,)`, raw values of one unit and of zero.
        known: `(d,)` bool, dimensions that the model explains well enough to judge a command.
        sigma: `(d,)` robust standard deviation of the residual, units.
        explained: `(d,)` share of a dimension's variance that the model explains in the median episode.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.dimensions = moving_dimensions(signals.action)
        commands = np.concatenate([episode.action[:, self.dimensions] for episode in signals.episodes])
        self.lowest, self.highest = np.quantile(commands, [EXTREME, 1 - EXTREME], axis=0)
        self.names = tuple(signals.action.names[dimension] for dimension in self.dimensions)
        self.unit, self.centre = signals.action.unit[self.dimensions], signals.action.centre[self.dimensions]
        self._states = np.flatnonzero(signals.state.moves)
        frames = np.unique(np.round(np.array(TIMES) * signals.fps).astype(int))
        self._now = int(np.flatnonzero(frames == 0)[0])
        self._times = frames / signals.fps
        tasks = np.array([episode.task for episode in signals.episodes])
        self._tasks = np.unique(tasks) if len(np.unique(tasks)) <= MOST_TASKS else tasks[:1] * 0 - 1
        features = [inner_rows(self._features(episode)) for episode in signals.episodes]
        targets = [inner_rows(episode.action[:, self.dimensions]) for episode in signals.episodes]
        # A leap of a damaged frame must neither set the scale of the steps nor bend the fit.
        steps = slice(len(self._states), features[0].shape[1] - len(self._tasks))
        self._limit = np.full(features[0].shape[1], np.inf)
        self._limit[steps] = (
            1.5 * np.quantile(np.abs(np.concatenate([part[:, steps] for part in features])), 0.995, axis=0) + 1e-6
        )
        sound = [(np.abs(part) <= self._limit).all(axis=1) for part in features]
        features = [part[kept] for part, kept in zip(features, sound, strict=True)]
        targets = [part[kept] for part, kept in zip(targets, sound, strict=True)]
        # An episode of a few frames, or of damaged ones, says nothing about the others.
        enough = np.array([len(part) >= LEAST_ROWS for part in features])
        enough |= not enough.any()
        # Levels and increments differ in size by orders of magnitude; the ridge needs them alike.
        squares = [(part**2).mean(axis=0) for part, kept in zip(features, enough, strict=True) if kept and len(part)]
        self._size = np.sqrt(np.mean(squares, axis=0)) + 1e-9 if squares else np.ones(features[0].shape[1])
        self._size[steps.stop :] = 1.0
        features = [part / self._size for part in features]
        gram = np.stack([part.T @ part for part in features])
        cross = np.stack([part.T @ target for part, target in zip(features, targets, strict=True)])
        count = len(features)
        # Episodes of one task are in different folds, in whatever order the tasks were recorded.
        self._fold = np.empty(count, dtype=np.int64)
        self._fold[np.argsort(tasks, kind="stable")] = np.arange(count) % min(count, FOLDS)
        weight = np.ones((count, len(self.dimensions)))
        for _ in range(FITS):
            self._weights = self._solve(gram, cross, weight)
            residual = [
                target - part @ self._weights[fold]
                for part, target, fold in zip(features, targets, self._fold, strict=True)
            ]
            # Damage is of an episode and a dimension: the rest of the episode keeps its weight.
            error = np.array([(part**2).sum(axis=0) / max(len(part), 1) for part in residual]).reshape(count, -1)
            usual = np.maximum(np.median(error[enough], axis=0), LEAST_SIGMA**2)
            weight = np.where(error > OUTLYING * usual, (OUTLYING * usual / np.maximum(error, 1e-12)) ** 2, 1.0)
        # The covariance of the coefficients after the data, with a spread of one unit a unit before them.
        total = gram.sum(axis=0) * np.outer(self._size, self._size)
        self._unknown = np.stack(
            [
                np.linalg.inv(
                    np.eye(len(total))
                    + (total - gram[self._fold == fold].sum(axis=0) * np.outer(self._size, self._size)) / KNOWN**2
                )
                for fold in range(int(self._fold.max()) + 1)
            ]
        )
        judged = [(residual[number], targets[number]) for number in np.flatnonzero(enough) if len(residual[number])]
        self.sigma = np.full(len(self.dimensions), LEAST_SIGMA)
        self.explained = np.zeros(len(self.dimensions))
        if judged:
            scale = [1.4826 * np.median(np.abs(part), axis=0) for part, _ in judged]
            self.sigma = np.maximum(np.median(scale, axis=0), LEAST_SIGMA)
            share = [1 - np.mean(part**2, axis=0) / np.maximum(target.var(axis=0), 0.04) for part, target in judged]
            self.explained = np.clip(np.median(share, axis=0), 0.0, 1.0)
        self.known = self.explained > EXPLAINED

    def _features(self, episode: Episode) -> np.ndarray:
        state = episode.state[:, self._states]
        around = _at(state, episode.seconds, self._times)
        steps = np.diff(around, axis=1).reshape(len(state), -1)
        intercept = np.broadcast_to(
            self._tasks == (episode.task if len(self._tasks) > 1 else self._tasks[0]), (len(state), len(self._tasks))
        )
        return np.concatenate([around[:, self._now], steps, intercept], axis=1)

    def _solve(self, gram: np.ndarray, cross: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The coefficients of each fold, `(folds, p, d)`; dimensions with the same weights are solved at once."""
        groups: dict[bytes, list[int]] = {}
        for dimension in range(weight.shape[1]):
            groups.setdefault(weight[:, dimension].tobytes(), []).append(dimension)
        folds = int(self._fold.max()) + 1
        solved = np.zeros((folds, gram.shape[1], weight.shape[1]))
        for members in groups.values():
            w = weight[:, members[0]]
            total, right = np.tensordot(w, gram, 1), np.tensordot(w, cross[:, :, members], 1)
            for fold in range(folds):
                out = np.flatnonzero(self._fold == fold)
                left = total - np.tensordot(w[out], gram[out], 1)
                penalty = np.full(len(left), RIDGE * np.trace(left) / len(left))
                # A task without episodes in the fold needs a little.
                penalty[-len(self._tasks) :] *= 1e-3
                left[np.diag_indices(len(left))] += penalty + 1e-9
                solved[fold][:, members] = np.linalg.solve(
                    left, right - np.tensordot(w[out], cross[out][:, :, members], 1)
                )
        return solved

    def predict(self, episode: Episode) -> Prediction:
        """The prediction for an episode, or for a copy of it with a planted fault, by the model of its fold."""
        features = np.clip(self._features(episode), -self._limit, self._limit)
        fold = self._fold[episode.position]
        # Beyond the usual commands a linear model knows nothing, and a robot at its limit is not at fault.
        expected = np.clip((features / self._size) @ self._weights[fold], self.lowest, self.highest)
        action = np.clip(episode.action[:, self.dimensions], self.lowest, self.highest)
        # Where the fold has seen no such state, the model cannot know: nothing is held against the command.
        unknown = ((features @ self._unknown[fold]) * features).sum(axis=1)
        share = KNOWN / np.sqrt(KNOWN**2 + unknown)
        expected = _over_holds(expected, episode.action, max(2, round(LONGEST_HOLD * self.signals.fps)))
        return Prediction(action, action - share[:, None] * (action - expected))


def _at(values: np.ndarray, seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values `(T, d)` at each frame time plus each of `times` `(k,)`, interpolated: `(T, k, d)`."""
    wanted = np.clip(seconds[:, None] + times, seconds[0], seconds[-1])
    high = np.clip(np.searchsorted(seconds, wanted), 1, max(len(seconds) - 1, 1))
    low = np.maximum(high - 1, 0)
    high = np.minimum(high, len(seconds) - 1)
    share = (wanted - seconds[low]) / np.maximum(seconds[high] - seconds[low], 1e-9)
    return values[low] + (values[high] - values[low]) * np.clip(share, 0.0, 1.0)[..., None]


def _over_holds(expected: np.ndarray, action: np.ndarray, longest: int) -> np.ndarray:
    """
    The mean of the expected commands `(T, d)` over the frames of a held command, `(T, da)`, if at most `longest`.

    A command that is sent at a lower rate than the recording's stands for the time until the next.
    """
    run = np.concatenate([[0], np.cumsum((np.diff(action, axis=0) != 0).any(axis=1))])
    length = np.bincount(run)
    held = (length > 1) & (length <= longest)
    if not held.any() or not expected.shape[1]:
        return expected
    total = np.stack([np.bincount(run, column) for column in expected.T], axis=1)
    return np.where(held[run][:, None], (total / length[:, None])[run], expected)
