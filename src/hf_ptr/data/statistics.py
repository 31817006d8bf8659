"""Statistics of features: the content of `meta/stats.json`, and the scales for normalisation in policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import row_blocks
from hf_ptr.errors import InputError

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

# A dimension with a standard deviation below this share of its magnitude counts as constant.
CONSTANT_BELOW = 1e-4


def feature_statistics(array: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, standard deviation, minimum, maximum, count and quantiles of a feature, under LeRobot's keys.

    Args:
        array: `(F, d)`, any numeric type, `F >= 1`.

    Returns:
        `mean std min max q01 q10 q50 q90 q99`, each `(d,)` float64, and `count`, `(1,)` int64. The standard deviation
        is that of the population. Sums are accumulated in float64, so a million float32 frames lose no precision.

    Raises:
        ValueError: `array` is not `(F, d)`, or is empty.
    """
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"array must have shape (F, d) with F, d >= 1, got {array.shape}")
    # A few dimensions at a time, to keep the float64 copy of a long recording small.
    width = max(1, 4_000_000 // len(array))
    blocks = [_block_statistics(array[:, j : j + width]) for j in range(0, array.shape[1], width)]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return {**joined, "count": np.array([len(array)], dtype=np.int64)}


def _block_statistics(array: np.ndarray) -> dict[str, np.ndarray]:
    values = array.astype(np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


class ImageStatistics:
    """Exact pixel statistics of a video in constant memory, from a histogram of the 256 values per channel."""

    def __init__(self) -> None:
        self.histogram = np.zeros((3, 256), dtype=np.int64)
        self.frames = 0

    def add(self, frame: np.ndarray) -> None:
        """Count the pixels of a frame, `(H, W, 3)` uint8; large frames are subsampled to about 150 pixels a side."""
        step = max(1, max(frame.shape[:2]) // 150)
        pixels = frame[::step, ::step]
        for channel in range(3):
            self.histogram[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
        self.frames += 1

    def merge(self, other: ImageStatistics) -> None:
        """Add the counts of another video."""
        self.histogram += other.histogram
        self.frames += other.frames

    def statistics(self) -> dict[str, np.ndarray]:
        """The keys of `feature_statistics` per channel, `(3, 1, 1)`, pixels in [0, 1]; `count` counts frames."""
        values = np.arange(256) / 255.0
        share = self.histogram / self.histogram.sum(axis=1, keepdims=True)
        cumulative = share.cumsum(axis=1)
        mean = share @ values
        present = self.histogram > 0
        per_channel = {
            "min": values[present.argmax(axis=1)],
            "max": values[255 - present[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0)),
            **{name: values[(cumulative >= q - 1e-12).argmax(axis=1)] for name, q in QUANTILES.items()},
        }
        shaped = {name: value.reshape(3, 1, 1) for name, value in per_channel.items()}
        return {**shaped, "count": np.array([self.frames], dtype=np.int64)}


def joined_statistics(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """
    Pooled statistics of several recordings.

    Args:
        parts: statistics of each recording: `min max mean std` of equal shapes, and `count`. Quantiles present in all
            parts are averaged with the counts as weights, as in LeRobot; this is an approximation.
    """
    count = np.array([float(np.asarray(part["count"]).ravel()[0]) for part in parts])
    share = count / count.sum()

    def weighted(values: Sequence[Any]) -> np.ndarray:
        return np.tensordot(share, np.asarray(values, dtype=np.float64), axes=1)

    mean = weighted([part["mean"] for part in parts])
    square = weighted([np.asarray(part["std"]) ** 2 + np.asarray(part["mean"]) ** 2 for part in parts])
    quantiles = [name for name in QUANTILES if all(name in part for part in parts)]
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0.0)),
        **{name: weighted([part[name] for part in parts]) for name in quantiles},
        "count": np.array([int(count.sum())], dtype=np.int64),
    }


def present_of(features: Sequence[str]) -> list[int | None]:
    """For each feature `NAME@-K`, the position of `NAME` in `features`; None for other features or if it is absent."""
    positions = {name: position for position, name in enumerate(features)}
    return [positions.get(name.partition("@-")[0]) if "@-" in name else None for name in features]


def normalization(
    table: EpisodeTable, features: Sequence[str], *, past_as_difference: bool = False, min_std: float = 0.0
) -> dict[str, np.ndarray]:
    """Mean and standard deviation for normalising the given features, concatenated.

    A constant dimension (a joint that is never used, a coordinate fixed by the task) has a scale of 1. Division by its
    standard deviation of nearly zero would turn rounding errors, or the smallest deviation at inference, into inputs
    of thousands. A dimension is constant if its standard deviation is at most 1e-4 times its magnitude, or 1e-4: in
    metres, radians and normalised commands alike, this is below the resolution of a robot.

    Args:
        table: the episodes.
        features: names of the features.
        past_as_difference: for a feature `NAME@-K`, use the difference `NAME@-K - NAME` if `NAME` is in `features`.
        min_std: lower bound on the standard deviation, in the features' units, except for differences. With few
            episodes, a joint at rest varies by hundredths of a radian, and may rest at another angle in a new episode.

    Returns:
        `mean` and `std`, each `(D,)` float32 in the features' units with `D` the sum of their widths; `std` is
        positive.

    Raises:
        InputError: the table does not have a feature, or `min_std` is negative or not finite.
    """
    if not 0 <= min_std < np.inf:
        raise InputError(f"min_std is {min_std}; it must be 0 or positive, in the units of the features")
    columns = [table.feature(name) for name in features]
    present = present_of(features) if past_as_difference else [None] * len(columns)
    parts = []
    for column, now in zip(columns, present, strict=True):
        values = column if now is None else column - columns[now]
        parts.append(_scale(*_mean_and_deviation(values), min_std if now is None else 0.0))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("mean", "std")}


def relative_normalization(table: EpisodeTable, action: str, state: str, chunk_size: int) -> dict[str, np.ndarray]:
    """`normalization` of the actions of chunks relative to the state at their start: `a_{t+i} - s_t`, `0 <= i < L`.

    Returns:
        `mean` and `std`, each `(da,)` float32.

    Raises:
        InputError: the table does not have the feature.
    """
    actions, states = table.feature(action).astype(np.float64), table.feature(state).astype(np.float64)
    left = np.repeat(table.starts + table.lengths, table.lengths) - np.arange(len(actions))
    total, squares, count = np.zeros(actions.shape[1]), np.zeros(actions.shape[1]), 0
    for offset in range(chunk_size):
        rows = np.flatnonzero(left > offset)
        difference = actions[rows + offset] - states[rows]
        total, squares, count = (
            total + difference.sum(axis=0),
            squares + (difference**2).sum(axis=0),
            count + len(rows),
        )
    mean = total / count
    return _scale(mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0)))


def _mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of `(F, d)`, each `(d,)` float64, in blocks; `numpy.std` copies the whole array."""
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in row_blocks(values)) / len(values)
    return mean, np.sqrt(sum(np.square(block - mean).sum(axis=0) for block in row_blocks(values)) / len(values))


def _scale(mean: np.ndarray, std: np.ndarray, min_std: float = 0.0) -> dict[str, np.ndarray]:
    constant = std <= CONSTANT_BELOW * np.maximum(1.0, np.abs(mean))
    scale = np.where(constant, 1.0, np.maximum(std, min_std))
    return {"mean": mean.astype(np.float32), "std": scale.astype(np.float32)}
