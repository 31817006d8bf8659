"""The check `action/noise`: it finds noise from frame to frame, and no slip or stop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from data_helpers import drifting_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.scoring.action_noise import ActionNoise, second_difference
from hf_ptr.scoring.calibration import calibrated_weight
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
    rows = torch.arange(len(transitions))
    return ActionNoise(transitions, rows, CONFIG, torch.Generator().manual_seed(0)).calibrated()


@pytest.mark.parametrize("positions", [False, True])
def test_noise_is_found_in_displacements_and_positions(positions: bool) -> None:
    z = noise_scores(moving({0: 0.5, 1: 1.0, 2: 0.05}, positions))[ACTION_NOISE].reshape(12, -1)
    assert (z[:2] < CONFIG.threshold).all()
    # A tenth of the planted noise is not a fault, and neither is a steady hand.
    assert (z[2:] > 0.75).all()


def weights_by_episode(z: dict[str, torch.Tensor]) -> torch.Tensor:
    return calibrated_weight(z[ACTION_NOISE], CONFIG).reshape(12, -1).mean(dim=1)


@pytest.mark.parametrize("trembling", [1, 5])
@pytest.mark.parametrize("size", [0.05, 0.1])
def test_a_tremor_is_not_a_fault_however_few_or_many_hands_tremble(size: float, trembling: int) -> None:
    z = noise_scores(moving(dict.fromkeys(range(trembling), size)))
    assert weights_by_episode(z).min() > 3.0
    # It can still be distinguished from a steady hand.
    mean = z[ACTION_NOISE].reshape(12, -1).mean(dim=1)
    assert mean[:trembling].max() < mean[trembling:].min()


def test_noise_that_the_data_usually_have_is_not_a_fault_and_much_more_is() -> None:
    noise = dict.fromkeys(range(12), 0.3) | {0: 0.4, 1: 1.2}
    weight = weights_by_episode(noise_scores(moving(noise)))
    assert weight[1] < 1.0 and weight[0] > 3.0 and weight[2:].min() > 3.0


@pytest.mark.parametrize("every", [2, 3])
def test_commands_that_are_held_are_not_noise(every: int) -> None:
    table = moving({11: 0.5})
    action = table.columns["action"].reshape(12, 80, 2)
    time = np.arange(80)
    action[:2] = action[:2, time - time % every]
    weight = weights_by_episode(noise_scores(table))
    assert weight[:2].min() > 3.5 and weight[11] < 2.0


def test_joints_at_rest_do_not_count() -> None:
    table = moving({0: 0.5})
    random = np.random.default_rng(0)
    action = np.concatenate((table.columns["action"], 0.01 * random.normal(size=(960, 14))), axis=1)
    found = noise_scores(dataclasses.replace(table, columns={**table.columns, "action": action.astype(np.float32)}))
    torch.testing.assert_close(found, noise_scores(table), atol=0.05, rtol=0.0)


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
    z = noise_scores(moving({0: 0.5, 1: 1.0}), chunk_size=60, target_offset=4)[ACTION_NOISE].reshape(12, 76)
    assert (z[:2] < CONFIG.threshold).all() and (z[2:] > 0.75).all()
    # Padded chunks get the score of their episode.
    torch.testing.assert_close(z[:, 21:], z[:, 21:22].expand(-1, 55))


def test_chunks_of_two_actions_have_no_score() -> None:
    assert noise_scores(moving({}), chunk_size=2) == {}
