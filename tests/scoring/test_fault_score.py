"""The score and the weight of chunks with a fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from leading_table import leading_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.scoring.calibration import calibrated_weight, fault_score
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores

CONFIG = ScoreConfig(steps=2, rounds=1)


@pytest.mark.parametrize("config", [CONFIG, ScoreConfig(w_min=0.5, w_max=2.0)])
def test_the_weight_at_the_score_of_a_fault_is_the_expected_one(config: ScoreConfig) -> None:
    p = torch.tensor([0.0, 0.01, 0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
    score = fault_score(p, config)
    expected = p * config.w_min + (1 - p) * config.w_max
    torch.testing.assert_close(calibrated_weight(score, config), expected, rtol=0, atol=1e-9)
    assert score[0] == torch.inf and score[-1] == -config.score_limit and (score.diff() < 0).all()


def test_faults_lower_score_and_weight_and_nothing_else() -> None:
    table = leading_table(8, frames=40)
    fitted = fit_scores(ChunkDataset(table, chunk_size=8, target_offset=8), CONFIG, progress=False)
    probability = np.zeros(table.num_frames)
    probability[45:60] = 0.9
    before, after = fitted.frame(), fitted.with_faults(probability).frame()
    faulty = probability > 0
    assert (after.weight[faulty] <= 0.1 * CONFIG.w_max + 0.9 * CONFIG.w_min + 1e-6).all()
    assert (after.score[faulty] < CONFIG.threshold).all()
    kept = [name for name in before if name not in ("score", "weight")]
    assert after[~faulty].equals(before[~faulty]) and after[kept].equals(before[kept])
    assert before.equals(fitted.frame())
