"""How far the commands of each episode are from what most episodes do: in gain, offset, lag and error."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

from hf_ptr.detection.majority import relative, shorth
from hf_ptr.detection.parabola import vertex

# Least standard deviation of a residual, in units: nothing smaller is a fault of an action.
LEAST_SIGMA = 0.05
# Variance of recorded and expected commands of an episode, squared units, below which it has no gain.
RESTING = 0.09
# A task has a gain and an offset of its own if fewer of its episodes than this share are so close to the general one,
# and more than this to its own: a fault of two fifths may be of most episodes of a task, but hardly of all.
GENERAL, PARTICULAR, CLOSE = 0.3, 0.9, 0.25
# Frames that an episode may be late or early by, least correlation of its commands with the expected ones at its lag,
# and frames within which lags are the same.
LONGEST_LAG, ALIKE, CLOSE_LAG = 10, 0.4, 0.75


def mean_square(residual: list[np.ndarray]) -> np.ndarray:
    """Mean squares `(E, d)` of the residuals of each episode, `(T, d)`."""
    return _mean_of_each([part**2 for part in residual])


def _mean_of_each(parts: list[np.ndarray]) -> np.ndarray:
    """Means `(E, d)` of the values of each episode, `(T, d)`; 0 for an episode without any."""
    return np.array([part.sum(axis=0) / max(len(part), 1) for part in parts]).reshape(len(parts), -1)


def _error_distance(targets: list[np.ndarray], residual: list[np.ndarray], tasks: np.ndarray) -> np.ndarray:
    """Logarithm of the mean square of each episode's residuals relative to that of its task, `(E, d)`."""
    del targets
    return relative(np.log(np.maximum(mean_square(residual), LEAST_SIGMA**2)), tasks)


def _offset_distance(targets: list[np.ndarray], residual: list[np.ndarray], tasks: np.ndarray) -> np.ndarray:
    """Distance of each episode's mean residual from that of most, `(E, d)`, units."""
    del targets
    offset = _mean_of_each(residual)
    return np.abs(offset - _usual(offset, tasks, np.full(offset.shape[1], CLOSE)))


def _gain_distance(targets: list[np.ndarray], residual: list[np.ndarray], tasks: np.ndarray) -> np.ndarray:
    """Distance of each episode's gain from that of most, `(E, d)`, as a share of it; NaN where an episode rests."""
    gain = np.full((len(targets), targets[0].shape[1]), np.nan)
    for number, (target, rest) in enumerate(zip(targets, residual, strict=True)):
        if len(target):
            expected = target - rest
            spread = expected - expected.mean(axis=0)
            variance = (spread**2).mean(axis=0)
            slope = (spread * target).mean(axis=0) / np.maximum(variance, 1e-12)
            gain[number] = np.where(np.maximum(target.var(axis=0), variance) > RESTING, slope, np.nan)
    size = np.abs(shorth(gain)) + 1e-9
    return np.abs(gain - _usual(gain, tasks, CLOSE * size)) / size


def _usual(values: np.ndarray, tasks: np.ndarray, close: np.ndarray) -> np.ndarray:
    """What most values `(E, d)` are, or most of a task where few are as close `(d,)` to it, `(E, d)`."""
    usual = np.broadcast_to(shorth(values), values.shape).copy()
    for task in np.unique(tasks):
        own = tasks == task
        number, of_task = np.isfinite(values[own]).sum(axis=0), shorth(values[own])
        general, particular = (
            (np.nan_to_num(np.abs(values[own] - level), nan=np.inf) <= close).sum(axis=0)
            for level in (usual[own], of_task)
        )
        usual[own] = np.where((general < GENERAL * number) & (particular >= PARTICULAR * number), of_task, usual[own])
    return usual


def _lag_distance(targets: list[np.ndarray], residual: list[np.ndarray], tasks: np.ndarray) -> np.ndarray:
    """Distance of each episode's lag from that of most, `(E, d)`, frames; 0 where the commands fit at no lag."""
    lag = np.full((len(targets), 1), np.nan)
    shifts = np.arange(-LONGEST_LAG, LONGEST_LAG + 1)
    for number, (target, rest) in enumerate(zip(targets, residual, strict=True)):
        if len(target) > 4 * LONGEST_LAG:
            # Slow errors of the model hide the lag.
            action, expected = (
                part - uniform_filter1d(part, 2 * LONGEST_LAG, axis=0) for part in (target, target - rest)
            )
            inner = expected[LONGEST_LAG:-LONGEST_LAG]
            fits = np.array(
                [(action[LONGEST_LAG + shift : LONGEST_LAG + shift + len(inner)] * inner).sum() for shift in shifts]
            )
            best = int(fits.argmax())
            if 0 < best < len(fits) - 1 and fits[best] > ALIKE * np.sqrt((action**2).sum() * (inner**2).sum()):
                lag[number] = shifts[best] + vertex(*fits[best - 1 : best + 2, None])
    lag = np.where(np.isfinite(lag), lag, shorth(lag))
    distance = np.abs(lag - _usual(lag, tasks, np.array([CLOSE_LAG])))
    return np.broadcast_to(distance, (len(targets), targets[0].shape[1]))


# What an episode may differ in; the least distance that a fifth of the episodes must have to be searched, and the
# least scale of the tail of the distances of sound ones.
DISTANCES = (
    (_gain_distance, 0.2, 0.04),
    (_offset_distance, 0.15, 0.04),
    (_lag_distance, 1.5, 0.2),
    (_error_distance, 1.1, 0.2),
)
