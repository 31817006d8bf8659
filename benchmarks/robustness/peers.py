"""Simple and published answers to "which demonstrations are bad", for the robustness benchmark to compare with.

Every peer gives `(F,)` float64 goodness of each frame as the start of an action chunk, higher is better; a peer that
judges whole episodes repeats its figure over their frames. One mapping turns the goodness of any peer into weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import digamma

from benchmarks.robustness.progress import CHUNK, filled, progress, progress_delta, standardized
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.runs.build import chunks_for
from hf_ptr.training.dataloaders import ChunkCollator

NEIGHBOURS = (5, 6, 7)
EMBEDDING, MI_BATCH, MI_ROUNDS = 10, 1024, 4
LOSS_BATCH = 256


def length(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    Episodes much longer or shorter than others of their labelled task are bad; an audit's simplest check.

    Returns:
        `(F,)` minus `|log(L / median L of the task)|`. The task of an episode is that of its first frame.
    """
    task = table.task_index[table.starts]
    median = np.ones(len(table.tasks))
    for index in np.unique(task):
        median[index] = np.median(table.lengths[task == index])
    return np.repeat(-np.abs(np.log(table.lengths / median[task])), table.lengths)


def smoothness(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    Jerky episodes are bad: the third difference of the actions, as curation by smoothness has it.

    Returns:
        `(F,)` minus the episode's mean squared jerk, over frames and action dimensions, in squared standard deviations
        of the actions. Episodes of fewer than four frames have no jerk, and get the median.
    """
    jerk = np.square(np.diff(standardized(table, ("action",)).astype(np.float64), n=3, axis=0)).mean(axis=1)
    jerk = np.concatenate((jerk, np.zeros(table.num_frames - len(jerk))))
    inside = np.repeat(table.lengths, table.lengths) - table.frame_index > 3
    return filled(-_episode_mean(jerk, inside, table), np.repeat(table.lengths > 3, table.lengths))


def mutual_information(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    DemInf (arXiv 2502.08623): what an episode adds to the mutual information of states and action chunks.

    The estimator is that of Kraskov, Stögbauer and Grassberger within random batches: with the distance of a pair the
    larger of its distances in state and in action, and `n_s`, `n_a` the samples nearer than the k-th neighbour in
    either alone (the sample itself included), a sample contributes `-ψ(n_s) - ψ(n_a)` and a constant. Averaged over
    k = 5, 6, 7 and several rounds of batches of 1,024, clipped at the 1 % and 99 % quantiles, averaged over the
    episode, as published. As there, a dataset is one (labelled) task; tasks differ in their level, which is taken off
    by the median. A batch needs all of its distances anyway, hence no search tree.

    One stand-in: the paper embeds states and action chunks with two VAEs; for low-dimensional states and actions the
    first 10 whitened principal components of either take their place. Chunks that outlast their episode repeat its
    last action.

    Returns:
        `(F,)` goodness in nats, 0 for a median frame of the task, and for tasks with no more frames than neighbours.
    """
    last = np.repeat(table.starts + table.lengths - 1, table.lengths)
    steps = np.minimum(np.arange(table.num_frames)[:, None] + np.arange(CHUNK), last[:, None])
    states = standardized(table, observation_features)
    chunks = standardized(table, ("action",))[steps].reshape(table.num_frames, -1)
    rng = np.random.default_rng(seed)
    goodness = np.zeros(table.num_frames)
    for task in np.unique(table.task_index):
        frames = np.flatnonzero(table.task_index == task)
        if len(frames) > max(NEIGHBOURS):
            found = _mean_contribution(_whitened(states[frames]), _whitened(chunks[frames]), rng)
            goodness[frames] = found - np.median(found)
    return _episode_mean(goodness, np.ones(table.num_frames, dtype=bool), table)


def _mean_contribution(states: torch.Tensor, actions: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """`(N,)`: what each of N pairs adds to the mutual information, over several rounds of batches."""
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
}


@torch.no_grad()
def policy_loss(policy: Any, processor: Any, table: EpisodeTable, *, draws: int = 16, seed: int) -> np.ndarray:
    """
    Chunks that a trained policy reproduces badly are bad: small-loss trimming.

    Args:
        policy: trained on these data or others; put back into the mode it was in. Belief tokens are not used.
        processor: its processor.
        table: the episodes.
        draws: of the policy's noise and flow time for every chunk; one draw says little, since a chunk's loss depends
            on the time drawn more than on the chunk.
        seed: of the draws. The caller's random state is left alone.

    Returns:
        `(F,)` minus the mean action loss `ℓ_act` of the chunk, in squared normalised actions.

    Raises:
        InputError: the policy does not know an instruction, or `draws` is below 1.
    """
    if draws < 1:
        raise InputError(f"draws is {draws}; it must be at least 1")
    dataset = chunks_for(policy.config, table, segment_chunks=1, target_offset=policy.config.chunk_size)
    collator = ChunkCollator(processor, dataset.tasks)
    device = next(policy.parameters()).device
    goodness = np.zeros(table.num_frames)
    was_training = policy.training
    policy.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for rows in np.array_split(np.arange(table.num_frames), table.num_frames // LOSS_BATCH + 1):
                batch = collator(dataset.__getitems__(rows.tolist()))
                inputs = {name: value.to(device) for name, value in batch.items()}
                for _ in range(draws):
                    goodness[rows] -= policy(inputs).action_loss.double().cpu().numpy() / draws
    finally:
        policy.train(was_training)
    return goodness


def weights_from_goodness(
    goodness: np.ndarray, *, w_min: float = 0.25, w_max: float = 4.0, temperature: float = 0.5
) -> np.ndarray:
    """
    The mapping from goodness to training weights that all peers share.

    `clip(exp(z / temperature), w_min, w_max)` with the robust z-score `z = (g - median) / (1.4826 MAD)`; where more
    than half of the goodness is one value, so that the MAD is zero, the standard deviation takes its place.

    Args:
        goodness: `(F,)`, finite.
        w_min, w_max: the bounds, around 1.
        temperature: of the exponential, in robust standard deviations.

    Returns:
        `(F,)` float64; exactly 1 everywhere if the goodness is constant.

    Raises:
        InputError: goodness that is not finite, bounds that are not around 1, a temperature that is not positive.
    """
    goodness = np.asarray(goodness, dtype=np.float64)
    if not np.isfinite(goodness).all():
        raise InputError(f"{int((~np.isfinite(goodness)).sum())} of {goodness.size} values of goodness are not finite")
    if not 0.0 < w_min <= 1.0 <= w_max:
        raise InputError(f"w_min {w_min} and w_max {w_max} must be positive and lie around 1")
    if temperature <= 0.0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    if goodness.size == 0 or goodness.min() == goodness.max():
        return np.ones_like(goodness)
    deviation = goodness - np.median(goodness)
    scale = 1.4826 * np.median(np.abs(deviation))
    scale = scale if scale > 0.0 else goodness.std()
    # In logarithms, so that no goodness is too good for a float.
    return np.exp(np.clip(deviation / (scale * temperature), np.log(w_min), np.log(w_max)))


def _episode_mean(values: np.ndarray, valid: np.ndarray, table: EpisodeTable) -> np.ndarray:
    """`(F,)`: the mean of the valid values of each frame's episode; 0 where it has none."""
    episode = table.episode_of_row
    total = np.bincount(episode, values * valid, table.num_episodes)
    return (total / np.maximum(np.bincount(episode, valid, table.num_episodes), 1.0))[episode]


def _whitened(columns: np.ndarray) -> torch.Tensor:
    """`(F, ≤ EMBEDDING)`: the first principal components of `columns (F, d)`, each of unit variance."""
    centred = columns.astype(np.float64) - columns.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(values > 1e-6 * max(values[-1], 1e-12))[-EMBEDDING:]
    return torch.from_numpy(centred @ (vectors[:, kept] / np.sqrt(values[kept])))


def _ksg(states: torch.Tensor, actions: torch.Tensor) -> np.ndarray:
    """`(N,)`: each sample's part in the mutual information of `states (N, p)` and `actions (N, q)`, in nats."""
    apart = [
        torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(0.0) for z in (states, actions)
    ]
    nearest = torch.maximum(*apart).topk(max(NEIGHBOURS) + 1, largest=False).values
    total = np.zeros(len(states))
    for k in NEIGHBOURS:
        for distance in apart:
            # Where neighbours coincide none is nearer; the sample itself always counts.
            nearer = (distance < nearest[:, k, None]).sum(dim=1).clamp(min=1)
            total -= digamma(nearer.numpy())
    return total / len(NEIGHBOURS)
