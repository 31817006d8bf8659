"""Comparison of frame rates."""

from __future__ import annotations

# 29.97 and 30 frames per second are one rate: over a chunk, their frames differ by less than a frame.
TOLERANCE = 0.01


def same_rate(one: float, other: float) -> bool:
    """Whether two frame rates, in frames per second, are within 1 % of each other."""
    return abs(one - other) <= TOLERANCE * max(one, other)
