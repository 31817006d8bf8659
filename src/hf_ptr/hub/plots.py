"""The weight histogram, as a PNG for cards and on the axes of a report."""

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
    Draws the histogram of the weights, as shares of the chunks, with a dotted line at the mean.

    Args:
        axis: the matplotlib axes to draw on.
        edges, counts: `(B + 1,)` and `(B,)`.
        early: edges and counts of an earlier time, for comparison.
        colors: the colours of the two histograms.
        ink: the colour of the line.
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
    """Saves the histogram of [`draw_weights`] as the PNG `out`, and returns `out`."""
    # Imported here: it takes a second, and training without a card does not need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    draw_weights(figure.subplots(), np.asarray(edges), np.asarray(counts))
    figure.savefig(out, dpi=110)
    return out
