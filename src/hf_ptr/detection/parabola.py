"""The extremum between samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# Bend below which three values are on a line.
STRAIGHT = 1e-12


def vertex(left: ArrayLike, here: ArrayLike, right: ArrayLike) -> np.ndarray:
    """
    The place of the extremum of the parabolas through values at -1, 0 and 1, of any one shape.

    Returns:
        Of this shape, within [-1, 1]; 0 where the three values are on a line.
    """
    left, here, right = (np.asarray(values, dtype=np.float64) for values in (left, here, right))
    bend = left - 2 * here + right
    straight = np.abs(bend) < STRAIGHT
    place = np.where(straight, 0.0, 0.5 * (left - right) / np.where(straight, 1.0, bend))
    clipped: np.ndarray = np.clip(place, -1.0, 1.0)
    return clipped
