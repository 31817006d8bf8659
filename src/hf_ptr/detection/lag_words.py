"""Lags in words: the text that checks write about a lag, and its direction read back from it."""

from __future__ import annotations

import re


def lag_words(frames: float) -> str:
    """A lag in words, for example `5.7 frames late`; early where it is negative."""
    return f"{abs(frames):.1f} frames {'late' if frames > 0 else 'early'}"


def frames_late(cause: str, amount: float) -> float:
    """
    The lag of a finding in frames, negative where it is early.

    Args:
        cause: text that contains the result of [`lag_words`].
        amount: the size of the lag.

    Returns:
        The lag; 0 where the text does not state its direction.
    """
    found = re.search(r"\d frames (late|early)\b", cause)
    if found is None:
        return 0.0
    return abs(amount) if found[1] == "late" else -abs(amount)
