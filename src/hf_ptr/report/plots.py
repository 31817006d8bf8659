"""Plots of a report as SVG in the colours of the page, and video frames as small JPEGs."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.score_file import ELEMENT_PREFIX
from hf_ptr.hub.plots import draw_weights
from hf_ptr.report.expectation import Line

# Placeholder colours, unique within a plot. The SVG refers to the colours of the page instead, light or dark.
INK, MUTED, FIRST, SECOND, THIRD = "#010203", "#010204", "#010205", "#010206", "#010207"
PAGE_COLORS = {INK: "--ink", MUTED: "--muted", FIRST: "--first", SECOND: "--second", THIRD: "--third"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf-ptr",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
ELEMENT_COLORS = {"action": FIRST, "next_observation": SECOND, "instruction": THIRD}
# The number of dimensions of a vector in a plot, those that vary most.
MOST_LINES = 8
JPEG_QUALITY = 72


def weight_histogram(
    late: tuple[np.ndarray, np.ndarray], early: tuple[np.ndarray, np.ndarray] | None, bounds: tuple[float, float]
) -> str:
    """
    The histogram of the weights at the end and, if known, early in training.

    Args:
        late, early: edges `(B + 1,)` and counts `(B,)`.
        bounds: the lowest and highest possible weight.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(5.2, 2.3)
        draw_weights(axis, *late, early=early, colors=(FIRST, SECOND), ink=INK)
        margin = 0.02 * max(bounds[1] - bounds[0], 1e-3)
        axis.set_xlim(min(bounds[0], late[0][0]) - margin, max(bounds[1], late[0][-1]) + margin)
        return _svg(figure, "Histogram of the weights of chunks")


def curve(lines: Sequence[tuple[str, Sequence[tuple[int, float]]]], title: str) -> str:
    """One logged metric over the steps, of one run or of two."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(3.6, 2.0)
        for color, (name, points) in zip((FIRST, SECOND), lines, strict=False):
            if points:
                axis.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.4)
        axis.set(xlabel="step")
        axis.locator_params(nbins=4)
        if len(lines) > 1:
            axis.legend()
        spoken = "; ".join(
            f"{name} from {points[0][1]:.3g} at step {points[0][0]} to {points[-1][1]:.3g} at step {points[-1][0]}"
            for name, points in lines
            if points
        )
        return _svg(figure, f"{title}: {spoken}")


def episode_lines(
    weight: np.ndarray, elements: dict[str, np.ndarray], time: np.ndarray, bounds: tuple[float, float], unit: str
) -> str:
    """
    The weight of each chunk along an episode and, below it, the scores of the elements if there are any.

    Args:
        weight: `(n,)`.
        elements: the scores of each element, `(n,)`, by their column in the score file.
        time: `(n,)`, in `unit`.
        bounds: the lowest and highest possible weight.
        unit: the label of the time axis.
    """
    shown = {name: values for name, values in elements.items() if np.isfinite(values).any()}
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(5.2, 2.6 if shown else 1.5, 2 if shown else 1)
        top = axes[0]
        top.plot(time, weight, color=FIRST, linewidth=1.6)
        top.fill_between(time, bounds[0], weight, color=FIRST, alpha=0.15, linewidth=0)
        margin = 0.05 * max(bounds[1] - bounds[0], 1e-3)
        top.set(ylabel="weight", ylim=(bounds[0] - margin, bounds[1] + margin))
        if shown:
            below = axes[1]
            for name, values in shown.items():
                element = name.removeprefix(ELEMENT_PREFIX)
                color, label = ELEMENT_COLORS.get(element, INK), element.replace("_", " ")
                below.plot(time, values, color=color, label=label, linewidth=1.4)
            below.axhline(0.5, color=MUTED, linewidth=1, linestyle=":")
            values = np.concatenate([*shown.values(), [0.0, 1.0]])
            below.set(ylabel="score", ylim=(np.nanmin(values) - 0.08, np.nanmax(values) + 0.08))
            below.legend(loc="lower left", bbox_to_anchor=(0.0, 0.98), ncols=3, borderaxespad=0.0)
        axes[-1].set(xlabel=unit)
        spoken = f"Weight along the episode: mean {weight.mean():.2f}, from {weight.min():.2f} to {weight.max():.2f}"
        spoken += "".join(
            f"; {name.removeprefix(ELEMENT_PREFIX)} score {np.nanmean(v):.2f}" for name, v in shown.items()
        )
        return _svg(figure, spoken)


def expected_lines(lines: Sequence[Line], first: int, last: int, edges: np.ndarray) -> str:
    """
    The recorded and the expected values of some dimensions around a finding, whose frames are shaded.

    Args:
        lines: the dimensions. Their names are not drawn, because the page does not escape a plot.
        first, last: the frames of the finding.
        edges: `(T + 1,)` seconds, the start of each frame of the episode and the end of the last.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(5.2, 0.75 + 1.15 * len(lines), len(lines), top=0.3)
        for number, (axis, line) in enumerate(zip(axes, lines, strict=True), 1):
            time = edges[line.frames]
            axis.axvspan(edges[first], edges[last + 1], color=SECOND, alpha=0.13, linewidth=0)
            axis.plot(time, line.recorded, color=SECOND, linewidth=1.4, label="recorded")
            if line.expected is not None:
                axis.plot(time, line.expected, color=FIRST, linewidth=1.4, linestyle="--", label="expected")
            if len(lines) > 1:
                axis.text(0.01, 0.88, f"({number})", transform=axis.transAxes, color=INK)
            axis.locator_params(axis="y", nbins=4)
        expected = any(line.expected is not None for line in lines)
        if expected:
            axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 0.98), ncols=2, borderaxespad=0.0)
        axes[-1].set(xlabel="seconds")
        drawn = "Recorded and expected" if expected else "Recorded"
        return _svg(figure, f"{drawn} values around frames {first} to {last}")


