"""Long lists in a line of text."""

from __future__ import annotations

from collections.abc import Sequence


def listed(items: Sequence[object], most: int) -> str:
    """The first items, `most` at most, and the number of the others: `3, 7, 12 and 5 more`."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")
