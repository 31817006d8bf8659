"""Runs of frames with a property."""

from __future__ import annotations

import numpy as np


def runs_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first frames of the runs of a mask `(T,)` bool, and the frames after their last, each `(N,)` int64."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int64), [0]]))
    return np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