def state_and_action(table: EpisodeTable, position: int, features: Sequence[str], edges: np.ndarray) -> str:
    """
    The dimensions of state and action that vary most, along one episode, in standard deviations of the dataset.

    Args:
        table: the dataset.
        position: the position of the episode in it.
        features: the features to draw.
        edges: `(T + 1,)` seconds, the start of each frame of the episode and the end of the last.
    """
    rows = slice(int(table.starts[position]), int(table.starts[position] + table.lengths[position]))
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(5.2, 0.5 + 1.1 * len(features), len(features))
        for axis, name in zip(axes, features, strict=True):
            whole = table.feature(name)
            spread = whole.std(axis=0)
            values = (whole[rows] - whole.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
            most = np.argsort(-values.std(axis=0))[:MOST_LINES]
            for number, dimension in enumerate(most):
                axis.plot(edges[:-1], values[:, dimension], color=INK, alpha=0.9 - 0.09 * number, linewidth=0.9)
            axis.set(ylabel="action" if name == "action" else "state")
        axes[-1].set(xlabel="seconds")
        return _svg(figure, f"State and action along the episode, the {MOST_LINES} dimensions that vary most")


def agreement(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> str:
    """Mean weights of the same episodes in two score files or runs."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(3.6, 3.2)
        axis.scatter(first, second, s=12, color=FIRST, alpha=0.6, linewidths=0)
        ends = (min(first.min(), second.min()), max(first.max(), second.max()))
        axis.plot(ends, ends, color=MUTED, linewidth=1, linestyle=":")
        axis.set(xlabel=f"mean weight, {names[0]}", ylabel=f"mean weight, {names[1]}")
        return _svg(figure, f"Mean weights of {len(first)} episodes in A and B, one point per episode")


def jpeg_uri(frame: np.ndarray) -> str:
    """A frame `(height, width, 3)` uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _axes(width: float, height: float, rows: int = 1, top: float = 0.08) -> tuple[Any, Any]:
    """A figure with panels in one column, and the panels. The margins, in inches, hold ticks and labels."""
    # Fixed margins: a layout engine that measures all text takes longer than the rest of the report. No pyplot: it
    # doubles the time to load, for windows that are not used.
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)
    left, right, bottom = 0.55, 0.1, 0.42
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, hspace=0.32)
    return figure, axes[:, 0]


def _svg(figure: Any, spoken: str) -> str:
    """
    The figure as an `<svg>` for the page, with `spoken` for screen readers. Neither may contain text from the data,
    because the template does not escape the result.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Without a fixed size the SVG is as wide as its column; the view box keeps the aspect ratio.
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    text = head.replace("<svg", f'<svg role="img" aria-label="{html.escape(spoken)}"', 1) + ">" + rest
    for color, variable in PAGE_COLORS.items():
        text = text.replace(color, f"var({variable})")
    return text
