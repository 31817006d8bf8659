"""Summary of scores for the terminal and for other programs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.equations import sample_size_of_sums
from hf_ptr.report.statistics import measure_known_faults, summarise_episodes


def with_known_faults(scores: pd.DataFrame, truth: CorruptionTruth) -> pd.DataFrame:
    """Adds the column `fault` to the scores: the known faults of the episode of each row, joined by `+`."""
    episodes, of_row = np.unique(scores.episode_index, return_inverse=True)
    carried = [
        "+".join(name for name, carries in truth.faults.items() if position >= 0 and carries[position])
        for position in pd.Index(truth.episode_index).get_indexer(episodes).tolist()
    ]
    return scores.assign(fault=np.array(carried, dtype=object)[of_row])


class ScoreSummary:
    """
    Collects statistics of scores while they are written, in types that JSON has.

    Args:
        flagged: ids of the episodes with a finding of severity `fault`.
        lowered: ids of further episodes, whose notes lower weights.
    """

    def __init__(self, flagged: Collection[int] = (), lowered: Collection[int] = ()) -> None:
        self.flagged, self.lowered = flagged, lowered
        self._frames = self._scored = 0
        self._score = self._weight = self._squares = 0.0
        self._episodes: list[pd.DataFrame] = []

    def collect(self, parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yields the parts, each of whole episodes, and includes each in the statistics as it passes."""
        for part in parts:
            weight, counted = part.weight.to_numpy(np.float64), part.score[part.valid].to_numpy(np.float64)
            self._frames += len(part)
            self._scored += len(counted)
            self._score += float(counted.sum())
            self._weight += float(weight.sum())
            self._squares += float(np.square(weight).sum())
            # The mean of an episode in single precision would lose digits.
            exact = part.astype({name: np.float64 for name in part if part[name].dtype == np.float32})
            self._episodes.append(summarise_episodes(exact, self.flagged))
            yield part

    def to_dict(self, path: Path) -> dict[str, Any]:
        """
        The collected statistics.

        Args:
            path: the score file.

        Returns:
            `flagged` and `lowered` (ids of these episodes), `scores` (the file), `frames`, `with_target`,
            `mean_score`, `mean_weight`, `ess` (effective sample size over n), `episodes` (each with
            `episode task_index weight score failed flagged`, lowest weight first), and `faults`, empty if none is
            known (each with `fault episodes auroc flagged`).
        """
        episodes = pd.concat(self._episodes)
        return {
            "flagged": sorted(self.flagged),
            "lowered": sorted(self.lowered),
            "scores": str(path),
            "frames": self._frames,
            "with_target": self._scored,
            "mean_score": self._score / self._scored if self._scored else None,
            "mean_weight": self._weight / self._frames,
            "ess": sample_size_of_sums(self._weight, self._squares) / self._frames if self._squares else None,
            "episodes": [
                {
                    "episode": int(number),
                    "task_index": int(row.task_index),
                    "weight": float(row.weight),
                    "score": float(row.score),
                    "failed": str(row.failed),
                    "flagged": bool(row.flagged),
                }
                for number, row in episodes.sort_values("weight", kind="stable").iterrows()
            ],
            "faults": [
                {"fault": fault.name, "episodes": fault.episodes, "auroc": fault.auroc, "flagged": fault.flagged}
                for fault in measure_known_faults(episodes)
            ],
        }
