"""Peers: simple and published scores of demonstrations, compared with PTR in the robustness benchmark.

Each peer returns a score of every frame as the start of an action chunk, `(F,)` float64, higher is better. Peers that
score whole episodes repeat the score over the frames. All peers share one mapping from score to weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import digamma

from benchmarks.robustness.progress import impute_median, progress, progress_delta
from benchmarks.robustness.reachability import reachability
from benchmarks.robustness.small_networks import CHUNK, standardized
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.runs.build import chunks_for
from hf_ptr.training.dataloaders import ChunkCollator

NEIGHBOURS = (5, 6, 7)
EMBEDDING, MI_BATCH, MI_ROUNDS = 10, 1024, 4
LOSS_BATCH = 256


def length(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    Low for episodes much longer or shorter than others of their labelled task, the simplest check of an audit.

    Returns:
        `(F,)`, `-|log(L / median L of the task)|`. The task of an episode is that of its first frame.
    """
    task = table.task_index[table.starts]
    median = np.ones(len(table.tasks))
    for index in np.unique(task):
        median[index] = np.median(table.lengths[task == index])
    return np.repeat(-np.abs(np.log(table.lengths / median[task])), table.lengths)


def smoothness(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    Low for jerky episodes, where jerk is the third difference of the actions.

    Returns:
        `(F,)`, the negative mean squared jerk of the episode over frames and action dimensions, in squared standard
        deviations of the actions. Episodes of fewer than four frames have no jerk and get the median.
    """
    jerk = np.square(np.diff(standardized(table, ("action",)).astype(np.float64), n=3, axis=0)).mean(axis=1)
    jerk = np.concatenate((jerk, np.zeros(table.num_frames - len(jerk))))
    inside = np.repeat(table.lengths, table.lengths) - table.frame_index > 3
    return impute_median(-_episode_mean(jerk, inside, table), np.repeat(table.lengths > 3, table.lengths))


def mutual_information(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    DemInf (arXiv 2502.08623): the contribution of an episode to the mutual information of states and action chunks.

    The estimator is that of Kraskov, Stögbauer and Grassberger, applied within random batches. The distance of a pair
    is the larger of its distances in state and in action; `n_s` and `n_a` count the samples closer than the k-th
    neighbour in state alone and in action alone, including the sample itself. A sample then contributes
    `-ψ(n_s) - ψ(n_a)` plus a constant. As published, contributions are averaged over k = 5, 6, 7 and several rounds of
    batches of 1,024, clipped at the 1 % and 99 % quantiles, and averaged over the episode. Each labelled task is
    estimated separately; its median is subtracted, because tasks differ in their level. All distances of a batch are
    computed, so a search tree would save nothing.

    One difference: the paper embeds states and action chunks with two VAEs. Here, with low-dimensional states and
    actions, the first 10 whitened principal components of each replace the embeddings. Chunks that extend beyond
    their episode repeat its last action.

    Returns:
        `(F,)` in nats; 0 for a median frame of the task, and for tasks with too few frames for the neighbours.
    """
    last = np.repeat(table.starts + table.lengths - 1, table.lengths)
    steps = np.minimum(np.arange(table.num_frames)[:, None] + np.arange(CHUNK), last[:, None])
    states = standardized(table, observation_features)
    chunks = standardized(table, ("action",))[steps].reshape(table.num_frames, -1)
    rng = np.random.default_rng(seed)
    score = np.zeros(table.num_frames)
    for task in np.unique(table.task_index):
        frames = np.flatnonzero(table.task_index == task)
        if len(frames) > max(NEIGHBOURS):
            found = _mean_contribution(_whitened(states[frames]), _whitened(chunks[frames]), rng)
            score[frames] = found - np.median(found)
    return _episode_mean(score, np.ones(table.num_frames, dtype=bool), table)


def _mean_contribution(states: torch.Tensor, actions: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """`(N,)`: the mean contribution of each of N pairs to the mutual information, over several rounds of batches."""
    contributions = np.empty((MI_ROUNDS, len(states)))
    batches = max(1, round(len(states) / MI_BATCH))
    for contribution in contributions:
        for rows in np.array_split(rng.permutation(len(states)), batches):
            contribution[rows] = _ksg(states[rows], actions[rows])
    return contributions.clip(*np.quantile(contributions, (0.01, 0.99))).mean(axis=0)


PEERS: dict[str, Callable[..., np.ndarray]] = {
    "length": length,
    "smoothness": smoothness,
    "mutual_information": mutual_information,
    "progress": progress,
    "progress_delta": progress_delta,
    "reachability": reachability,
}


@torch.no_grad()
def policy_loss(policy: Any, processor: Any, table: EpisodeTable, *, draws: int = 16, seed: int) -> np.ndarray:
    """
    Low for chunks with a high loss under a trained policy (small-loss trimming).

    Args:
        policy: a trained policy; its training mode is restored afterwards. Belief tokens are not used.
        processor: the processor of the policy.
        table: the episodes.
        draws: number of draws of noise and flow time per chunk. The loss of a chunk depends more on the time drawn
            than on the chunk, so a single draw is not informative.
        seed: seed of the draws. The global random state is not changed.

    Returns:
        `(F,)`, the negative mean action loss `ℓ_act` of the chunk, in squared normalised actions.

    Raises:
        InputError: the policy does not know an instruction, or `draws` is below 1.
    """
    if draws < 1:
        raise InputError(f"draws is {draws}; it must be at least 1")
    dataset = chunks_for(policy.config, table, segment_chunks=1, target_offset=policy.config.chunk_size)
    collator = ChunkCollator(processor, dataset.tasks)
    device = next(policy.parameters()).device
    score = np.zeros(table.num_frames)
    was_training = policy.training
    policy.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for rows in np.array_split(np.arange(table.num_frames), table.num_frames // LOSS_BATCH + 1):
                batch = collator(dataset.__getitems__(rows.tolist()))
                inputs = {name: value.to(device) for name, value in batch.items()}
                for _ in range(draws):
                    score[rows] -= policy(inputs).action_loss.double().cpu().numpy() / draws
    finally:
        policy.train(was_training)
    return score


def weights_from_score(
    score: np.ndarray, *, w_min: float = 0.25, w_max: float = 4.0, temperature: float = 0.5
) -> np.ndarray:
    """
    The mapping from scores to training weights that all peers share.

    `clip(exp(z / temperature), w_min, w_max)` with the robust z-score `z = (s - median) / (1.4826 MAD)`. The standard
    deviation replaces the MAD where it is zero, because more than half of the scores are equal.

    Args:
        score: `(F,)`, finite.
        w_min, w_max: bounds of the weights, with 1 between them.
        temperature: temperature of the exponential, in robust standard deviations.

    Returns:
        `(F,)` float64; exactly 1 everywhere if the score is constant.

    Raises:
        InputError: scores that are not finite, bounds without 1 between them, or a temperature that is not positive.
    """
    score = np.asarray(score, dtype=np.float64)
    if not np.isfinite(score).all():
        raise InputError(
            f"{int((~np.isfinite(score)).sum())} of {score.size} scores are not finite; each must be a number"
        )
    if not 0.0 < w_min <= 1.0 <= w_max:
        raise InputError(f"w_min {w_min} and w_max {w_max} must be positive, with 1 between them")
    if temperature <= 0.0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    if score.size == 0 or score.min() == score.max():
        return np.ones_like(score)
    deviation = score - np.median(score)
    scale = 1.4826 * np.median(np.abs(deviation))
    scale = scale if scale > 0.0 else score.std()
    # Clipping the logarithm avoids overflow.
    return np.exp(np.clip(deviation / (scale * temperature), np.log(w_min), np.log(w_max)))


def _episode_mean(values: np.ndarray, valid: np.ndarray, table: EpisodeTable) -> np.ndarray:
    """`(F,)`: mean of the valid values of the episode of each frame; 0 without valid values."""
    episode = table.episode_of_row
    total = np.bincount(episode, values * valid, table.num_episodes)
    return (total / np.maximum(np.bincount(episode, valid, table.num_episodes), 1.0))[episode]


def _whitened(columns: np.ndarray) -> torch.Tensor:
    """`(F, ≤ EMBEDDING)`: the first principal components of `columns (F, d)`, scaled to unit variance."""
    centred = columns.astype(np.float64) - columns.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(values > 1e-6 * max(values[-1], 1e-12))[-EMBEDDING:]
    return torch.from_numpy(centred @ (vectors[:, kept] / np.sqrt(values[kept])))


def _ksg(states: torch.Tensor, actions: torch.Tensor) -> np.ndarray:
    """`(N,)`: contribution of each sample to the mutual information of `states (N, p)`, `actions (N, q)`, in nats."""
    distances = [
        torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(0.0) for z in (states, actions)
    ]
    nearest = torch.maximum(*distances).topk(max(NEIGHBOURS) + 1, largest=False).values
    total = np.zeros(len(states))
    for k in NEIGHBOURS:
        for distance in distances:
            # The sample itself always counts, also where all neighbours coincide.
            nearer = (distance < nearest[:, k, None]).sum(dim=1).clamp(min=1)
            total -= digamma(nearer.numpy())
    return total / len(NEIGHBOURS)
