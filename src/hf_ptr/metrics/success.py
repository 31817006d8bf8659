"""Success rates with 95 % Wilson intervals, per task and overall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest


@dataclass(frozen=True)
class SuccessRate:
    """Number of successes in independent episodes.

    Raises:
        ValueError: `episodes` is 0, or `successes` is not in `[0, episodes]`.
    """

    successes: int
    episodes: int

    def __post_init__(self) -> None:
        if not (self.episodes >= 1 and 0 <= self.successes <= self.episodes):
            raise ValueError(f"{self.successes} successes among {self.episodes} episodes is not a rate")

    @property
    def rate(self) -> float:
        """Success rate in `[0, 1]`."""
        return self.successes / self.episodes

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of the rate."""
        interval = binomtest(self.successes, self.episodes).proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def to_dict(self) -> dict[str, Any]:
        """`{"success", "interval": [low, high], "successes", "episodes"}`."""
        return {
            "success": self.rate,
            "interval": list(self.interval),
            "successes": self.successes,
            "episodes": self.episodes,
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.rate:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True)
class SuccessTable:
    """Success rates of one or more tasks, in the given order.

    Attributes:
        outcomes: success of each episode by task, in episode order, for paired comparisons of checkpoints.
    """

    outcomes: dict[str, tuple[bool, ...]]

    @classmethod
    def from_episodes(cls, episodes: Mapping[str, Sequence[bool]]) -> SuccessTable:
        """Create a table from the success of each episode by task."""
        return cls({task: tuple(solved) for task, solved in episodes.items()})

    @cached_property
    def tasks(self) -> dict[str, SuccessRate]:
        """Success rate by task."""
        return {task: SuccessRate(sum(solved), len(solved)) for task, solved in self.outcomes.items()}

    @cached_property
    def overall(self) -> SuccessRate:
        """Success rate over the episodes of all tasks."""
        rates = self.tasks.values()
        return SuccessRate(sum(rate.successes for rate in rates), sum(rate.episodes for rate in rates))

    def to_dict(self) -> dict[str, Any]:
        """Fields of the overall rate, and the same fields for each task under `tasks`."""
        return {**self.overall.to_dict(), "tasks": {task: rate.to_dict() for task, rate in self.tasks.items()}}

    def to_rich(self, title: str | None = None) -> Table:
        """Table for the terminal."""
        table = Table(title=title)
        table.add_column("task")
        for column in ("success", "95 % interval", "episodes"):
            table.add_column(column, justify="right")
        for task, rate in self.tasks.items():
            table.add_row(task, *_cells(rate))
        table.add_section()
        table.add_row("all", *_cells(self.overall), style="bold")
        return table


def success_difference(table: SuccessTable, first: SuccessTable) -> dict[str, Any]:
    """
    The difference of two success rates over the same episodes, with its 95 % interval for paired proportions
    (Newcombe, Statistics in Medicine 17, 1998, method 10).

    Returns:
        `difference` and `interval` `[low, high]`, above zero where `table` has more successes than `first`.

    Raises:
        ValueError: the tables have other tasks or numbers of episodes.
    """
    if {task: len(solved) for task, solved in table.outcomes.items()} != {
        task: len(solved) for task, solved in first.outcomes.items()
    }:
        raise ValueError("the success rates are of other episodes")
    pairs = [pair for task in table.outcomes for pair in zip(table.outcomes[task], first.outcomes[task], strict=True)]
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    mine, other = pairs.count((True, False)), pairs.count((False, True))
    agreement: float = both * neither - mine * other
    if agreement > 0:
        agreement = max(agreement - len(pairs) / 2, 0)
    margins = (both + mine) * (other + neither) * (both + other) * (mine + neither)
    phi = agreement / math.sqrt(margins) if margins else 0.0
    one, two = table.overall, first.overall
    below = one.rate - one.interval[0], two.rate - two.interval[0]
    above = one.interval[1] - one.rate, two.interval[1] - two.rate

    def half(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = one.rate - two.rate
    interval = [difference - half(below[0], above[1]), difference + half(above[0], below[1])]
    return {"difference": difference, "interval": interval}


def comparison_table(tables: Mapping[str, SuccessTable]) -> Table:
    """The differences of the success rates of several checkpoints to the first one, for the terminal."""
    name, first = next(iter(tables.items()))
    shown = Table(title="comparison, episode by episode", title_justify="left", box=None, padding=(0, 2, 0, 0))
    shown.add_column("checkpoint", overflow="fold")
    for column in ("success", "difference", "95 % CI"):
        shown.add_column(column, justify="right")
    shown.add_column("verdict")
    shown.add_row(escape(name), f"{first.overall.rate:.1%}", "", "", "")
    for other, table in list(tables.items())[1:]:
        found = success_difference(table, first)
        low, high = found["interval"]
        words = "better" if low > 0 else "worse" if high < 0 else "not significantly different"
        difference = f"{100 * found['difference']:+.1f} points"
        shown.add_row(
            escape(other), f"{table.overall.rate:.1%}", difference, f"{100 * low:+.1f} to {100 * high:+.1f}", words
        )
    return shown


def _cells(rate: SuccessRate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{rate.rate:.1%}", f"{low:.1%} - {high:.1%}", f"{rate.successes}/{rate.episodes}"
