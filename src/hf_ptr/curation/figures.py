"""Pictures of a run: training curves, and where the weights went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("agg")

from matplotlib import pyplot as plt

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
CURVES = {
    "loss_action": "action loss",
    "nce_acc": "identification accuracy",
    "ptr_score": "PTR score (nats)",
    "weight_mean": "mean weight",
    "ess": "effective sample size / n",
    "scorer_temperature": "temperature τ",
}


def training_curves(runs: Mapping[str, Path], out: Path) -> Path:
    """The logged metrics of one or more runs, a panel each, read from their `trainer_state.json`."""
    history = {
        name: json.loads((folder / "trainer_state.json").read_text())["log_history"] for name, folder in runs.items()
    }
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (metric, title) in zip(axes.flat, CURVES.items(), strict=True):
        for color, (name, log) in zip(COLORS, history.items(), strict=False):
            points = [(entry["step"], entry[metric]) for entry in log if metric in entry]
            if points:
                axis.plot(*zip(*points, strict=True), color=color, label=name)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return _save(figure, out)


def weight_distribution(
    scores: pd.DataFrame, faulty_episodes: np.ndarray, bounds: tuple[float, float], out: Path
) -> Path:
    """
    How the weights of faulty and fault-free episodes are distributed, chunk by chunk and as episode means.

    Args:
        scores: a score file.
        faulty_episodes: ids of the episodes that carry a fault.
        bounds: lowest and highest possible weight.
        out: the PNG.
    """
    counted = scores[scores.valid]
    faulty = counted.episode_index.isin(faulty_episodes)
    means = counted.groupby("episode_index").weight.mean()
    mean_faulty = means.index.isin(faulty_episodes)
    edges = np.linspace(*bounds, 41)
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    panels: tuple[tuple[Any, Any, Any, str, str], ...] = (
        (axes[0], counted.weight[~faulty], counted.weight[faulty], "weight of a chunk", "share of chunks"),
        (axes[1], means[~mean_faulty], means[mean_faulty], "mean weight of an episode", "share of episodes"),
    )
    for axis, good, bad, label, share in panels:
        for color, values, name in ((COLORS[0], good, "fault-free"), (COLORS[1], bad, "with a fault")):
            if len(values):
                share_of_each = np.full(len(values), 1 / len(values))
                axis.hist(
                    values, edges, weights=share_of_each, color=color, alpha=0.6, label=f"{name} ({len(values)})"
                )
        axis.set(xlabel=label, ylabel=share, xlim=bounds)
        axis.legend(frameon=False)
    return _save(figure, out)


def _save(figure: Any, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)
    return out
