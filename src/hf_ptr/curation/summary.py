"""Scores in short, for the terminal and for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from hf_ptr.curation.evidence import read_evidence
from hf_ptr.curation.findings import found_faults, sample_share, summarise_episodes
from hf_ptr.data.corruption import CorruptionTruth


def with_known_faults(scores: pd.DataFrame, truth: CorruptionTruth) -> pd.DataFrame:
    """The scores with a column `fault`: the faults that each row's episode is known to carry, joined by `+`."""
    carried = {
        int(episode): "+".join(name for name, carries in truth.faults.items() if carries[position])
        for position, episode in enumerate(truth.episode_index)
    }
    return scores.assign(fault=[carried.get(number, "") for number in scores.episode_index.tolist()])


def worst_episodes(episodes: Sequence[Mapping[str, Any]], tasks: Sequence[str], count: int = 10) -> Table:
    """
    The episodes of least mean weight, and the view that lowers it, for the terminal.

    Args:
        episodes: as [`summary`] gives them.
        tasks: the instructions that `task_index` points into.
        count: how many are shown.
    """
    shown = Table(title=f"episodes of least weight, of {len(episodes)}")
    shown.add_column("episode", justify="right")
    shown.add_column("mean weight", justify="right")
    shown.add_column("mean score", justify="right")
    shown.add_column("what does not fit")
    shown.add_column("task")
    for row in episodes[:count]:
        figures = (f"{row['weight']:.2f}", f"{row['score']:.2f}")
        shown.add_row(str(row["episode"]), *figures, row["failed"], escape(tasks[row["task_index"]]))
    return shown


def summary(path: Path) -> dict[str, Any]:
    """
    What a score file says, in values that JSON has.

    Returns:
        `scores` (the file), `frames`, `with_target`, `mean_score`, `mean_weight`, `ess` (effective sample size over
        n), `episodes` (each with `episode task_index weight score failed doubtful`, least weight first), and `faults`,
        where some are known (each with `fault episodes auroc`).
    """
    evidence = read_evidence(path)
    scores, episodes = evidence.scores, summarise_episodes(evidence)
    assert scores is not None
    counted = scores.score[scores.valid]
    return {
        "scores": str(path),
        "frames": len(scores),
        "with_target": len(counted),
        "mean_score": float(counted.mean()) if len(counted) else None,
        "mean_weight": float(scores.weight.mean()),
        "ess": sample_share(scores.weight.to_numpy()),
        "episodes": [
            {
                "episode": int(number),
                "task_index": int(row.task_index),
                "weight": float(row.weight),
                "score": float(row.score),
                "failed": str(row.failed),
                "doubtful": bool(row.doubtful),
            }
            for number, row in episodes.sort_values("weight", kind="stable").iterrows()
        ],
        "faults": [
            {"fault": fault.name, "episodes": fault.episodes, "auroc": fault.auroc} for fault in found_faults(episodes)
        ],
    }
