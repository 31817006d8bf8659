"""`hf-ptr export`: weights and findings in the formats of other trainers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import hf_ptr, the_line
from leading_table import leading_table

from hf_ptr.data.score_file import score_frame, write_scores
from hf_ptr.exports.rabc import rabc_weights, weight_error

FRAMES, EPISODES = 40, 6


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes; the weights of frames 10 to 19 of episode 2 and of all of episode 4 are low."""
    table = leading_table(EPISODES, frames=FRAMES)
    weight = np.full((EPISODES, FRAMES), 4.0)
    weight[2, 10:20] = weight[4] = 0.25
    frame = score_frame(table, score=1.0, weight=weight.ravel(), valid=True, scorer="made")
    return write_scores(frame, tmp_path_factory.mktemp("export") / "scores.parquet", dataset="data/mine")


def test_static_weights_have_mean_1_and_keep_their_ratios(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.parquet"
    done = hf_ptr("export", scores, "--to", "lerobot-static", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{out}: weights of {EPISODES * FRAMES} frames, scaled to mean 1" in done.stdout
    table, given = pd.read_parquet(out), pd.read_parquet(scores)
    assert list(table.columns) == ["index", "weight"] and list(table["index"]) == list(range(EPISODES * FRAMES))
    assert table["weight"].mean() == pytest.approx(1) and np.ptp(table["weight"] / given["weight"]) < 1e-12


def test_the_progress_file_has_the_error_that_is_printed(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "progress.parquet"
    done = hf_ptr("export", scores, "--to", "lerobot-rabc", "--chunk-size", 16, "--out", out)
    assert done.returncode == 0, done.stderr
    error = weight_error(pd.read_parquet(scores)["weight"].to_numpy(), rabc_weights(pd.read_parquet(out), 16))
    printed = re.search(r"mean absolute error ([\d.]+), largest ([\d.]+), correlation ([\d.]+)", done.stdout)
    assert printed is not None
    assert [float(one) for one in printed.groups()] == pytest.approx(list(error.values()), abs=0.01)
    assert f"--sample_weighting.type=rabc --sample_weighting.progress_path={out}" in done.stdout


def test_the_score_file_is_not_overwritten(scores: Path) -> None:
    before = scores.read_bytes()
    line = the_line(hf_ptr("export", scores, "--to", "lerobot-static", "--out", scores))
    assert "is the score file itself" in line and scores.read_bytes() == before
