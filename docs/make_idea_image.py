"""
Draws docs/images/idea.png, a schematic of the method: its curves and weights are drawn, not measured.

    python docs/make_idea_image.py            # or make docs-images, which also makes the image of a report
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

IMAGES = Path(__file__).resolve().parent / "images"
GOOD, FAULTY, INK, QUIET, FRAME, PAPER = "#2b6cb0", "#c05621", "#1a202c", "#4a5568", "#a0aec0", "#f7fafc"
# Name of the episode, its fault, and the weight that it ends with, on the scale of the bounds of the weight.
EPISODES = (
    ("pick up the cup", None, 4.0),
    ("pick up the cup", "noisy actions", 0.6),
    ("open the drawer", None, 4.0),
    ("open the drawer", "swapped actions", 0.25),
    ("open the drawer", "wrong instruction", 0.25),
    ("pick up the cup", None, 3.4),
)


def idea(path: Path) -> None:
    """The method in one picture: uneven episodes, one question of each transition, a weight, weighted regression."""
    figure = Figure(figsize=(10.4, 4.1), dpi=125, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 120), ylim=(0, 43))
    axes.axis("off")
    for x, title in (
        (17, "1  Uneven demonstrations"),
        (54, "2  Do the elements match?"),
        (86.5, "3  Weight of each chunk"),
        (109.7, "4  Train"),
    ):
        axes.text(x, 40, title, ha="center", va="center", fontsize=11.5, fontweight="bold", color=INK)
    _demonstrations(axes)
    _question(axes)
    _weights(axes)
    _training(axes)
    for x in (35, 71.2, 98.2):
        axes.add_patch(FancyArrowPatch((x, 20), (x + 3.4, 20), arrowstyle="-|>", mutation_scale=16, color=INK, lw=1.6))
    figure.savefig(path)


def _demonstrations(axes: Axes) -> None:
    random = np.random.default_rng(3)
    time = np.linspace(0, 1, 90)
    for row, (instruction, fault, _) in enumerate(EPISODES):
        bottom = 31 - 6 * row
        picks = instruction.startswith("pick") or fault == "wrong instruction"
        phase = 0.0 if picks else 1.9
        curve = np.sin(2.2 * np.pi * time + phase) * (1 - 0.35 * time) + 0.05 * random.standard_normal()
        if fault == "noisy actions":
            curve = 0.7 * curve + 0.2 * random.standard_normal(time.shape)
        if fault == "swapped actions":
            curve = -np.cos(5.2 * np.pi * time) * (0.3 + 0.7 * time)
        axes.add_patch(_box(1, bottom - 0.4, 32.5, 5, edge=FAULTY if fault else FRAME))
        axes.plot(2 + 13 * time, bottom + 2.1 + 1.7 * curve, color=FAULTY if fault else GOOD, lw=1.5)
        axes.text(17, bottom + (3 if fault else 2.1), f"“{instruction}”", va="center", fontsize=9.5, color=INK)
        if fault:
            axes.text(17, bottom + 1.0, fault, va="center", fontsize=8.8, color=FAULTY, style="italic")


def _question(axes: Axes) -> None:
    boxes = {
        "observation\n$o_t$": (40.5, 25),
        "actions\n$a_{t:t+L}$": (50.2, 25),
        "next obs.\n$o_{t+\\Delta}$": (59.9, 25),
        "instruction $\\ell$": (50.2, 33.2),
    }
    for label, (x, y) in boxes.items():
        axes.add_patch(_box(x - 0.2, y, 9.2, 6.4 if "\n" in label else 3.6))
        middle = y + (3.2 if "\n" in label else 1.8)
        axes.text(x + 4.4, middle, label, ha="center", va="center", fontsize=8.6, color=INK)
    for row, (element, against) in enumerate(
        (
            ("next observation", "those of other episodes"),
            ("actions", "others, also shifted ones"),
            ("instruction", "the other instructions"),
        )
    ):
        y = 20.4 - 4.4 * row
        axes.text(40.4, y + 0.9, element, va="center", fontsize=9.4, fontweight="bold", color=GOOD)
        axes.text(40.4, y - 0.9, f"found among {against}?", va="center", fontsize=8.8, color=INK)
    axes.text(40.4, 8.1, "action noise", va="center", fontsize=9.4, fontweight="bold", color=GOOD)
    axes.text(40.4, 6.3, "no more than in good episodes?", va="center", fontsize=8.8, color=INK)
    for y, line in ((3.3, "Models that have not seen the episode;"), (1.5, "no labels, no reward, no policy.")):
        axes.text(40.4, y, line, va="center", fontsize=8.8, color=QUIET)


def _weights(axes: Axes) -> None:
    left, width = 76.5, 20.0
    for tick, label in ((0.25, "0.25"), (1, "1"), (4, "4")):
        x = left + width * tick / 4
        axes.plot([x, x], [0.9, 36], color=FRAME, lw=0.8, ls=":", zorder=0)
        axes.text(x, 37, label, ha="center", va="center", fontsize=8.8, color=QUIET)
    for row, (_, fault, weight) in enumerate(EPISODES):
        bottom = 31 - 6 * row
        bar = FancyBboxPatch((left, bottom + 1), width * weight / 4, 2.4, boxstyle="square,pad=0", lw=0)
        bar.set_facecolor(FAULTY if fault else GOOD)
        axes.add_patch(bar)


def _training(axes: Axes) -> None:
    axes.add_patch(_box(102.6, 13, 14.2, 15))
    axes.text(109.7, 24.5, "weighted\nregression", ha="center", va="center", fontsize=9.6, color=INK)
    axes.text(
        109.7, 17.7, r"$\frac{\sum_i w_i\,\ell_i}{\sum_i w_i}$", ha="center", va="center", fontsize=17, color=INK
    )
    axes.text(109.7, 9.4, "a VLA policy:\nnative, PI0, LeRobot", ha="center", va="center", fontsize=9, color=QUIET)


def _box(x: float, y: float, width: float, height: float, edge: str = FRAME) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.6"
    return FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=PAPER, edgecolor=edge, lw=1.1)


if __name__ == "__main__":
    matplotlib.use("agg")
    IMAGES.mkdir(exist_ok=True)
    idea(IMAGES / "idea.png")
