"""Peers that estimate progress from observations alone: SCIZOR's progress classifier and RA-BC's progress deltas.

As published, both are trained on the same table that they score. Neither reads actions, so neither can detect a fault
that changes only actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.robustness.small_networks import BATCH, CHUNK, STEPS, fit, in_blocks, mlp, standardized
from hf_ptr.data.episodes import EpisodeTable

# Edges of the bins of elapsed time, in frames. As in SCIZOR, they grow and the span is one of them.
BINS = np.array([0, 4, 8, 16, 32, 64])
# SCIZOR discounts by 0.5 per second with spans of 2 s; here a span is a chunk.
DISCOUNT = 0.25 ** (1 / CHUNK)


def progress(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    SCIZOR's suboptimality (arXiv 2505.22626, Sec. 3): low where more time elapsed than the observations show progress.

    A classifier predicts from `(o_t, o_{t+T})` the bin of the elapsed time `T`; the bins of the training pairs are
    drawn uniformly. The suboptimality of a span of `CHUNK` frames is the elapsed time minus the expectation of the
    predicted time, both counted in bins (which about double in width), and at least zero, as in the released code. The
    value of a frame is the mean over the spans that contain it, followed by a discounted average from the frame
    onwards. The released code uses a discounted sum instead, which favours the end of every episode because less
    follows it. The classifier scores its training data, as published.

    Two steps of the paper are omitted: deduplication, which concerns redundancy and not faults, and mixing with the
    average of the episode, which does not change the order of episodes.

    Returns:
        `(F,)` float64, the negative suboptimality in bins of time.
    """
    observations = torch.from_numpy(standardized(table, observation_features))
    rng = np.random.default_rng(seed)
    first, last, label = _pairs(table, rng, STEPS * BATCH)

    def batches() -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        for rows in np.arange(STEPS * BATCH).reshape(STEPS, BATCH):
            yield _pair_input(observations, first[rows], last[rows]), torch.from_numpy(label[rows])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = mlp(2 * observations.shape[1], len(BINS) - 1)
        fit(classifier, classifier, batches(), nn.functional.cross_entropy)

    # All spans of an episode have the same length: that of a chunk, or of the episode if it is shorter.
    row, end = np.arange(table.num_frames), np.repeat(table.starts + table.lengths - 1, table.lengths)
    span = np.repeat(np.minimum(CHUNK, table.lengths - 1), table.lengths)
    logits = in_blocks(
        lambda rows: classifier(_pair_input(observations, rows, np.minimum(rows + span[rows], end[rows]))), row
    )
    expected = logits.double().softmax(dim=1).numpy() @ np.arange(len(BINS) - 1)
    suboptimality = np.maximum(_rank(span) - expected, 0.0)
    return -_discounted(_mean_of_spans(suboptimality, table, span), table)


