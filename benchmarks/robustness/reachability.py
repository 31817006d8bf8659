"""A peer that estimates from states, actions and goals how much an action chunk helps to reach the goal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.robustness.small_networks import BATCH, CHUNK, STEPS, WIDTH, fit, in_blocks, mlp, standardized
from hf_ptr.data.episodes import EpisodeTable

# Futures are drawn a geometric number of frames ahead with this mean, two chunks.
AHEAD = 2 * CHUNK
# Chunks of the same task that the recorded chunk is compared with.
OTHERS = 8
TEMPERATURE = 0.1


def reachability(table: EpisodeTable, seed: int, *, observation_features: Sequence[str]) -> np.ndarray:
    """
    Goal-reachability weights (GR-BC): low for chunks that make the end of their own episode less reachable.

    A contrastive critic tells, for `(o_t, a_t .. a_{t+CHUNK-1})`, the observation that followed in the episode, a
    geometric number of frames ahead, from those of the other samples of the batch (InfoNCE). At its optimum the critic
    is the log ratio of the probability to reach an observation after the chunk and at any time. The goal of a chunk is
    the last observation of its episode. The score is the critic's value of the recorded chunk minus its mean over
    `OTHERS` chunks of other frames with the same label.

    This is the idea and not the published form, which embeds images and has its own mapping to weights. Here all peers
    share one mapping.

    Returns:
        `(F,)` float64 in nats.
    """
    observations = torch.from_numpy(standardized(table, observation_features))
    last = np.repeat(table.starts + table.lengths - 1, table.lengths)
    steps = np.minimum(np.arange(table.num_frames)[:, None] + np.arange(CHUNK), last[:, None])
    chunks = torch.from_numpy(standardized(table, ("action",))[steps].reshape(table.num_frames, -1))
    rng = np.random.default_rng(seed)
    rows = rng.integers(table.num_frames, size=(STEPS, BATCH))
    future = np.minimum(rows + rng.geometric(1 / AHEAD, size=rows.shape), last[rows])
    same = torch.arange(BATCH)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        of_chunk, of_goal = mlp(observations.shape[1] + chunks.shape[1], WIDTH), mlp(observations.shape[1], WIDTH)

        def compare(pair: np.ndarray) -> torch.Tensor:
            first = nn.functional.normalize(of_chunk(torch.cat((observations[pair[0]], chunks[pair[0]]), 1)), dim=1)
            goals = nn.functional.normalize(of_goal(observations[pair[1]]), dim=1)
            return first @ goals.T / TEMPERATURE

        def batches() -> Iterable[tuple[np.ndarray, torch.Tensor]]:
            for pair in np.stack([rows, future], axis=1):
                yield pair, same

        fit(nn.ModuleList((of_chunk, of_goal)), compare, batches(), nn.functional.cross_entropy)

    ends = table.starts + table.lengths - 1
    goals = in_blocks(lambda block: nn.functional.normalize(of_goal(observations[block]), dim=1), ends)

    def value(block: np.ndarray, taken: np.ndarray) -> torch.Tensor:
        first = nn.functional.normalize(of_chunk(torch.cat((observations[block], chunks[taken]), 1)), dim=1)
        return (first * goals[episode[block]]).sum(dim=1) / TEMPERATURE

    every, episode = np.arange(table.num_frames), table.episode_of_row
    score = in_blocks(lambda block: value(block, block), every).double().numpy()
    for _ in range(OTHERS):
        other = _of_same_task(table, rng)
        score -= in_blocks(lambda block, other=other: value(block, other[block]), every).double().numpy() / OTHERS
    return score


def _of_same_task(table: EpisodeTable, rng: np.random.Generator) -> np.ndarray:
    """`(F,)`: for each frame a random frame with the same label."""
    drawn = np.arange(table.num_frames)
    for task in np.unique(table.task_index):
        frames = np.flatnonzero(table.task_index == task)
        drawn[frames] = rng.choice(frames, size=len(frames))
    return drawn
