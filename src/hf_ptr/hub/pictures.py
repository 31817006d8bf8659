"""Pictures for the cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PICTURE_FILE = "weights.png"


def weight_histogram(counts: Sequence[int], low: float, high: float, out: Path) -> Path:
    """
    Draws how often each weight was given.

    Args:
        counts: of bins of one width between `low` and `high`.
        low, high: the bounds of the weights.
        out: the PNG to write.
    """
    # Takes a second to import, which whoever only trains need not wait for.
    from matplotlib.figure import Figure

    width = (high - low) / len(counts) or 1.0
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    total = max(sum(counts), 1)
    places = [low + width * number for number in range(len(counts))]
    axis.bar(places, [count / total for count in counts], width=width, align="edge", color="#0072b2")
    axis.set(xlabel="weight", ylabel="share of the chunks", xlim=(low, low + width * len(counts)))
    axis.grid(axis="y", alpha=0.3)
    figure.savefig(out, dpi=110)
    return out
