"""Figures of a run's score and weights: AUROC by fault, effective sample size, quantiles of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmarks.robustness.planting import Truth
from benchmarks.robustness.small_networks import CHUNK
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.metrics.statistics import auroc

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


NO_FIGURES: dict[str, Any] = {
    "auroc_sample": {},
    "auroc_episode": {},
    "ess": None,
    "weight_mean": None,
    "weight_quantiles": None,
    "weight_faulty": None,
    "weight_sound": None,
}


def score_figures(scores: pd.DataFrame, table: EpisodeTable, truth: Truth) -> dict[str, Any]:
    """
    AUROC of each fault against what is sound, and the distribution of the weights.

    Per sample, chunks with a faulty frame are compared with all chunks without one; per episode, the mean scores of
    faulty episodes with those of sound ones. `weight_faulty` is the mean weight of the chunks with a faulty frame,
    `weight_sound` that of the others.

    Args:
        scores: one row per frame in the order of the table, with `score`, `weight` and `valid`.
        table: the corrupted episodes.
        truth: the faults of each episode and frame.
    """
    weight = scores.weight.to_numpy(np.float64)
    counted = scores.valid.to_numpy(bool)
    score, episode = scores.score.to_numpy(np.float64)[counted], table.episode_of_row[counted]
    rows = np.bincount(episode, minlength=table.num_episodes)
    mean = np.bincount(episode, score, table.num_episodes) / np.maximum(rows, 1)
    all_faulty, any_fault = truth.chunks(table, CHUNK), truth.episodes.any
    faulty = all_faulty[counted]
    by_sample, by_episode = {}, {}
    for name, carries in {**truth.episodes.faults, "any": any_fault}.items():
        by_sample[name] = auroc(score[~faulty], score[faulty & carries[episode]])
        by_episode[name] = auroc(mean[~any_fault & (rows > 0)], mean[carries & (rows > 0)])
    return {
        "auroc_sample": by_sample,
        "auroc_episode": by_episode,
        "ess": float(weight.sum() ** 2 / (weight**2).sum() / len(weight)),
        "weight_mean": float(weight.mean()),
        "weight_quantiles": [float(value) for value in np.quantile(weight, QUANTILES)],
        "weight_faulty": float(weight[all_faulty].mean()) if all_faulty.any() else None,
        "weight_sound": float(weight[~all_faulty].mean()) if not all_faulty.all() else None,
    }
