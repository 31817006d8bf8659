"""Weights as a progress file for LeRobot's RA-BC weighting, which computes the weights of frames from their progress.

The rule, for a policy with chunks of `L` actions, `d_t = p_{min(t + L, last)} - p_t` within the episode, and mean `m`
(at least 0) and standard deviation `s` (at least `epsilon`) of all `d`:

- `w_t = 1` if `d_t > kappa`, `w_t = 0` if `d_t < 0`, else `clip((d_t - m + 2 s) / (4 s + epsilon), 0, 1)`.

Differences of the order of `epsilon` keep `s` at `epsilon` and `d_t` below `kappa`. The weight is then linear in
`d_t`, on condition that the mean weight is 0.4; a batch is normalised, so the scale of the weights is free. The
differences of all frames but the last of an episode are free as well, and backward sums of them are the progress.
Three limits of the rule remain:

- The difference of the last frame of an episode is 0. It gets the lowest positive weight.
- Weights below the lowest positive weight become 0 or that weight.
- A standard deviation of the weights above half of their mean would raise `s`. High weights are clipped until it
  is not.

The choice of the lowest and the highest weight minimises the mean absolute error.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from hf_ptr.errors import InputError

# Defaults of LeRobot's sample weighting.
KAPPA, EPSILON = 0.01, 1e-6
# With the standard deviation at its floor, the weight of a mean difference: 2 epsilon / 5 epsilon.
MEAN_WEIGHT = 0.4
# Difference of a frame of weight 0, in units of epsilon: below 0, and too small to move the mean.
BELOW_ZERO = 1e-3
# Points of the distribution of the weights, and candidates for the lowest and the highest, during the search.
POINTS, CANDIDATES = 1024, 48


def progress_table(scores: pd.DataFrame, chunk_size: int) -> pd.DataFrame:
    """
    The progress whose weights under RA-BC are nearest to those of a score file.

    Args:
        scores: rows of a score file, in the order of episodes and frames.
        chunk_size: actions of a chunk of the policy, at least 1.

    Returns:
        `index`, `episode_index`, `progress_sparse` (float64), one row a frame.

    Raises:
        InputError: the frames of an episode are not consecutive, or `chunk_size` is below 1.
    """
    if chunk_size < 1:
        raise InputError(f"--chunk-size {chunk_size} is too small; give the chunk_size of the policy, at least 1")
    index, episode = (scores[name].to_numpy(np.int64) for name in ("index", "episode_index"))
    starts, ends = _episodes(index, episode)
    weight = scores["weight"].to_numpy(np.float64)
    last = np.zeros(len(weight), dtype=bool)
    last[ends - 1] = True
    low, high = _bounds(weight, last)
    reached = _reached(weight, last, low, high)
    base = np.maximum(reached, low)
    difference = 5 * EPSILON * MEAN_WEIGHT / base.mean() * (base - low)
    difference[reached == 0] = -BELOW_ZERO * EPSILON
    progress = np.zeros(len(weight))
    for start, end in zip(starts, ends, strict=True):
        # From the end of the episode in blocks of one chunk, each of which refers to the next.
        for block in range(end - 1, start, -chunk_size):
            rows = np.arange(max(start, block - chunk_size), block)
            progress[rows] = progress[np.minimum(rows + chunk_size, end - 1)] - difference[rows]
    return pd.DataFrame({"index": index, "episode_index": episode, "progress_sparse": progress})


def rabc_weights(
    table: pd.DataFrame, chunk_size: int, *, kappa: float = KAPPA, epsilon: float = EPSILON
) -> np.ndarray:
    """
    The weights that RA-BC of LeRobot 0.6 gives the frames of a progress file, before it normalises a batch.

    Args:
        table: `index`, `episode_index` and `progress_sparse`, in the order of episodes and frames.
        chunk_size: actions of a chunk of the policy.
        kappa, epsilon: as in LeRobot's `sample_weighting`.

    Returns:
        `(F,)` float32 in [0, 1].

    Raises:
        InputError: the frames of an episode are not consecutive.
    """
    starts, ends = _episodes(table["index"].to_numpy(), table["episode_index"].to_numpy())
    last = np.repeat(ends - 1, ends - starts)
    progress = table["progress_sparse"].to_numpy(np.float64)
    exact = progress[np.minimum(np.arange(len(table)) + chunk_size, last)] - progress
    mean, deviation = max(float(exact.mean()), 0.0), max(float(exact.std()), epsilon)
    difference = exact.astype(np.float32)
    soft = np.clip((difference - (mean - 2 * deviation)) / (4 * deviation + epsilon), 0.0, 1.0)
    return np.where(difference > kappa, 1.0, np.where(difference >= 0, soft, 0.0)).astype(np.float32)


def weight_error(wanted: np.ndarray, reached: np.ndarray) -> dict[str, float]:
    """
    The difference of two series of weights, each scaled to mean 1.

    Returns:
        `mean` and `max` of the absolute differences, and the `correlation`, NaN where a series is constant.
    """
    one, other = (
        np.asarray(weight, dtype=np.float64) / np.mean(weight, dtype=np.float64) for weight in (wanted, reached)
    )
    gap = np.abs(one - other)
    constant = min(one.std(), other.std()) < 1e-12
    correlation = float("nan") if constant else float(np.corrcoef(one, other)[0, 1])
    return {"mean": float(gap.mean()), "max": float(gap.max()), "correlation": correlation}


def _reached(weight: np.ndarray, last: np.ndarray, low: float, high: float) -> np.ndarray:
    """The weights that the rule can give: 0 or `low` to `high`, and `low` at the end of an episode."""
    return np.where(last, low, np.where(weight < low / 2, 0.0, np.clip(weight, low, high)))


def _bounds(weight: np.ndarray, last: np.ndarray) -> tuple[float, float]:
    """The lowest positive and the highest weight with the least mean absolute error."""
    points, ends, counts = _summary(weight, last)
    positive = np.unique(points[points > 0])
    chosen = positive[np.unique(np.linspace(0, len(positive) - 1, CANDIDATES).round().astype(int))]
    wanted = points / np.average(points, weights=counts)
    best, bounds = np.inf, (chosen[0], chosen[0])
    for low in chosen:
        for high in chosen[chosen >= low][::-1]:
            reached = _reached(points, ends, low, high)
            base = np.maximum(reached, low)
            mean = np.average(base, weights=counts)
            spread = np.sqrt(np.average(np.square(base - mean), weights=counts))
            # A margin: the standard deviation may not exceed its floor by rounding.
            if spread > 0.499 * mean or high * MEAN_WEIGHT > mean:
                continue
            error = np.average(np.abs(reached / np.average(reached, weights=counts) - wanted), weights=counts)
            if error < best:
                best, bounds = error, (low, high)
    return float(bounds[0]), float(bounds[1])


def _summary(weight: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most about `POINTS` weights, whether each ends an episode, and how many frames each stands for."""
    points, ends, counts = [], [], []
    for is_last in (False, True):
        ordered = np.sort(weight[last == is_last])
        for part in np.array_split(ordered, min(len(ordered), POINTS)) if len(ordered) else ():
            points.append(part.mean())
            ends.append(is_last)
            counts.append(len(part))
    return np.array(points), np.array(ends), np.array(counts)


def _episodes(index: np.ndarray, episode: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each episode and the row after its last."""
    starts = np.flatnonzero(np.r_[True, episode[1:] != episode[:-1]])
    ends = np.r_[starts[1:], len(episode)]
    gap = (np.diff(index) != 1) & (np.diff(episode) == 0)
    if gap.any():
        row = int(gap.argmax())
        raise InputError(
            f"episode {episode[row]} has frame {index[row + 1]} after frame {index[row]}, and RA-BC needs consecutive "
            "ones; score the whole dataset"
        )
    return starts, ends
