"""Dimensions that rest do not enter the score, and goals and small units do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from data_helpers import drifting_table, vector

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.feature_scale import feature_scale
from hf_ptr.scoring.transitions import lazy_transitions

EPISODES, LENGTH = 12, 50
STATE = "observation.state"


def per_episode(size: float) -> np.ndarray:
    """A value of each episode's own, `(F, 1)`."""
    return np.repeat(size * np.random.default_rng(1).normal(size=(EPISODES, 1)), LENGTH, axis=0)


def noise(size: float) -> np.ndarray:
    return size * np.random.default_rng(2).normal(size=(EPISODES * LENGTH, 1))


def drift(size: float) -> np.ndarray:
    """A slow movement of every episode, as of a warm motor, `(F, 1)`."""
    steps = np.random.default_rng(3).normal(size=(EPISODES, LENGTH))
    return size * np.cumsum(steps, axis=1).reshape(-1, 1) / LENGTH**0.5


def with_dimension(values: np.ndarray, name: str) -> EpisodeTable:
    """The drifting table, whose two dimensions move by about 1, with one more."""
    table = drifting_table([LENGTH] * EPISODES, tasks=1)
    column = np.concatenate((table.columns[name], values), axis=1).astype(np.float32)
    return dataclasses.replace(
        table, columns={**table.columns, name: column}, features={**table.features, name: vector(3)}
    )


REST = {
    "encoder noise": noise(0.002),
    "encoder noise at an angle of the episode's own": per_episode(0.02) + noise(0.002),
    "slow drift at an angle of the episode's own": per_episode(0.02) + drift(0.005),
    "a flickering digit": np.round(noise(0.5)) * 0.001,
    "constant": np.zeros((EPISODES * LENGTH, 1)),
}
MOVING = {
    "a gripper in metres": np.tile(np.repeat([0.0, 0.04], LENGTH // 2), EPISODES)[:, None] * 5,
    "a joint in a few episodes": drift(1.0) * (np.arange(EPISODES * LENGTH) < 3 * LENGTH)[:, None],
}


@pytest.mark.parametrize("name", [STATE, "action"])
@pytest.mark.parametrize("kind", REST)
def test_a_dimension_at_rest_is_zero(kind: str, name: str) -> None:
    table = with_dimension(REST[kind], name)
    scale = feature_scale(table, name, ScoreConfig(), observed=name == STATE)
    scaled = (table.columns[name] - scale["mean"]) / scale["std"]
    assert np.abs(scaled[:, 2]).max() < 0.01
    np.testing.assert_allclose(scaled[:, :2].std(axis=0), 1.0, rtol=1e-3)


@pytest.mark.parametrize("name", [STATE, "action"])
@pytest.mark.parametrize("kind", MOVING)
def test_a_dimension_that_moves_counts_in_full(kind: str, name: str) -> None:
    table = with_dimension(MOVING[kind], name)
    scale = feature_scale(table, name, ScoreConfig(), observed=name == STATE)
    np.testing.assert_allclose(scale["std"], table.columns[name].std(axis=0), rtol=1e-3)


def restless(correlation: float, size: float) -> np.ndarray:
    """Commands of a few frames a second, hardly more alike from frame to frame than noise, `(F, 1)`."""
    values = noise(1.0).reshape(EPISODES, LENGTH)
    for frame in range(1, LENGTH):
        values[:, frame] = correlation * values[:, frame - 1] + (1 - correlation**2) ** 0.5 * values[:, frame]
    return size * values.reshape(-1, 1)


@pytest.mark.parametrize("name", [STATE, "action"])
@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_only_small_noise_is_rest(correlation: float, name: str) -> None:
    for size, rests in ((1.0, False), (0.3, False), (0.14, True)):
        # The two dimensions of the table that move.
        table = with_dimension(restless(correlation, size * drifting_scale(name)), name)
        std = feature_scale(table, name, ScoreConfig(), observed=name == STATE)["std"]
        assert np.isinf(std).tolist() == [False, False, rests]


def drifting_scale(name: str) -> float:
    """The standard deviation within the episodes of the table's dimension that moves most."""
    column = drifting_table([LENGTH] * EPISODES, tasks=1).columns[name].reshape(EPISODES, LENGTH, 2)
    return float(column.std(axis=1).max(axis=1).mean())


def test_a_goal_counts_as_an_observation_and_not_as_a_command() -> None:
    table = with_dimension(per_episode(0.5), STATE)
    assert np.isfinite(feature_scale(table, STATE, ScoreConfig(), observed=True)["std"]).all()
    assert np.isinf(feature_scale(table, STATE, ScoreConfig(), observed=False)["std"][2])


def test_where_nothing_moves_nothing_is_left_out() -> None:
    table = drifting_table([LENGTH] * EPISODES, tasks=1)
    white = np.random.default_rng(0).normal(size=(EPISODES * LENGTH, 2)).astype(np.float32)
    table = dataclasses.replace(table, columns={**table.columns, "action": white})
    assert np.isfinite(feature_scale(table, "action", ScoreConfig(), observed=False)["std"]).all()


def test_the_smallest_deviation_of_the_recipe_holds_for_state_and_not_for_actions() -> None:
    table, config = drifting_table([LENGTH] * EPISODES, tasks=1), ScoreConfig(min_std=50.0)
    assert feature_scale(table, STATE, config, observed=True)["std"].tolist() == [50.0, 50.0]
    assert (feature_scale(table, "action", config, observed=False)["std"] < 2.0).all()


def test_resting_dimensions_change_no_distance_between_transitions() -> None:
    plain = drifting_table([LENGTH] * EPISODES, tasks=1)
    resting = with_dimension(per_episode(0.02) + noise(0.002), STATE)
    sets = []
    for table in (plain, resting):
        transitions = lazy_transitions(ChunkDataset(table, chunk_size=8, target_offset=8), ScoreConfig())
        sets.append(transitions.take(torch.arange(len(transitions))))
    for name in ("context", "next_observation", "change"):
        wide = getattr(sets[1], name)
        torch.testing.assert_close(wide[:, :2], getattr(sets[0], name))
        assert float(wide[:, 2].abs().max()) == 0.0
