"""The response model: the command that the recorded state around a frame implies, cross-fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hf_ptr.detection.distances import DISTANCES, LEAST_SIGMA, mean_square
from hf_ptr.detection.majority import LEAST_SHARE, majority, sound_quantile
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
# Standard deviation of a command around its prediction where the model knows the state, units.
KNOWN = 0.25
# Episodes whose residual is this many times the median count little in the second fit.
OUTLYING = 3.0
# Episodes of a task below which a majority of them shows no rule.
FEW = 8
# Seconds that a command may be held by a sender with a lower rate.
LONGEST_HOLD = 0.15
# Share of the commands at either end that are beyond the usual range of a dimension.
EXTREME = 0.002
# Sound frames from which an episode counts in the fit.
LEAST_ROWS = 12
# Times that the model is fitted, each with the weights of the fit before.
FITS = 3
# Share of the episodes that a fit begins with, and fits to such a share.
HALF, HALVES = 0.55, 3
# Share of the episodes of a task below which they do not follow a rule of the other tasks; mean square error, as a
# multiple of that of the first half of them, up to which they follow the rule of this half; weight of the other tasks.
STRANGE, LIKE, OTHERS = 0.15, 4.0, 0.02
# Folds of the search for the rule.
SEARCH_FOLDS = 3
# Scales of the tail beyond which an episode does not follow the rule.
SEPARATE = 5.0
# Share of a dimension's variance that the model must explain for its residual to mean anything.
EXPLAINED = 0.8


class Limits(NamedTuple):
    """Lowest and highest usual commands, each `(d,)`, units."""

    lowest: np.ndarray
    highest: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """
    The commands of an episode and the ones that its state implies, over the dimensions that the model predicts.

    Attributes:
        action, expected: `(T, d)`, units, within the limits.
        limits: `(d,)` lowest and highest usual commands, units.
    """

    action: np.ndarray
    expected: np.ndarray
    limits: Limits


class Implied(NamedTuple):
    """
    What the state of an episode implies, over the dimensions that the model predicts.

    Attributes:
        expected: `(T, d)` commands, units.
        share: `(T, d)` in [0, 1], how far they hold where the model has seen few such states.
    """

    expected: np.ndarray
    share: np.ndarray


class ResponseModel:
    """
    Ridge regression from the state around a frame to its command, fitted without the episode that it predicts.

    Args:
        signals: the episodes.

    Attributes:
        dimensions: `(d,)` action dimensions that move and have more than two values.
        names: their names.
        limits: `(d,)` lowest and highest usual commands, units.
        unit, centre: `(d,)`, raw values of one unit and of zero.
        known: `(d,)` bool, dimensions that the model explains well enough to judge a command.
        sigma: `(d,)` robust standard deviation of the residual, units.
        follows: `(E, d)` bool, episodes that follow the rule of most in a dimension.
        explained: `(d,)` share of a dimension's variance that the model explains in the median episode.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.dimensions = moving_dimensions(signals.action)
        commands = np.concatenate([episode.action[:, self.dimensions] for episode in signals.episodes])
        lowest, highest = np.quantile(commands, [EXTREME, 1 - EXTREME], axis=0)
        self.limits = Limits(lowest, highest)
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
        self.follows, strange = self._follows(gram, cross, features, targets, tasks, enough)
        follows = self.follows
        usual_share = np.maximum(follows.mean(axis=0), 1e-9)
        self._trust = {
            task: np.minimum(follows[tasks == task].mean(axis=0) / usual_share, 1.0)
            for task in np.unique(tasks).tolist()
        }
        weight = np.ones(follows.shape)
        for _ in range(FITS):
            self._weights = self._solve(gram, cross, weight * follows, self._fold)
            self._own: dict[int, np.ndarray] = {}
            for task, dimensions in strange.items():
                near = np.where(tasks == task, 1.0, OTHERS)[:, None]
                own = self._solve(gram, cross, weight * follows * near, self._fold)
                self._own[task] = np.where(dimensions, own, self._weights)
            residual = [
                target - part @ self._own.get(task, self._weights)[fold]
                for target, part, task, fold in zip(targets, features, tasks.tolist(), self._fold, strict=True)
            ]
            # Damage is of an episode and a dimension: the rest of the episode keeps its weight.
            error = mean_square(residual)
            usual = np.maximum(sound_quantile(error[enough], follows[enough], 0.5), LEAST_SIGMA**2)
            weight = np.where(error > OUTLYING * usual, (OUTLYING * usual / np.maximum(error, 1e-12)) ** 2, 1.0)
        # The covariance of the coefficients after the data, with a spread of one unit a unit before them. Episodes
        # that do not follow the rule of a dimension say nothing about it. A dataset without dimensions has one rule.
        rules, rule = np.unique(np.column_stack([follows, np.ones(count, bool)]), axis=1, return_inverse=True)
        self._rule = rule[:-1]
        self._unknown = np.stack([self._covariances(gram, rule) for rule in rules.T])
        judged = [number for number in np.flatnonzero(enough) if len(residual[number])]
        self.sigma = np.full(len(self.dimensions), LEAST_SIGMA)
        self.explained = np.zeros(len(self.dimensions))
        self._company = np.ones(self.follows.shape)
        if judged:
            follows = follows[judged]
            scale = np.array([1.4826 * np.median(np.abs(residual[number]), axis=0) for number in judged])
            self.sigma = np.maximum(sound_quantile(scale, follows, 0.5), LEAST_SIGMA)
            share = np.array(
                [
                    1 - np.mean(residual[number] ** 2, axis=0) / np.maximum(targets[number].var(axis=0), 0.04)
                    for number in judged
                ]
            )
            self.explained = np.clip(sound_quantile(share, follows, 0.5), 0.0, 1.0)
            self._company = _of_others(
                np.clip(share / np.maximum(self.explained, 0.1), 0.0, 1.0), np.array(judged), tasks
            )
        self.known = self.explained > EXPLAINED

    def _covariances(self, gram: np.ndarray, rule: np.ndarray) -> np.ndarray:
        """The covariance of the coefficients of each fold, `(folds, p, p)`, after the episodes of a rule `(E,)`."""
        size = np.outer(self._size, self._size) / KNOWN**2
        return np.stack(
            [
                np.linalg.inv(np.eye(len(size)) + np.tensordot(rule & (self._fold != fold), gram, 1) * size)
                for fold in range(int(self._fold.max()) + 1)
            ]
        )

    def _features(self, episode: Episode) -> np.ndarray:
        state = episode.state[:, self._states]
        around = _at(state, episode.seconds, self._times)
        steps = np.diff(around, axis=1).reshape(len(state), -1)
        intercept = np.broadcast_to(
            self._tasks == (episode.task if len(self._tasks) > 1 else self._tasks[0]), (len(state), len(self._tasks))
        )
        return np.concatenate([around[:, self._now], steps, intercept], axis=1)

    def _follows(
        self,
        gram: np.ndarray,
        cross: np.ndarray,
        features: list[np.ndarray],
        targets: list[np.ndarray],
        tasks: np.ndarray,
        enough: np.ndarray,
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """
        Which episodes follow the rule of most in each dimension, `(E, d)` bool, and by task the dimensions `(d,)`
        bool with a rule of its own.

        A fault of two fifths of the episodes bends a fit to all, so that no residual is large. A fit to a half that
        agrees is not bent: the search begins with those of the same gain, offset or lag, or of the smallest errors.
        """
        fold = self._fold % SEARCH_FOLDS
        follows = np.ones((len(features), len(self.dimensions)), dtype=bool)

        def fit(weight: np.ndarray) -> list[np.ndarray]:
            return _residuals(features, targets, self._solve(gram, cross, weight.astype(float), fold), fold)

        first = fit(follows)
        doubtful = np.any(
            [
                _quantile_known(distance_of(targets, first, tasks), 1 - LEAST_SHARE) > doubt
                for distance_of, doubt, _ in DISTANCES
            ],
            axis=0,
        )
        searched = np.flatnonzero(doubtful)
        if not len(searched):
            return follows, {}
        cross, targets, first = (
            cross[:, :, searched],
            [t[:, searched] for t in targets],
            [r[:, searched] for r in first],
        )
        variance = np.array([target.var(axis=0) if len(target) else np.ones(len(searched)) for target in targets])
        least, best = np.full(len(searched), np.inf), follows[:, searched]
        for distance_of, _, _ in DISTANCES:
            distance = distance_of(targets, first, tasks)
            for _ in range(HALVES):
                half = ~(distance > _quantile_known(distance[enough], HALF)) & enough[:, None]
                residual = fit(half)
                distance = distance_of(targets, residual, tasks)
            unexplained = np.sort((mean_square(residual) / np.maximum(variance, 0.04))[enough], axis=0)
            trimmed = unexplained[: max(1, round(HALF * len(unexplained)))].mean(axis=0)
            best, least = np.where(trimmed < least, half, best), np.minimum(trimmed, least)
        for _ in range(HALVES - 1):
            residual = fit(best)
            best = np.all(
                [
                    _with_near(distance := distance_of(targets, residual, tasks), majority(distance, tail, SEPARATE))
                    for distance_of, _, tail in DISTANCES
                ],
                axis=0,
            )
        strange = {}
        halves = _first_of_tasks(mean_square(fit(best)), best, tasks, enough)
        for task in np.unique(tasks[halves.any(axis=1)]).tolist():
            own = tasks == task
            error = mean_square(fit(np.where(own[:, None], halves, OTHERS * best)))
            usual = sound_quantile(error[own], halves[own], 0.5)
            dimensions = halves[own].any(axis=0)
            best[own] |= dimensions & (error[own] <= LIKE * usual)
            strange[task] = np.zeros(follows.shape[1], dtype=bool)
            strange[task][searched] = dimensions
        follows[:, searched] = best
        return follows, strange

    def _solve(self, gram: np.ndarray, cross: np.ndarray, weight: np.ndarray, fold: np.ndarray) -> np.ndarray:
        """The coefficients of each fold, `(folds, p, d)`; dimensions with the same weights are solved at once."""
        groups: dict[bytes, list[int]] = {}
        for dimension in range(weight.shape[1]):
            groups.setdefault(weight[:, dimension].tobytes(), []).append(dimension)
        folds = int(fold.max()) + 1
        solved = np.zeros((folds, gram.shape[1], weight.shape[1]))
        for members in groups.values():
            w = weight[:, members[0]]
            total, right = np.tensordot(w, gram, 1), np.tensordot(w, cross[:, :, members], 1)
            for number in range(folds):
                out = np.flatnonzero(fold == number)
                left = total - np.tensordot(w[out], gram[out], 1)
                penalty = np.full(len(left), RIDGE * np.trace(left) / len(left))
                # A task without episodes in the fold needs a little.
                penalty[-len(self._tasks) :] *= 1e-3
                left[np.diag_indices(len(left))] += penalty + 1e-9
                solved[number][:, members] = np.linalg.solve(
                    left, right - np.tensordot(w[out], cross[out][:, :, members], 1)
                )
        return solved

    def trust(self, episode: Episode) -> np.ndarray:
        """
        The share of the episodes of a task that follow the rule of each dimension, relative to that of all tasks,
        `(d,)`, at most 1.

        The fewer they are, the less the model knows of the task, and the larger are its errors. In a task of a few
        episodes, the others count by the share of their commands that the rule explains.
        """
        return self._trust[episode.task] * self._company[episode.position]

    def implied(self, episode: Episode) -> Implied:
        """What the state of an episode, or of a copy of it with a planted fault, implies by the model of its fold."""
        features = np.clip(self._features(episode), -self._limit, self._limit)
        fold = self._fold[episode.position]
        expected = (features / self._size) @ self._own.get(episode.task, self._weights)[fold]
        # Where the fold has seen no such state, the model cannot know: nothing is held against the command.
        unknown = np.stack(
            [((features @ covariance[fold]) * features).sum(axis=1) for covariance in self._unknown], axis=1
        )
        return Implied(expected, KNOWN / np.sqrt(KNOWN**2 + unknown[:, self._rule]))

    def limits_with(self, episodes: Sequence[Episode], share: float) -> Limits:
        """The limits of the commands if those of some episodes were this share of all."""
        commands = np.concatenate([episode.action[:, self.dimensions] for episode in episodes])
        lowest, highest = np.quantile(commands, [EXTREME / share, 1 - EXTREME / share], axis=0)
        return Limits(np.minimum(self.limits.lowest, lowest), np.maximum(self.limits.highest, highest))

    def predict(self, episode: Episode, implied: Implied | None = None, limits: Limits | None = None) -> Prediction:
        """The prediction for an episode, from what its state implies if that is known, within given limits."""
        expected, share = self.implied(episode) if implied is None else implied
        limits = self.limits if limits is None else limits
        # Beyond the usual commands a linear model knows nothing, and a robot at its limit is not at fault.
        expected, action = (np.clip(each, *limits) for each in (expected, episode.action[:, self.dimensions]))
        expected = _over_holds(expected, episode.action, max(2, round(LONGEST_HOLD * self.signals.fps)))
        return Prediction(action, action - share * (action - expected), limits)


def _of_others(share: np.ndarray, judged: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """
    The mean of the values `(n, d)` of the judged episodes over the others of their task, `(E, d)`; 0 without others.

    It is 1 in a task of many episodes, where a majority shows the rule, and where most episodes are of tasks of few,
    so that a task means nothing.
    """
    company = np.ones((len(tasks), share.shape[1]))
    own = tasks[judged]
    small = [rows for rows in (np.flatnonzero(own == task) for task in np.unique(own)) if len(rows) < FEW]
    if 2 * sum(map(len, small)) >= len(own):
        return company
    for rows in small:
        total = share[rows].sum(axis=0)
        company[judged[rows]] = (total - share[rows]) / max(len(rows) - 1, 1)
    return company


def _residuals(
    features: list[np.ndarray], targets: list[np.ndarray], weights: np.ndarray, fold: np.ndarray
) -> list[np.ndarray]:
    """Residuals of each episode, `(T, d)`, with the coefficients of its fold."""
    return [
        target - part @ weights[number] for part, target, number in zip(features, targets, fold.tolist(), strict=True)
    ]


def _with_near(distance: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """Those of the episodes `(E, d)` that follow a rule, and those that are nearer to them than to most others."""
    known = np.isfinite(distance)
    middle, other = sound_quantile(distance, follows & known, 0.5), sound_quantile(distance, ~follows & known, 0.5)
    # Where none is apart the middle of the others is NaN, and nothing is nearer.
    return follows | (distance <= (middle + other) / 2)


def _quantile_known(values: np.ndarray, share: float) -> np.ndarray:
    """A quantile `(d,)` of the values `(E, d)` of each dimension that are no NaN; NaN without any."""
    return sound_quantile(values, np.isfinite(values), share)


def _first_of_tasks(error: np.ndarray, follows: np.ndarray, tasks: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """
    In the tasks where hardly any episode follows the rule of a dimension, the half with the smallest errors, `(E, d)`.

    A task has a response of its own where the robot pushes or carries something. The rule of the other tasks is not
    its rule, and shows none of its faults.
    """
    first = np.zeros(follows.shape, dtype=bool)
    for task in np.unique(tasks[enough]):
        rows = np.flatnonzero(enough & (tasks == task))
        if len(rows) >= FEW:
            strange = follows[rows].mean(axis=0) < STRANGE
            first[rows] = strange & (error[rows] <= np.quantile(error[rows], HALF, axis=0))
    return first


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
