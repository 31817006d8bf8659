"""Weights with faults: the least effective sample size, and the chunks beside a fault that has a place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_helpers import LENGTH, drifting_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.functional import effective_sample_size
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fitted_scores import FittedScores
from hf_ptr.scoring.transitions import lazy_transitions

CONFIG = ScoreConfig()
EPISODES, SHORT = 10, 2


def fitted(low: tuple[int, ...] = ()) -> FittedScores:
    """Scores of 1, in the `low` episodes of 0.3; the last two episodes are too short for a transition."""
    table = drifting_table([LENGTH] * EPISODES + [8] * SHORT)
    transitions = lazy_transitions(ChunkDataset(table, chunk_size=8, target_offset=8), CONFIG)
    score = torch.where(torch.isin(transitions.episode, torch.tensor(low, dtype=torch.int64)), 0.3, 1.0)
    lag = torch.zeros(EPISODES + SHORT, dtype=torch.int64)
    return FittedScores(table, transitions, {"action/pool": score}, lag, "none", CONFIG, table.num_episodes)


@pytest.mark.parametrize("share", [0.75, 0.85])
def test_faults_in_most_chunks_leave_the_least_sample_size(share: float) -> None:
    frames = EPISODES * LENGTH + SHORT * 8
    # From the end: the episodes without a transition have a fault, too.
    harm = np.where(np.arange(frames) >= (1 - share) * frames, 0.999, 0.0)
    found = fitted().with_faults(harm).frame()
    weight = torch.tensor(found.weight.to_numpy(), dtype=torch.float64)
    assert effective_sample_size(weight).item() / frames == pytest.approx(CONFIG.min_sample_size, abs=1e-3)
    assert weight[harm > 0].max() < 0.6 * weight[harm == 0].min()
    assert CONFIG.w_min <= weight.min() and weight.max() <= CONFIG.w_max


def test_where_faults_cover_most_chunks_the_least_harmful_are_excused_first() -> None:
    frames = EPISODES * LENGTH + SHORT * 8
    harm, least = np.zeros(frames), np.zeros(frames)
    harm[: 5 * LENGTH] = least[: 5 * LENGTH] = 0.999
    harm[5 * LENGTH : 8 * LENGTH], least[5 * LENGTH : 8 * LENGTH] = 0.999, 0.4995
    found = fitted().with_faults(harm, None, least).frame()
    weight = torch.tensor(found.weight.to_numpy(), dtype=torch.float64)
    assert effective_sample_size(weight).item() / frames == pytest.approx(CONFIG.min_sample_size, abs=0.02)
    worst, excused, sound = weight[: 5 * LENGTH], weight[5 * LENGTH : 8 * LENGTH], weight[8 * LENGTH : 10 * LENGTH]
    assert worst.max() < CONFIG.w_min + 0.01 and sound.min() > CONFIG.w_max - 0.1
    assert CONFIG.w_min + 0.3 < excused.min() and excused.max() < (CONFIG.w_min + CONFIG.w_max) / 2
    # Where few chunks are faulty nothing has to be excused.
    few = np.where(np.arange(frames) >= 5 * LENGTH, harm, 0.0)
    assert fitted().with_faults(few, None, few / 2).frame().weight.equals(fitted().with_faults(few).frame().weight)


def test_few_faults_keep_the_limit_also_without_a_transition() -> None:
    harm = np.zeros(EPISODES * LENGTH + SHORT * 8)
    harm[:20] = harm[-8:] = 0.9
    weight = fitted().with_faults(harm).frame().weight.to_numpy()
    limit = 0.9 * CONFIG.w_min + 0.1 * CONFIG.w_max
    assert weight[harm > 0] == pytest.approx(limit, abs=1e-4)
    assert weight[harm == 0].min() > 3.8


def test_beside_a_fault_that_has_a_place_a_chunk_weighs_as_in_a_sound_episode() -> None:
    scores = fitted(low=(0, 1))
    harm = np.zeros(EPISODES * LENGTH + SHORT * 8)
    harm[5:12] = 0.95
    explained = np.zeros(len(harm), dtype=bool)
    explained[:LENGTH] = harm[:LENGTH] == 0
    found = scores.with_faults(harm, explained).frame()
    sound = found[(found.episode_index >= 12) & (found.episode_index < 20)]
    for column in ("weight", "score"):
        values = found[column].to_numpy()
        assert values[explained] == pytest.approx(sound[column].median(), rel=1e-6)
        # Of the other episode with a low score no fault was found: it keeps it.
        before = scores.frame()[column].to_numpy()
        assert (values[LENGTH : 2 * LENGTH] == before[LENGTH : 2 * LENGTH]).all()
    assert found.weight[5:12].max() < 0.5


def test_without_faults_nothing_changes() -> None:
    scores = fitted(low=(0,))
    frames = EPISODES * LENGTH + SHORT * 8
    found = scores.with_faults(np.zeros(frames), np.zeros(frames, dtype=bool)).frame()
    assert found.equals(scores.frame())


def test_a_fault_without_harm_explains_a_low_score() -> None:
    scores = fitted(low=(0,))
    frames = EPISODES * LENGTH + SHORT * 8
    explained = np.arange(frames) < LENGTH
    before, found = scores.frame(), scores.with_faults(np.zeros(frames), explained).frame()
    assert before.weight[explained].max() < 1.0
    assert found.weight[explained].min() == pytest.approx(before.weight[~explained].median(), rel=1e-6)
