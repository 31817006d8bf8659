"""Helpers of the report tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_helpers import coded_table
from video_helpers import CAMERA, LENGTHS, dataset, frame_of  # noqa: F401

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.score_file import score_file_keys, write_scores
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import DETECTION, findings_written


def scores_of(table: EpisodeTable, score: dict[int, float]) -> pd.DataFrame:
    """Scores as from `fit_scores`, with the given score of each episode (1 by default)."""
    z = np.array([score.get(number, 1.0) for number in np.repeat(table.episode_index, table.lengths)])
    return pd.DataFrame(
        {
            **score_file_keys(table),
            "score": z,
            "weight": 0.25 + 3.75 / (1 + np.exp(-(z - 0.5) / 0.08)),
            "valid": True,
            "scorer": "abc",
            "score_next_observation": 1.0,
            "score_action": z,
            "score_instruction": np.nan,
            "failed_element": np.where(z < 0.5, "action", ""),
        }
    )


@pytest.fixture
def table() -> EpisodeTable:
    return coded_table([30, 20, 25, 40, 30, 20, 22, 27, 31, 30])


def written(scores: pd.DataFrame, folder: Path, findings: Sequence[Finding] | None = None, **made: object) -> Path:
    """A score file; with findings, also theirs."""
    out = folder / "scores.parquet"
    if findings is None:
        return write_scores(scores, out)
    with findings_written(out, findings, {}, **made) as mark:
        return write_scores(scores, out, **{DETECTION: mark})


def fault(episode: int, first: int, last: int, cause: str = "commands 6.0 frames late", **other: Any) -> Finding:
    values = {"check": "action/lag", "probability": 0.98, "severity": "fault", "amount": 6.0, "unit": "frames"}
    values |= {"action": "shift the actions by the lag", **other}
    return Finding(episode_index=episode, first_frame=first, last_frame=last, cause=cause, **values)


def run_folder(folder: Path, **settings: object) -> Path:
    """The folder of a small finished run."""
    folder.mkdir()
    log = [
        {"step": s, "loss_action": 2 / s, "nce_acc": 0.5, "ptr_score": 3.0, "weight_clip_high": 0.99, "ess": 1.0,
         "scorer_temperature": 0.03, "beta": 0.5, "weight_mean": 4.0}
        for s in range(1, 9)
    ]  # fmt: skip
    given = {"alpha": 1.0, "w_min": 0.25, "w_max": 4.0, "nce_warmup_steps": 2, **settings}
    (folder / "training_args.json").write_text(json.dumps(given))
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    (folder / "recipe.yaml").write_text("seed: 3\n")
    return folder
