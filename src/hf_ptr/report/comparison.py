"""Comparison of two runs or score files in one report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from hf_ptr.report import plots
from hf_ptr.report.inputs import ReportInput
from hf_ptr.report.statistics import ess_ratio, logged_series

# The number of episodes in the list of the largest differences, and the smallest difference in it.
MOST_DIFFERENT, MIN_DIFFERENCE = 8, 0.01


def compare_values(first: ReportInput, second: ReportInput, metrics: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """
    The values of both, one row each: weights, logged metrics at the end of training, and settings that differ.

    Args:
        first, second: the two inputs.
        metrics: the titles of the logged metrics, by metric.

    Returns:
        `(title, first value, second value)`; "–" for a value that one of them lacks.
    """
    both = (first, second)
    rows: list[tuple[str, list[str]]] = []
    weights = [None if one.scores is None else one.scores.weight.to_numpy() for one in both]
    rows.append(("mean weight", ["–" if w is None else f"{w.mean():.2f}" for w in weights]))
    rows.append(("effective sample size / n", ["–" if w is None else f"{ess_ratio(w):.2f}" for w in weights]))
    rows.append(("flagged episodes", ["–" if one.findings is None else str(len(one.flagged)) for one in both]))
    for metric, title in metrics.items():
        ends = [logged_series(one.log, metric) for one in both]
        rows.append((f"{title}, at the end", [f"{points[-1][1]:.3g}" if points else "–" for points in ends]))
    keys = {*first.recipe, *second.recipe} - {"output_dir"}
    for key in sorted(key for key in keys if first.recipe.get(key) != second.recipe.get(key)):
        rows.append((str(key), [str(one.recipe.get(key, "–")) for one in both]))
    return [(title, values[0], values[1]) for title, values in rows if values != ["–", "–"]]


def compare_episodes(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any] | None:
    """
    The mean weights of the same episodes in both, as a plot, and the episodes with the largest differences.

    Args:
        first, second: from `summarise_episodes`.

    Returns:
        `svg` and `rows` of `(episode, first weight, second weight)`; None if no episode is in both.
    """
    shared = first.index.intersection(second.index)
    if not len(shared):
        return None
    one, other = first.weight[shared], second.weight[shared]
    gap = (other - one).abs().sort_values(ascending=False)
    rows = [
        (int(number), f"{one[number]:.2f}", f"{other[number]:.2f}")
        for number in gap.index[:MOST_DIFFERENT]
        if gap[number] > MIN_DIFFERENCE
    ]
    return {"svg": Markup(plots.agreement(one.to_numpy(), other.to_numpy(), ("A", "B"))), "rows": rows}
