"""Scales of the features of the label-free score, without the dimensions that rest.

In units of its own standard deviation, a joint that is never used is as large as one that moves: its encoder noise and
the angle at which it happens to rest would tell episodes apart. F frames, d dimensions.
"""

from __future__ import annotations

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import release_pages
from hf_ptr.data.statistics import normalization
from hf_ptr.scoring.config import ScoreConfig

# The quantile over the dimensions of a feature that stands for one that moves.
MOVING_QUANTILE = 0.9
# Standard deviations between episodes, relative to those of a dimension that moves, from which a dimension that is
# still within every episode is a position of an object or goal, and not a joint at rest.
PLACED = 0.5
# Multiple of `resting_share` below which a dimension that is mostly noise rests. Forces, and commands at a few frames
# a second, change as much from frame to frame as noise does, but move as far as other dimensions.
NOISY = 2.0


def feature_scale(table: EpisodeTable, name: str, config: ScoreConfig, *, observed: bool) -> dict[str, np.ndarray]:
    """
    Mean and standard deviation of a feature, each `(d,)` float32; infinite where the dimension rests, so that it
    becomes 0.

    A dimension rests if it hardly moves within the episodes: by less than `resting_share` of a dimension that moves,
    or less than `NOISY` times that if it is mostly noise. An observed dimension that is exactly constant within every
    episode may be the position of a goal, and counts as one unless it also hardly differs between episodes.

    Args:
        table: the episodes.
        name: name of the feature.
        config: settings of the score; `min_std` applies to observed features.
        observed: the feature is an observation or state, not a command.
    """
    scale = normalization(table, [name], min_std=config.min_std if observed else 0.0)
    within, noise, total = _variances(table, name)
    moving, spread = (np.sqrt(np.quantile(variance, MOVING_QUANTILE)) for variance in (within, total))
    little = config.resting_share * moving
    hardly = np.sqrt(within) < little
    if observed:
        constant = within <= 1e-8 * total
        hardly &= np.where(constant, np.sqrt(total) < config.resting_share * spread, np.sqrt(total) < PLACED * spread)
    resting = hardly | ((noise > config.resting_noise * total) & (np.sqrt(within) < NOISY * little))
    # Where nothing moves, there is nothing to compare with.
    if not resting.all():
        scale["std"] = np.where(resting, np.inf, scale["std"]).astype(np.float32)
    return scale


def _variances(table: EpisodeTable, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Of each dimension, `(d,)` each: the variance around the mean of its episode, half of the mean squared difference
    from frame to frame (the variance of white noise), and the variance around the mean of all.
    """
    column = table.feature(name)
    within, difference, square = (np.zeros(column.shape[1]) for _ in range(3))
    center = column[0].astype(np.float64)
    total = np.zeros(column.shape[1])
    for start, length in zip(table.starts, table.lengths, strict=True):
        values = column[start : start + length] - center
        mean = values.mean(axis=0)
        total += values.sum(axis=0)
        square += np.square(values).sum(axis=0)
        within += np.square(values - mean).sum(axis=0)
        difference += np.square(np.diff(values, axis=0)).sum(axis=0)
        release_pages(column)
    frames = len(column)
    noise = difference / (2.0 * max(1, frames - table.num_episodes))
    return within / frames, noise, np.maximum(square / frames - np.square(total / frames), 0.0)
