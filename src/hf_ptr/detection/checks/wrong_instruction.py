"""Episodes whose motion belongs to the instruction of other episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.instructions import same_text
from hf_ptr.detection.planting import resample
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Points of an episode, from its first to its last frame, that describe its motion.
POINTS = 12
# Directions of greatest variance that are used, and episodes for each.
DIRECTIONS = 40
EPISODES = 4
# Folds, and fits, each with little weight on the episodes that the fit before took for those of another task.
FOLDS = 10
FITS = 3
DOUBTED = 0.02
# Share of the covariances between directions that is taken for chance.
SHRINKAGE = 0.1
# Least episodes of a task that is compared with others.
LEAST_EPISODES = 4
# Two tasks can be distinguished where the medians of their margins are so many deviations apart.
APART = 3.0
# Probability that the episodes of two instructions for one motion are on two sides so clearly.
CHANCE = 0.003
# The outer side of the margins of a task that sets their deviation: its quantile and that in normal deviations.
OUTER, OUTER_DEVIATIONS = 0.1, 1.28
# Share of the way from the stated task to the other one.
NEARER = 0.6
# Largest distance from the other task, as a share of that from the stated one: an unusual episode is far from both.
CLEAR = 0.7
# An episode of the other task is as far from its centre as the others are: robust deviations.
TYPICAL = 6.0


@dataclass(frozen=True)
class _Pair:
    """
    How far the margins of two tasks are apart.

    Attributes:
        own, other: median margin of the episodes of the stated and of the other task.
        spread: robust standard deviation of the margin in the stated task.
        apart: whether the two tasks can be distinguished.
    """

    own: float
    other: float
    spread: float
    apart: bool


class WrongInstruction(Check):
    """
    An episode whose motion belongs to the instruction of other episodes.

    Why it harms: the policy learns to do something else than it is told.

    Example: the operator was told the next task, and the recorder kept the instruction of the last one.

    What to do: correct the instruction, or leave the episode out.

    Limits: tasks whose motions are alike cannot be distinguished; nothing is reported between them. A task needs four
    episodes. An instruction without any episodes of its motion in the dataset is not recognised as wrong.
    """

    name, unit = "language/wrong", "std"
    rule = True
    action = "correct the instruction, or leave the episode out"
    material = 5.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._class = same_text(signals.tasks)
        labels = np.array([self._class[episode.task] for episode in signals.episodes])
        names, counts = np.unique(labels, return_counts=True)
        self._names = names[counts >= LEAST_EPISODES]
        described = np.stack([self._describe(episode) for episode in signals.episodes])
        self._middle = described.mean(axis=0)
        self._size = np.maximum(described.std(axis=0), 1e-9)
        standard = (described - self._middle) / self._size
        directions = np.linalg.svd(standard, full_matrices=False)[2]
        self._directions = directions[: max(2, min(DIRECTIONS, len(labels) // EPISODES))].T
        points = standard @ self._directions
        self._fold = np.zeros(len(labels), dtype=np.int64)
        for name in names:
            members = np.flatnonzero(labels == name)
            self._fold[members] = np.arange(len(members)) % FOLDS
        weight = np.ones(len(labels))
        for _ in range(FITS):
            self._fits = [self._fit(points, labels, np.where(self._fold == fold, 0, weight)) for fold in range(FOLDS)]
            self._distances = np.stack(
                [self._distance(point, fold) for point, fold in zip(points, self._fold.tolist(), strict=True)]
            )
            self._nearest = self._names[self._distances.argmin(axis=1)]
            weight = np.where(self._nearest == labels, 1.0, DOUBTED)
        self._labels = labels
        self._pairs: dict[tuple[int, int], _Pair] = {}

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        classes = same_text(context.signals.tasks)
        counts = np.bincount([classes[episode.task] for episode in context.signals.episodes])
        if (counts >= LEAST_EPISODES).sum() < 2:
            return f"fewer than two instructions have {LEAST_EPISODES} episodes each"
        return None

    def measure(self, view: View) -> Measurement:
        episode = view.episode
        own = np.flatnonzero(self._names == self._class[episode.task])
        if not len(own):
            return {EVENT: Candidates.events([], [], [])}
        if episode.state is self.context.signals.episodes[episode.position].state:
            distance = self._distances[episode.position]
        else:
            point = (self._describe(episode) - self._middle) / self._size @ self._directions
            distance = self._distance(point, int(self._fold[episode.position]))
        other = np.where(np.arange(len(distance)) == own[0], np.inf, distance).argmin()
        amount = self._amount(distance, int(own[0]), int(other))
        detail = float(self._names[other])
        return {EVENT: Candidates.events([0], [len(episode)], [amount], [detail])}

    def cause(self, found: Found) -> str:
        return f"the motion is that of {self.context.signals.tasks[int(found.detail)]!r}"

    def plants(self) -> Sequence[Plant]:
        return [Plant("the instruction of another task", _relabel, partial=False)]

    def _describe(self, episode: Episode) -> np.ndarray:
        signals = self.context.signals
        values = np.concatenate(
            [episode.state[:, signals.state.moves], episode.action[:, signals.action.moves]], axis=1
        )
        path = resample(values, np.linspace(0, len(values) - 1, POINTS))
        return np.append(path.reshape(-1), np.log(len(values)))

    def _fit(self, points: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the tasks `(C, k)`, and the inverse of the covariance within them, `(k, k)`."""
        centres = np.stack(
            [np.average(points[labels == name], axis=0, weights=weight[labels == name] + 1e-9) for name in self._names]
        )
        used = np.isin(labels, self._names)
        rest = points[used] - centres[np.searchsorted(self._names, labels[used])]
        covariance = (rest * weight[used, None]).T @ rest / max(weight[used].sum() - len(centres), 1.0)
        variance = np.diag(np.diag(covariance))
        least = 1e-6 * np.trace(covariance) / len(covariance) + 1e-12
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance + least * np.eye(len(covariance))
        return centres, np.linalg.inv(covariance)

    def _distance(self, point: np.ndarray, fold: int) -> np.ndarray:
        """Distance of an episode from each task, `(C,)`."""
        centres, inverse = self._fits[fold]
        difference = point - centres
        return np.sqrt(np.einsum("cd,de,ce->c", difference, inverse, difference))

    def _amount(self, distance: np.ndarray, own: int, other: int) -> float:
        """Deviations of the stated task between an episode and that task, if it is one of the other task."""
        pair = self._pair(own, other)
        margin = distance[own] - distance[other]
        usual = self._distances[self._labels == self._names[other], other]
        middle = np.median(usual)
        typical = middle + TYPICAL * max(1.4826 * np.median(np.abs(usual - middle)), 0.1 * middle)
        way = (margin - pair.own) / max(pair.other - pair.own, 1e-9)
        clear = way >= NEARER and distance[other] < CLEAR * distance[own]
        if not pair.apart or not clear or distance[other] > typical:
            return 0.0
        return max(0.0, (margin - pair.own) / pair.spread)

    def _pair(self, own: int, other: int) -> _Pair:
        if (own, other) not in self._pairs:
            margins = [
                self._distances[members, own] - self._distances[members, other]
                for members in (self._labels == self._names[own], self._labels == self._names[other])
            ]
            middle = [float(np.median(part)) for part in margins]
            # Wrong instructions widen the sides that face each other.
            spread = [
                (middle[0] - float(np.quantile(margins[0], OUTER))) / OUTER_DEVIATIONS,
                (float(np.quantile(margins[1], 1 - OUTER)) - middle[1]) / OUTER_DEVIATIONS,
            ]
            gap = middle[1] - middle[0]
            # The deviation of a few alike episodes is too small.
            least = 0.05 * abs(gap) + 1e-9
            # If two instructions have the same motion, an episode is equally likely under both. One of a third motion
            # says nothing about the two.
            one, two = self._names[own], self._names[other]
            of_these = np.isin(self._labels, [one, two]) & np.isin(self._nearest, [one, two])
            wrong = int((self._labels != self._nearest)[of_these].sum())
            chance = float(binom.cdf(wrong, of_these.sum(), 0.5))
            apart = gap > APART * max(sum(spread) / 2, least) and chance < CHANCE
            self._pairs[own, other] = _Pair(middle[0], middle[1], max(spread[0], least), apart)
        return self._pairs[own, other]


def _relabel(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    classes = same_text(context.signals.tasks)
    tasks = [one.task for one in context.signals.episodes]
    counts = np.bincount([classes[task] for task in tasks])
    others = [
        task
        for task in np.unique(tasks)
        if counts[classes[task]] >= LEAST_EPISODES and classes[task] != classes[episode.task]
    ]
    return replace(episode, task=int(rng.choice(others))) if others else None