def progress_delta(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    RA-BC's progress delta (arXiv 2509.25358, "SARM"): the predicted progress over a chunk.

    A regressor predicts progress in [0, 1] from the observation and a learned embedding of the labelled task. SARM's
    labels divide an episode into annotated stages; without annotations an episode is one stage, and its label is the
    normalised time `t / (L - 1)`. The delta of frame `t` is `p(o_{t+CHUNK}) - p(o_t)`. Spans that would extend beyond
    the episode end at its last observation, and their delta is multiplied by `CHUNK / span`. The last frame, which
    has no span, gets the delta of the previous frame.

    RA-BC computes weights from the running mean μ and standard deviation σ of the deltas: `clip((r - (μ - 2σ)) / 4σ,
    0, 1)` for a delta `0 ≤ r ≤ κ`, 1 above κ, 0 below zero (Eq. 8-9). Here all peers share the mapping
    `weights_from_score` instead, so that they differ in their scores only.

    Returns:
        `(F,)` float64, the progress over a chunk as a share of an episode. Episodes of one frame get the median of the
        others.
    """
    observations = torch.from_numpy(standardized(table, observation_features))
    label = torch.from_numpy(table.frame_index / np.repeat(np.maximum(table.lengths - 1, 1), table.lengths))
    label = label.float()[:, None]
    tasks = torch.from_numpy(np.array(table.task_index))
    draws = np.random.default_rng(seed).integers(table.num_frames, size=(STEPS, BATCH))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = nn.Embedding(len(table.tasks), 16)
        trunk = mlp(observations.shape[1] + 16, 1)

        def predict(rows: np.ndarray) -> torch.Tensor:
            return trunk(torch.cat((observations[rows], embedding(tasks[rows])), dim=1)).sigmoid()

        batches = ((rows, label[rows]) for rows in draws)
        fit(nn.ModuleList((embedding, trunk)), predict, batches, nn.functional.mse_loss)

    predicted = in_blocks(predict, np.arange(table.num_frames))[:, 0].double().numpy()
    last = np.repeat(table.starts + table.lengths - 1, table.lengths)
    long_enough = np.repeat(table.lengths > 1, table.lengths)
    begin = np.where(long_enough, np.minimum(np.arange(table.num_frames), last - 1), last)
    end = np.minimum(begin + CHUNK, last)
    delta = (predicted[end] - predicted[begin]) * CHUNK / np.maximum(end - begin, 1)
    return impute_median(delta, long_enough)


def impute_median(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """`values`, with the median of the valid ones in place of the others."""
    median = np.median(values[valid]) if valid.any() else 0.0
    return np.where(valid, values, median)


def _pairs(table: EpisodeTable, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row, last row, bin of `count` pairs: uniform over bins, then over spans in the bin, then over starts."""
    episode = table.episode_of_row[rng.integers(table.num_frames, size=count)]
    length = table.lengths[episode]
    drawn = rng.integers(len(BINS) - 1, size=count)
    low, high = BINS[drawn], np.minimum(BINS[drawn + 1], length)
    span = np.minimum(low + (rng.random(count) * np.maximum(high - low, 1)).astype(np.int64), length - 1)
    first = table.starts[episode] + (rng.random(count) * (length - span)).astype(np.int64)
    label = np.searchsorted(BINS, span, side="right") - 1
    return first, first + span, label


def _rank(span: np.ndarray) -> np.ndarray:
    """Elapsed frames as a position among the bins; integers are the centres of bins."""
    return np.clip(np.interp(span, BINS, np.arange(len(BINS)) - 0.5), 0.0, len(BINS) - 2.0)


def _mean_of_spans(values: np.ndarray, table: EpisodeTable, span: np.ndarray) -> np.ndarray:
    """`(F,)`: for each frame the mean of `values` over the spans that contain it, both ends included."""
    row, start = np.arange(table.num_frames), np.repeat(table.starts, table.lengths)
    latest = start + np.repeat(table.lengths, table.lengths) - 1 - span
    total = np.concatenate(([0.0], np.cumsum(values)))
    low, high = np.maximum(start, row - span), np.minimum(row, latest)
    return (total[high + 1] - total[low]) / (high + 1 - low)


def _discounted(values: np.ndarray, table: EpisodeTable) -> np.ndarray:
    """`(F,)`: average of `values` from each frame to the end of its episode, discounted by `DISCOUNT` per frame."""
    left = np.repeat(table.starts + table.lengths, table.lengths) - np.arange(table.num_frames)
    total, weight = np.zeros(table.num_frames), np.zeros(table.num_frames)
    # Frames further ahead would weigh less than a thousandth.
    for ahead in range(min(int(np.log(1e-3) / np.log(DISCOUNT)) + 1, int(table.lengths.max()))):
        inside = np.flatnonzero(left > ahead)
        total[inside] += DISCOUNT**ahead * values[inside + ahead]
        weight[inside] += DISCOUNT**ahead
    return total / weight


def _pair_input(observations: torch.Tensor, first: np.ndarray, last: np.ndarray) -> torch.Tensor:
    return torch.cat((observations[first], observations[last]), dim=1)
