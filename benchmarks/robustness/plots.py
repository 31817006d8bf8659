"""Figures of the benchmark: differences to SFT by arm, and by the settings of PTR as published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.robustness.statistics import Cells, Outcomes, difference, rate, verdict
from hf_ptr.training.ptr_config import PTRConfig

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def gap_figure(cells: Cells, suite: str, corruptions: Sequence[str], arms: Sequence[str], out: Path) -> None:
    """Difference in success rate to SFT of each arm with its confidence interval, one panel per corruption."""
    shown = [name for name in corruptions if (suite, name, "sft") in cells]
    arms = [arm for arm in arms if any((suite, name, arm) in cells for name in shown)]
    if not shown:
        return
    figure, axes = plt.subplots(1, len(shown), figsize=(2.6 * len(shown) + 1.4, 3.4), sharey=True, squeeze=False)
    for axis, corruption in zip(axes[0], shown, strict=True):
        for row, arm in enumerate(arms):
            mine = cells.get((suite, corruption, arm))
            if mine is None:
                continue
            found = difference(mine, cells[suite, corruption, "sft"])
            if found.value is None or found.interval is None:
                continue
            low, high = found.interval
            colour = {"better": "tab:green", "worse": "tab:red"}.get(verdict(found), "tab:gray")
            axis.plot([100 * low, 100 * high], [row, row], color=colour, linewidth=2)
            axis.plot(100 * found.value, row, "o", color=colour)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(f"{corruption} (SFT {100 * rate(cells[suite, corruption, 'sft']):.0f} %)", fontsize=9)
        axis.set_xlabel("points above SFT", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0][0].set_yticks(range(len(arms)), arms)
    axes[0][0].set_ylim(len(arms) - 0.5, -0.5)
    _save(figure, out)


def sensitivity_figure(cells: Cells, suite: str, corruption: str, out: Path) -> None:
    """Difference in success rate to SFT of PTR with one setting changed, with confidence intervals, one panel each."""
    defaults = {one.name: one.default for one in fields(PTRConfig)}
    swept: dict[str, dict[float, Outcomes]] = defaultdict(dict)
    for (of_suite, name, arm), outcomes in cells.items():
        base, _, setting = arm.partition("+")
        if (of_suite, name, base) == (suite, corruption, "ptr") and setting:
            key, _, value = setting.partition("=")
            swept[key][float(value)] = outcomes
    ptr, sft = (cells.get((suite, corruption, arm)) for arm in ("ptr", "sft"))
    if not swept or ptr is None or sft is None:
        return
    figure, axes = plt.subplots(1, len(swept), figsize=(2.6 * len(swept) + 0.8, 2.8), sharey=True, squeeze=False)
    for axis, (key, by_value) in zip(axes[0], sorted(swept.items()), strict=True):
        values = sorted({**by_value, float(defaults[key]): ptr}.items())
        found = [difference(outcomes, sft) for _, outcomes in values]
        ends = np.array([one.interval or (one.value, one.value) for one in found], dtype=float)
        middle = np.array([one.value for one in found], dtype=float)
        positions = np.arange(len(values))
        axis.vlines(positions, 100 * ends[:, 0], 100 * ends[:, 1], color="tab:gray", linewidth=2)
        axis.plot(positions, 100 * middle, "o-", color="tab:gray")
        axis.axhline(0, color="black", linewidth=0.8)
        if (oracle := cells.get((suite, corruption, "oracle"))) is not None:
            oracle_gain = 100 * float(difference(oracle, sft).value or 0.0)
            axis.axhline(oracle_gain, color="tab:green", linestyle="--")
            axis.annotate("oracle", (0, oracle_gain), (0, -10), textcoords="offset points", fontsize=8)
        names = [f"{value:g}" + (" (default)" if value == defaults[key] else "") for value, _ in values]
        axis.set_xticks(positions, names, fontsize=8)
        axis.set_xlim(-0.5, len(values) - 0.5)
        axis.set_title(key, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0][0].set_ylabel("points above SFT", fontsize=8)
    _save(figure, out)


def _save(figure: Figure, out: Path) -> None:
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)
