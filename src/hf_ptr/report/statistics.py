"""Statistics of a report: one row per episode, shares of tasks and sources, and how well known faults are found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hf_ptr.data.score_file import ELEMENT_PREFIX
from hf_ptr.equations import sample_size_of_sums, source_shift
from hf_ptr.metrics.statistics import auroc


@dataclass(frozen=True)
class ShareShift:
    """
    The change of the share of one source or task by the weights.

    Attributes:
        name: the source or task.
        episodes: the number of its episodes.
        share: π, its share of the frames.
        weighted: q, its share of the weight.
        ratio: q/π, PTR Eq. (29).
    """

    name: str
    episodes: int
    share: float
    weighted: float
    ratio: float


@dataclass(frozen=True)
class KnownFault:
    """
    How well the score finds a fault whose episodes are known.

    Attributes:
        name: the fault.
        episodes: the number of episodes that carry it.
        auroc: the probability that an episode without any fault has a higher mean score than an episode with this
            fault; None if there are no episodes of one of the two kinds.
        flagged: the number of flagged episodes among them.
    """

    name: str
    episodes: int
    auroc: float | None
    flagged: int


def summarise_episodes(scores: pd.DataFrame, flagged: Collection[int] = ()) -> pd.DataFrame:
    """
    Summarises the scores of each episode.

    Args:
        scores: one row per frame, as in a score file.
        flagged: ids of the episodes with a finding of severity `fault`.

    Returns:
        One row per episode, indexed by its id: `frames`, `weight`, `score` and each `score_*` (means), `least` (the
        lowest weight), `task_index`, `source`, `estimated_lag` (frames), `fault`, `flagged`, `failed` and `check`.
        `failed` is the element of the score that fails most often in the episode, and `check` the check; "" if none
        fails.
    """
    elements = [name for name in scores if name.startswith(ELEMENT_PREFIX)]
    groups = scores.groupby("episode_index", sort=True)
    table = groups.agg(
        frames=("weight", "size"),
        weight=("weight", "mean"),
        score=("score", "mean"),
        least=("weight", "min"),
        **{element: (element, "mean") for element in elements},
    )
    for name, default in (("task_index", 0), ("source", ""), ("fault", ""), ("estimated_lag", 0)):
        table[name] = groups[name].first() if name in scores else default
    table["flagged"] = table.index.isin(list(flagged))
    table["failed"] = ""
    table["check"] = ""
    for column, into in (("failed_element", "failed"), ("failed_check", "check")):
        if column in scores:
            failed = scores[scores[column] != ""].groupby("episode_index")[column]
            most_often = failed.agg(lambda names: names.mode()[0])
            table.loc[most_often.index, into] = most_often
    return table


def share_shifts(scores: pd.DataFrame, names: Sequence[str]) -> list[ShareShift]:
    """
    The change of the share of each source or task, largest decrease first.

    Args:
        scores: one row per frame.
        names: the source or task of each row.
    """
    weight = scores.weight.to_numpy(dtype=np.float64)
    groups = pd.DataFrame({"weight": weight, "episode": scores.episode_index.to_numpy()}).groupby(list(names))
    share = groups.weight.size() / len(weight)
    weighted = groups.weight.sum() / weight.sum()
    episodes, ratio = groups.episode.nunique(), source_shift(weight, list(names))
    shifts = [
        ShareShift(str(name), int(episodes[name]), part, weighted[name], ratio[str(name)])
        for name, part in share.items()
    ]
    return sorted(shifts, key=lambda shift: shift.ratio)


def measure_known_faults(episodes: pd.DataFrame) -> list[KnownFault]:
    """
    Measures how well each known fault is found; empty if no fault is known.

    Args:
        episodes: from [`summarise_episodes`]; `fault` contains the faults of an episode, joined by `+`.
    """
    carried = episodes.fault.map(lambda text: set(filter(None, text.split("+"))))
    names = sorted(set().union(*carried))
    clean = episodes.score[carried.map(len) == 0].to_numpy()
    faults = []
    for name in [*names, *(["any"] if len(names) > 1 else [])]:
        carriers = carried.map(len) > 0 if name == "any" else carried.map(lambda faults, name=name: name in faults)
        flagged = int((carriers & episodes.flagged).sum())
        found = auroc(clean, episodes.score[carriers].to_numpy())
        faults.append(KnownFault(name, int(carriers.sum()), found, flagged))
    return faults


def ess_ratio(weight: np.ndarray) -> float:
    """Effective sample size over n, `(Σw)² / (n Σw²)`."""
    weight = np.asarray(weight, dtype=np.float64)
    return float(sample_size_of_sums(weight.sum(), np.square(weight).sum()) / len(weight))


def logged_series(log: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """`(step, value)` of a logged metric, without entries that are not finite numbers."""
    points = []
    for entry in log:
        step, value = entry.get("step"), entry.get(metric)
        if isinstance(step, int) and isinstance(value, int | float) and np.isfinite(value):
            points.append((step, float(value)))
    return points
