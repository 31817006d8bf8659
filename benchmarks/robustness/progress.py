"""Peers that learn how far a task has come from observations alone: SCIZOR's progress classifier, and RA-BC's deltas.

Both are trained on the very table that they judge, as published. Neither reads an action: a fault that leaves
observations and instructions as they were is invisible to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from hf_ptr.data.episodes import EpisodeTable

CHUNK = 16
WIDTH, STEPS, BATCH, LEARNING_RATE = 128, 1500, 256, 1e-3
# Edges of the bins of elapsed time, in frames. SCIZOR's own bins grow likewise, and its span lies on an edge, too.
BINS = np.array([0, 4, 8, 16, 32, 64])
# SCIZOR discounts by 0.5 a second over spans of 2 s; a chunk takes the place of such a span.
DISCOUNT = 0.25 ** (1 / CHUNK)


def progress(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    SCIZOR's suboptimality (arXiv 2505.22626, Sec. 3): more time went by than the observations show progress.

    A classifier learns from `(o_t, o_{t+T})` in which bin of elapsed time `T` lies, from pairs whose bin is drawn
    uniformly. A span of `CHUNK` frames is suboptimal by the elapsed minus the expected predicted time, both counted in
    bins (which grow about twofold) and cut at zero, as in the released code. A frame gets the mean of the spans that
    hold it, then the discounted average of that from itself on: the released code takes a discounted sum, which would
    call the end of every episode good because less follows it. In-sample, as published.

    Left out of the paper: its deduplication, which is about redundancy and not about faults; its mixing with the
    episode's average, which does not change the order of episodes.

    Returns:
        `(F,)` float64 goodness: minus the suboptimality, in bins of time.
    """
    observations = torch.from_numpy(standardized(table, observation_features))
    rng = np.random.default_rng(seed)
    first, last, label = _pairs(table, rng, STEPS * BATCH)

    def batches() -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        for rows in np.arange(STEPS * BATCH).reshape(STEPS, BATCH):
            yield _pair_input(observations, first[rows], last[rows]), torch.from_numpy(label[rows])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = _mlp(2 * observations.shape[1], len(BINS) - 1)
        _fit(classifier, classifier, batches(), nn.functional.cross_entropy)

    # Every span is whole: as long as a chunk, or as its episode where that is shorter.
    row, end = np.arange(table.num_frames), np.repeat(table.starts + table.lengths - 1, table.lengths)
    span = np.repeat(np.minimum(CHUNK, table.lengths - 1), table.lengths)
    logits = _in_blocks(
        lambda rows: classifier(_pair_input(observations, rows, np.minimum(rows + span[rows], end[rows]))), row
    )
    expected = logits.double().softmax(dim=1).numpy() @ np.arange(len(BINS) - 1)
    suboptimality = np.maximum(_rank(span) - expected, 0.0)
    return -_discounted(_mean_of_spans(suboptimality, table, span), table)


