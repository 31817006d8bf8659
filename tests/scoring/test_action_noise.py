"""The check `action/noise`: it finds noise from frame to frame, and no slip or stop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from data_helpers import drifting_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.scoring.action_noise import action_noise_score, second_difference
from hf_ptr.scoring.config import ACTION_NOISE, ScoreConfig
from hf_ptr.scoring.transitions import lazy_transitions

CONFIG = ScoreConfig()


def moving(noise: dict[int, float], positions: bool = False) -> EpisodeTable:
    """Twelve episodes of smooth movements; some with noise, in standard deviations of the movement."""
    table = drifting_table([80] * 12)
    random = np.random.default_rng(0)
    time = np.arange(80)[:, None] / 8.0 + random.uniform(0, 6, (12, 1, 2))
    action = np.sin(time) + (3.0 * random.normal(size=(12, 1, 2)) if positions else 0.0)
    for episode, size in noise.items():
        action[episode] += size * np.sqrt(0.5) * random.normal(size=(80, 2))
    return dataclasses.replace(table, columns={**table.columns, "action": action.reshape(-1, 2).astype(np.float32)})


def noise_scores(table: EpisodeTable, chunk_size: int = 16, target_offset: int = 16) -> dict[str, torch.Tensor]:
    transitions = lazy_transitions(ChunkDataset(table, chunk_size=chunk_size, target_offset=target_offset), CONFIG)
    return action_noise_score(
        transitions, torch.zeros(12, dtype=torch.int64), CONFIG, torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("positions", [False, True])
def test_noise_is_found_in_displacements_and_positions(positions: bool) -> None:
    z = noise_scores(moving({0: 0.3, 1: 1.0, 2: 0.03}, positions))[ACTION_NOISE].reshape(12, -1)
    assert (z[:2] < CONFIG.threshold).all()
    # A tenth of the planted noise is not a fault, and neither is a steady hand.
    assert (z[2:] > 0.75).all()


def test_second_differences_are_in_units_of_the_noise() -> None:
    noise = 0.1 * torch.randn(4000, 16, 3, generator=torch.Generator().manual_seed(0))
    # The median of |x| of a normal number is 0.6745; second differences have a variance of 1 + 4 + 1.
    assert float(second_difference(noise).mean()) == pytest.approx(0.1 * 6**0.5 * 0.6745, rel=0.1)
    slope = torch.arange(16.0)[None, :, None].expand(1, 16, 3)
    torch.testing.assert_close(second_difference(slope), torch.zeros(1, 3))


def test_a_slip_and_a_stop_do_not_count_as_noise() -> None:
    action = torch.ones(2, 16, 2)
    action[0, 5:9] = -1.0
    action[1, 10:] = 0.0
    assert second_difference(action).max() == 0.0


def test_no_episode_fails_where_all_have_the_same_noise() -> None:
    z = noise_scores(moving(dict.fromkeys(range(12), 1.0)))
    assert (z[ACTION_NOISE].reshape(12, -1).mean(dim=1) > CONFIG.threshold).all()


def test_padding_past_the_end_does_not_count_as_steadiness() -> None:
    # Of 76 chunks of 60 frames, 21 lie within their episode of 80; the padding of the others has no noise.
    z = noise_scores(moving({0: 0.3, 1: 1.0}), chunk_size=60, target_offset=4)[ACTION_NOISE].reshape(12, 76)
    assert (z[:2] < CONFIG.threshold).all() and (z[2:] > 0.75).all()
    # Padded chunks get the score of their episode.
    torch.testing.assert_close(z[:, 21:], z[:, 21:22].expand(-1, 55))


def test_chunks_of_two_actions_have_no_score() -> None:
    assert noise_scores(moving({}), chunk_size=2) == {}
