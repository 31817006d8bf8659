"""Work in numbered parts that several processes divide; they exchange finished parts as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _alone() -> None:
    """Waits for nobody."""


@dataclass(frozen=True)
class Share:
    """
    The share of one process; by default all of the work.

    Attributes:
        rank: number of this process.
        size: number of processes.
        wait: waits until all processes have called it as often.
    """

    rank: int = 0
    size: int = 1
    wait: Callable[[], None] = _alone

    @property
    def is_main(self) -> bool:
        """Whether this process does what cannot be divided."""
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Whether a part is this process's."""
        return number % self.size == self.rank


# All of the work.
ALONE = Share()