def progress_delta(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    RA-BC's progress delta (arXiv 2509.25358, "SARM"): the predicted progress that a chunk gains.

    A regressor of (observation, learned embedding of the labelled task) to progress in [0, 1]. SARM's labels divide an
    episode into annotated stages; without annotations an episode is one stage, and its label is the normalised time
    `t / (L - 1)`. The delta of frame `t` is `p(o_{t+CHUNK}) - p(o_t)`; where the episode ends before, it ends at its
    last observation, and the delta is scaled up by `CHUNK / span`. The last frame, which has no span, gets the delta
    of the frame before it.

    RA-BC makes weights of deltas by their running mean μ and standard deviation σ: `clip((r - (μ - 2σ)) / 4σ, 0, 1)`
    for a delta `0 ≤ r ≤ κ`, 1 above κ, 0 below zero (Eq. 8-9). That is not done here: all peers share one mapping,
    `weights_from_goodness`, so that they differ in what they find and not in how steeply they act on it.

    Returns:
        `(F,)` float64 goodness: progress gained in a chunk, in shares of an episode. Episodes of one frame get the
        median of the others.
    """
    observations = torch.from_numpy(standardized(table, observation_features))
    label = torch.from_numpy(table.frame_index / np.repeat(np.maximum(table.lengths - 1, 1), table.lengths))
    label = label.float()[:, None]
    tasks = torch.from_numpy(np.array(table.task_index))
    draws = np.random.default_rng(seed).integers(table.num_frames, size=(STEPS, BATCH))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = nn.Embedding(len(table.tasks), 16)
        trunk = _mlp(observations.shape[1] + 16, 1)

        def predict(rows: np.ndarray) -> torch.Tensor:
            return trunk(torch.cat((observations[rows], embedding(tasks[rows])), dim=1)).sigmoid()

        batches = ((rows, label[rows]) for rows in draws)
        _fit(nn.ModuleList((embedding, trunk)), predict, batches, nn.functional.mse_loss)

    predicted = _in_blocks(predict, np.arange(table.num_frames))[:, 0].double().numpy()
    last = np.repeat(table.starts + table.lengths - 1, table.lengths)
    long_enough = np.repeat(table.lengths > 1, table.lengths)
    begin = np.where(long_enough, np.minimum(np.arange(table.num_frames), last - 1), last)
    end = np.minimum(begin + CHUNK, last)
    delta = (predicted[end] - predicted[begin]) * CHUNK / np.maximum(end - begin, 1)
    return filled(delta, long_enough)


def standardized(table: EpisodeTable, features: Sequence[str]) -> np.ndarray:
    """`(F, d)` float32: the features side by side, in standard deviations; a constant dimension is 0 throughout."""
    columns = np.concatenate([table.feature(name) for name in features], axis=1).astype(np.float64)
    mean, std = columns.mean(axis=0), columns.std(axis=0)
    constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
    scaled = np.where(constant, 0.0, (columns - mean) / np.where(constant, 1.0, std))
    return scaled.clip(-10.0, 10.0).astype(np.float32)


def filled(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """`values` with the median of the valid ones in the place of the others, so that these count as ordinary."""
    ordinary = np.median(values[valid]) if valid.any() else 0.0
    return np.where(valid, values, ordinary)


def _pairs(table: EpisodeTable, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row, last row and bin of `count` pairs: uniform in the bin, then in it, then in where they start."""
    episode = table.episode_of_row[rng.integers(table.num_frames, size=count)]
    length = table.lengths[episode]
    drawn = rng.integers(len(BINS) - 1, size=count)
    low, high = BINS[drawn], np.minimum(BINS[drawn + 1], length)
    span = np.minimum(low + (rng.random(count) * np.maximum(high - low, 1)).astype(np.int64), length - 1)
    first = table.starts[episode] + (rng.random(count) * (length - span)).astype(np.int64)
    label = np.searchsorted(BINS, span, side="right") - 1
    return first, first + span, label


def _rank(span: np.ndarray) -> np.ndarray:
    """Elapsed frames as a position among the bins: whole numbers are the bins' middles."""
    return np.clip(np.interp(span, BINS, np.arange(len(BINS)) - 0.5), 0.0, len(BINS) - 2.0)


def _mean_of_spans(values: np.ndarray, table: EpisodeTable, span: np.ndarray) -> np.ndarray:
    """`(F,)`: for every frame the mean of `values` over the spans that hold it, both ends included."""
    row, start = np.arange(table.num_frames), np.repeat(table.starts, table.lengths)
    latest = start + np.repeat(table.lengths, table.lengths) - 1 - span
    total = np.concatenate(([0.0], np.cumsum(values)))
    low, high = np.maximum(start, row - span), np.minimum(row, latest)
    return (total[high + 1] - total[low]) / (high + 1 - low)


def _discounted(values: np.ndarray, table: EpisodeTable) -> np.ndarray:
    """`(F,)`: the average of `values` from each frame to its episode's end, `DISCOUNT` a frame."""
    left = np.repeat(table.starts + table.lengths, table.lengths) - np.arange(table.num_frames)
    total, weight = np.zeros(table.num_frames), np.zeros(table.num_frames)
    # As many passes as matter, not one a frame: what is further off weighs less than a thousandth.
    for ahead in range(min(int(np.log(1e-3) / np.log(DISCOUNT)) + 1, int(table.lengths.max()))):
        inside = np.flatnonzero(left > ahead)
        total[inside] += DISCOUNT**ahead * values[inside + ahead]
        weight[inside] += DISCOUNT**ahead
    return total / weight


def _pair_input(observations: torch.Tensor, first: np.ndarray, last: np.ndarray) -> torch.Tensor:
    return torch.cat((observations[first], observations[last]), dim=1)


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, outputs)
    )


def _fit(
    module: nn.Module,
    predict: Callable[..., torch.Tensor],
    batches: Iterable[tuple[torch.Tensor | np.ndarray, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """One pass of AdamW over `batches` of (what `predict` takes, labels), the step size falling to zero."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    for given, label in batches:
        optimizer.zero_grad()
        loss(predict(given), label).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _in_blocks(predict: Callable[[np.ndarray], torch.Tensor], rows: np.ndarray) -> torch.Tensor:
    """`predict` of all rows, a few thousand at a time, so that memory does not grow with the table."""
    return torch.cat([predict(block) for block in np.array_split(rows, len(rows) // 4096 + 1)])
