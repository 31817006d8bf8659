"""The episodes that follow the rule, where a minority of up to nearly half is clearly apart from them."""

from __future__ import annotations

import numpy as np

# Quantiles that show middle and spread of the sound values even if two fifths are apart, the factor from their
# distance to the scale of a tail, and scales beyond which the search begins.
LOWER, START = 0.1, 0.3
SPREAD = 1.25
BEGIN = 6.0
# Scales of the tail from which a value is apart, and the share of them from which it is between.
APART = 8.0
BETWEEN_FROM = 0.4
# Share of the values that are apart, at least and at most: fewer do little harm, and near half nobody knows the rule.
LEAST_SHARE, MOST_SHARE = 0.15, 0.48
LEAST_COUNT = 4
# Values between the two groups, as a share of those apart: with more, one group has a long tail.
BETWEEN = 0.5
# Quantile that sets the scale of a tail: above it, up to three values in ten may be faulty.
UPPER = 0.67
# Most steps of the search.
STEPS = 6
# Episodes that the level of all counts as against the level of a task.
SHRINKAGE = 4.0


def majority(values: np.ndarray, least: float, scales: float = APART) -> np.ndarray:
    """
    Which values of each dimension follow the rule.

    A group is apart if it is at least 15 % and less than half of all, if its values are beyond the tail of the
    others, and if hardly any are between. Without such a group all values follow the rule.

    Args:
        values: `(E, d)`, for example logarithms of amounts relative to a task's; large ones are faults. A NaN is no
            value: it follows the rule, and does not count.
        least: least scale of the tail of sound values.
        scales: scales of the tail beyond which a value is apart.

    Returns:
        `(E, d)` bool.
    """
    follows, known = np.ones(values.shape, dtype=bool), np.isfinite(values)
    low, start = (sound_quantile(values, known, share) for share in (LOWER, START))
    limit = start + BEGIN * np.maximum(SPREAD * (start - low), least)
    enough = np.maximum(LEAST_COUNT, LEAST_SHARE * known.sum(axis=0))
    for column in np.flatnonzero((known & (values > limit)).sum(axis=0) >= enough).tolist():
        of_column = known[:, column]
        follows[of_column, column] = _follows(values[of_column, column], limit[column], least, scales)
    return follows


def _follows(values: np.ndarray, limit: float, least: float, scales: float) -> np.ndarray:
    """Which values `(n,)` of a dimension follow the rule; the search begins with those up to a limit."""
    for _ in range(STEPS):
        middle, upper = np.quantile(values[values <= limit], [0.5, UPPER])
        scale = max(float(tail(upper - middle)), least)
        limit = middle + scales * scale
    apart, between = values > limit, (values > middle + BETWEEN_FROM * scales * scale) & (values <= limit)
    clear = max(LEAST_COUNT, LEAST_SHARE * len(values)) <= apart.sum() <= MOST_SHARE * len(values)
    return ~apart if clear and between.sum() <= BETWEEN * apart.sum() else np.ones(len(values), dtype=bool)


def majority_of_tasks(values: np.ndarray, tasks: np.ndarray, least: float) -> np.ndarray:
    """As [`majority`], of values relative to a low one of their task `(E,)`: tasks differ in what is usual."""
    return majority(relative(values, tasks), least)


def relative(values: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Values `(E, d)` relative to a low one of their task, which is sound even if two fifths are not."""
    return away(values, tasks, levels(values, tasks, np.ones(values.shape, dtype=bool), START))


def levels(values: np.ndarray, tasks: np.ndarray, follows: np.ndarray, share: float) -> dict[int, np.ndarray]:
    """By task, a quantile `(d,)` of those values `(E, d)` that follow the rule, shrunk to that of all tasks."""
    overall = sound_quantile(values, follows, share)
    found = {}
    for task in np.unique(tasks).tolist():
        own = tasks == task
        count = follows[own].sum(axis=0)
        level = overall if own.all() else sound_quantile(values[own], follows[own], share)
        found[task] = (count * np.where(count > 0, level, 0.0) + SHRINKAGE * overall) / (count + SHRINKAGE)
    return found


def away(values: np.ndarray, tasks: np.ndarray, level: dict[int, np.ndarray]) -> np.ndarray:
    """Values `(E, d)` relative to the level of their task."""
    return values - np.stack([level[task] for task in tasks.tolist()])


def tail(distance: np.ndarray) -> np.ndarray:
    """Scale of an exponential tail from the distance of the quantile `UPPER` to the median."""
    return distance / np.log(0.5 / (1 - UPPER))


def sound_quantile(values: np.ndarray, follows: np.ndarray, share: float) -> np.ndarray:
    """A quantile `(d,)` of those values `(E, d)` of each dimension that follow the rule; NaN where none does."""
    number = follows.sum(axis=0)
    if (number == len(values)).all():
        return _quantile(values, share)
    ordered = np.sort(np.where(follows, values, np.inf), axis=0)
    place = share * np.maximum(number - 1, 0)
    low = place.astype(np.int64)
    column = np.arange(values.shape[1])
    below, above = ordered[low, column], ordered[np.minimum(low + 1, np.maximum(number - 1, 0)), column]
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, below + (place - low) * (above - below), np.nan)


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """As `np.quantile(values, share, axis=0)`, in a fraction of its time where values `(E, d)` are few."""
    place = share * (len(values) - 1)
    low = int(place)
    high, part = min(low + 1, len(values) - 1), place - low
    below, above = np.partition(values, (low, high), axis=0)[[low, high]]
    found = below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)
    return np.where(np.isnan(values).any(axis=0), np.nan, found)


def shorth(values: np.ndarray) -> np.ndarray:
    """
    Middle of the shortest interval with half of the values `(E, d)` of each dimension, `(d,)`.

    It stays with the larger of two groups. NaN are left out; where all are, it is 0.
    """
    ordered = np.sort(values, axis=0)
    middle = np.zeros(values.shape[1])
    for column, number in enumerate(np.isfinite(values).sum(axis=0).tolist()):
        if number:
            half = number // 2 + 1
            low, high = ordered[: number - half + 1, column], ordered[half - 1 : number, column]
            shortest = int(np.argmin(high - low))
            middle[column] = (low[shortest] + high[shortest]) / 2
    return middle
