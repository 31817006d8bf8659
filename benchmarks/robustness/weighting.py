"""Weights computed before training: from the data, the ground truth, or the run of another arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.robustness.peers import PEERS, policy_loss, weights_from_score
from benchmarks.robustness.planting import Truth
from benchmarks.robustness.selecting import SELECTIONS, chunks_of, kept_weight
from benchmarks.robustness.small_networks import CHUNK
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.chunk_faults import chunk_harm, least_harm
from hf_ptr.policies import load_policy
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.scoring.calibration import calibrated_weight, fault_score, keep_sample_size
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.training.detected_scores import detected

# Each weighting, with the arm whose run it reads: the weights of PTR, or the losses of the SFT policy.
WEIGHTINGS: dict[str, str | None] = {
    "oracle": None,
    "oracle-floor": None,
    "oracle-mild": None,
    "findings": None,
    "tail": None,
    "random": "ptr",
    "ptr-weights": "ptr",
    "loss": "sft",
    **dict.fromkeys(PEERS),
    **dict.fromkeys(SELECTIONS),
}
ORACLE_WEIGHTS = (0.25, 4.0)
# Least effective sample size of the oracles with a floor.
ORACLE_SHARE = 0.5
# What PTR gives chunks without a target, and all others once its scores have risen.
TAIL_WEIGHTS = (1.0, 4.0)
# Frames to the next observation of a chunk, as in the recipes.
TARGET_OFFSET = 16


def score_file(
    weighting: str,
    table: EpisodeTable,
    truth: Truth,
    seed: int,
    *,
    observation_features: Sequence[str],
    other: Path | None,
) -> pd.DataFrame:
    """
    The score file of a weighting. `score` is the quantity that the weights are computed from; higher is better.

    Args:
        weighting: a key of `WEIGHTINGS`.
        table: the corrupted episodes.
        truth: the faults of each episode and frame; only the oracles use it.
        seed: seed of the run.
        observation_features: the observation features of the policy.
        other: folder of the run that the weighting reads; None if it reads none.
    """
    valid = np.ones(table.num_frames, dtype=bool)
    if weighting.startswith("oracle"):
        score = np.where(truth.chunks(table, CHUNK), -1.0, 1.0)
        weight = np.where(score < 0, *ORACLE_WEIGHTS)
        if weighting == "oracle-floor":
            weight = keep_sample_size(torch.from_numpy(weight), min_share=ORACLE_SHARE).numpy()
        elif weighting == "oracle-mild":
            # Faults other than action noise keep the low weight.
            faults = truth.episodes
            worse = np.logical_or.reduce([carries for name, carries in faults.faults.items() if name != "noise"])
            milder = np.where(np.repeat(faults.any & ~worse, table.lengths), np.mean(ORACLE_WEIGHTS), weight)
            weight = keep_sample_size(
                torch.from_numpy(weight), torch.from_numpy(milder), min_share=ORACLE_SHARE
            ).numpy()
    elif weighting == "findings":
        weight = found_weight(table, seed, observation_features)
        score = weight
    elif weighting == "tail":
        left = np.repeat(table.starts + table.lengths, table.lengths) - np.arange(table.num_frames)
        score = weight = np.where(left <= TARGET_OFFSET, *TAIL_WEIGHTS)
    elif weighting in SELECTIONS:
        score = weight = kept_weight(weighting, table, seed, observation_features, CHUNK)
    elif weighting in ("random", "ptr-weights"):
        found = score_dataset(_needed(other), table, seed=seed)
        score, weight, valid = found.score.to_numpy(), found.weight.to_numpy(copy=True), found.valid.to_numpy()
        if weighting == "random":
            np.random.default_rng(seed).shuffle(weight)
            score, valid = weight, np.ones_like(valid)
    elif weighting == "loss":
        score = policy_loss(*load_policy(str(_needed(other))), table, seed=seed)
        weight = weights_from_score(score)
    else:
        score = PEERS[weighting](table, seed, observation_features=observation_features)
        weight = weights_from_score(score)
    return pd.DataFrame(
        {
            "index": table.frame_id,
            "episode_index": np.repeat(table.episode_index, table.lengths),
            "score": score,
            "weight": weight,
            "valid": valid,
        }
    )


def found_weight(table: EpisodeTable, seed: int, observation_features: Sequence[str]) -> np.ndarray:
    """
    The weights from the findings of `hf_ptr.detection` alone, `(F,)`.

    They are `h w_min + (1 - h) w_max`, with the least effective sample size.
    """
    chunks, config = chunks_of(table, observation_features, CHUNK), ScoreConfig()
    findings = detected(chunks, seed=seed).findings
    weight, milder = (
        calibrated_weight(fault_score(torch.from_numpy(of(findings, chunks.table, chunk_size=CHUNK)), config), config)
        for of in (chunk_harm, least_harm)
    )
    return keep_sample_size(weight, milder, min_share=config.min_sample_size).numpy()


def _needed(other: Path | None) -> Path:
    if other is None:
        raise ValueError("this weighting reads the run of another arm; pass its folder as `other`")
    return other
