"""Lists and numbers in a line of text."""

from __future__ import annotations

from collections.abc import Sequence


def listed(items: Sequence[object], most: int) -> str:
    """The first items, `most` at most, and the number of the others: `3, 7, 12 and 5 more`."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 episode`, `2 episodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
