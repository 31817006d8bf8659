"""Success rates with 95 % Wilson intervals, per task and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


def _cells(rate: SuccessRate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{rate.rate:.1%}", f"{low:.1%} - {high:.1%}", f"{rate.successes}/{rate.episodes}"
