"""Noise on actions is seen from frame to frame, and a slip or a stop is none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from data_helpers import drifting_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.scoring.action_noise import ACTION_NOISE, action_noise_scores, tremor
from hf_ptr.scoring.calibration import FAILED
from hf_ptr.scoring.transitions import cut_transitions


def moving(noise: dict[int, float], positions: bool = False) -> EpisodeTable:
    """Twelve episodes of smooth movements; some with noise, in standard deviations of the movement."""
    table = drifting_table([80] * 12)
    random = np.random.default_rng(0)
    time = np.arange(80)[:, None] / 8.0 + random.uniform(0, 6, (12, 1, 2))
    action = np.sin(time) + (3.0 * random.normal(size=(12, 1, 2)) if positions else 0.0)
    for episode, size in noise.items():
        action[episode] += size * np.sqrt(0.5) * random.normal(size=(80, 2))
    return dataclasses.replace(table, columns={**table.columns, "action": action.reshape(-1, 2).astype(np.float32)})


def distances(table: EpisodeTable, chunk_size: int = 16, target_offset: int = 16) -> dict[str, torch.Tensor]:
    cut = cut_transitions(ChunkDataset(table, chunk_size=chunk_size, target_offset=target_offset))
    return action_noise_scores(cut, torch.zeros(12, dtype=torch.int64), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("positions", [False, True])
def test_noise_is_found_whatever_actions_mean(positions: bool) -> None:
    z = distances(moving({0: 0.3, 1: 1.0, 2: 0.03}, positions))[ACTION_NOISE].reshape(12, -1)
    assert (z[:2] < FAILED).all()
    # A tenth of the noise made on purpose is no fault, and steady hands are none.
    assert (z[2:] > 0.75).all()


def test_a_tremor_is_in_the_units_of_its_noise() -> None:
    noise = 0.1 * torch.randn(4000, 16, 3, generator=torch.Generator().manual_seed(0))
    # Of |x| of a normal number, the median is 0.6745; second differences have a variance of 1 + 4 + 1.
    assert float(tremor(noise).mean()) == pytest.approx(0.1 * 6**0.5 * 0.6745, rel=0.1)
    slope = torch.arange(16.0)[None, :, None].expand(1, 16, 3)
    torch.testing.assert_close(tremor(slope), torch.zeros(1, 3))


def test_a_slip_and_a_stop_are_no_tremor() -> None:
    action = torch.ones(2, 16, 2)
    action[0, 5:9] = -1.0
    action[1, 10:] = 0.0
    assert tremor(action).max() == 0.0


def test_where_every_hand_trembles_nobody_is_blamed() -> None:
    z = distances(moving(dict.fromkeys(range(12), 1.0)))
    assert (z[ACTION_NOISE].reshape(12, -1).mean(dim=1) > FAILED).all()


def test_what_fills_up_a_chunk_past_the_end_is_no_steadiness() -> None:
    # Of 76 chunks of 60 frames 21 lie within their episode of 80: what the others are filled up with is steady.
    z = distances(moving({0: 0.3, 1: 1.0}), chunk_size=60, target_offset=4)[ACTION_NOISE].reshape(12, 76)
    assert (z[:2] < FAILED).all() and (z[2:] > 0.75).all()
    # Those say what the others of their episode do.
    torch.testing.assert_close(z[:, 21:], z[:, 21:22].expand(-1, 55))


def test_chunks_too_short_to_tremble_say_nothing() -> None:
    assert distances(moving({}), chunk_size=2) == {}
