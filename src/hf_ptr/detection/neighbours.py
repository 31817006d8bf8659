"""The frames around each frame, and medians over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def neighbours(values: np.ndarray, reach: int) -> list[np.ndarray]:
    """The values `(T, d)` of each frame from `reach` frames before to `reach` after; the ends are repeated."""
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    return [padded[shift : shift + len(values)] for shift in range(2 * reach + 1)]


def median_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """
    The median of each element over a few arrays of the same shape.

    They are sorted by exchanges of neighbours, which for ten arrays or fewer takes a fraction of `np.median`'s time.
    """
    ordered, count = list(arrays), len(arrays)
    for turn in range(count):
        for low in range(turn % 2, count - 1, 2):
            one, other = ordered[low], ordered[low + 1]
            ordered[low], ordered[low + 1] = np.minimum(one, other), np.maximum(one, other)
    middle = ordered[count // 2]
    return middle if count % 2 else (middle + ordered[count // 2 - 1]) / 2
