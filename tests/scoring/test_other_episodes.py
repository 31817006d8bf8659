"""Scores of the episodes outside of the sample: the same in any number of processes and after any interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_helpers import LENGTH, drifting_table

from hf_ptr.data import episode_groups
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.scoring import cross_fitting, other_episodes
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.scoring.fitted_scores import FittedScores
from hf_ptr.utils.shared_work import ALONE, Share

EPISODES, SAMPLE = 40, 20
WRONG = (7, 16, 25, 38)


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_groups, "MOST_EPISODES", SAMPLE)
    monkeypatch.setattr(episode_groups, "TOGETHER", 4)
    monkeypatch.setattr(other_episodes, "BLOCK", 5 * LENGTH)


def fit(keep: Path | None = None, share: Share = ALONE, steps: int = 2, **changes: Any) -> FittedScores:
    chunks = ChunkDataset(drifting_table([LENGTH] * EPISODES, wrong=WRONG), chunk_size=8, target_offset=8)
    return fit_scores(chunks, ScoreConfig(steps=steps, **changes), keep=keep, progress=False, share=share)


def test_faults_outside_of_the_sample_get_the_least_weights() -> None:
    fitted = fit(steps=24, rounds=1)
    assert fitted.fitted_to == SAMPLE
    frame = fitted.frame()
    assert not frame.score.isna().any() and len(frame) == EPISODES * LENGTH
    weight = frame.groupby("episode_index").weight.mean().to_numpy()
    assert weight[list(WRONG)].max() < np.median(np.delete(weight, WRONG))
    assert weight[list(WRONG)].mean() < 0.7 * np.delete(weight, WRONG).mean()


def test_two_processes_score_what_one_does(tmp_path: Path) -> None:
    alone = fit().frame()
    # The second process comes first here: it finds nothing of the first, and does its own blocks.
    fit(tmp_path, Share(1, 2))
    pd.testing.assert_frame_equal(fit(tmp_path, Share(0, 2)).frame(), alone)


def test_finished_blocks_are_read_and_lost_ones_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(tmp_path).frame()
    blocks = sorted(tmp_path.glob("block-*"))
    assert len(blocks) > 3
    blocks[0].unlink()
    blocks[1].write_bytes(blocks[1].read_bytes()[:100])
    made: list[int] = []
    score = other_episodes.OtherEpisodes._score_block

    def counted(*args: Any) -> Any:
        made.append(1)
        return score(*args)

    def never(*args: Any) -> Any:
        raise AssertionError("the heads are not read from the folder")

    monkeypatch.setattr(other_episodes.OtherEpisodes, "_score_block", counted)
    monkeypatch.setattr(cross_fitting, "train_heads", never)
    pd.testing.assert_frame_equal(fit(tmp_path).frame(), whole)
    assert len(made) == 2


def test_processes_wait_for_the_fit_and_for_the_blocks(tmp_path: Path) -> None:
    for rank in (1, 0):
        waits: list[int] = []
        fit(tmp_path, Share(rank, 2, lambda: waits.append(1)))  # noqa: B023
        assert len(waits) == 2
