"""The histogram of a run's weights: as a picture for cards, and on the axes of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

HISTOGRAM_FILE = "weights.png"


def draw_weights(
    axis: Any,
    edges: np.ndarray,
    counts: np.ndarray,
    *,
    early: tuple[np.ndarray, np.ndarray] | None = None,
    colors: Sequence[str] = ("#0072b2",),
    ink: str = "black",
) -> None:
    """
    Draws which share of the chunks was given which weight, with a dotted line at the mean.

    Args:
        axis: of matplotlib, to draw on.
        edges, counts: `(B + 1,)` and `(B,)`.
        early: the same of a time before, to compare with.
        colors: of both.
        ink: of the line.
    """
    drawn = [("late", edges, counts), *([("early", *early)] if early else [])]
    for (name, bounds, found), color in zip(drawn, colors, strict=False):
        share = found / max(found.sum(), 1)
        axis.stairs(share, bounds, color=color, fill=name == "late", alpha=0.8, linewidth=1.6, label=name)
    mean = float((edges[:-1] + edges[1:]) @ counts / 2 / max(counts.sum(), 1))
    axis.axvline(mean, color=ink, linewidth=1, linestyle=":")
    axis.set(xlabel="weight of a chunk", ylabel="share of chunks")
    if early:
        axis.legend(loc="upper center")


def save_weight_histogram(edges: ArrayLike, counts: ArrayLike, out: Path) -> Path:
    """Draws it as the PNG `out`."""
    # Takes a second to import, which whoever only trains need not wait for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    draw_weights(figure.subplots(), np.asarray(edges), np.asarray(counts))
    figure.savefig(out, dpi=110)
    return out
