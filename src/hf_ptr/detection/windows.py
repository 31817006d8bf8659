"""Windows of an episode at several scales, and means over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_ptr.detection.signals import STALE

# Length of the shortest windows: seconds, and at most this share of the episode; the next is larger by `GROWTH`.
SHORTEST = 2.0
SHORTEST_SHARE = 0.2
LEAST_FRAMES = 12
GROWTH = 2.5
SHORT, MIDDLE, WHOLE = "short", "middle", "whole"
# The scale of candidates that have an extent of their own.
EVENT = "event"


def inner_rows(values: np.ndarray) -> np.ndarray:
    """Values `(T, ...)` without the frames at both ends, which may be stale; of a short episode all."""
    return values[STALE:-STALE] if len(values) > 4 * STALE else values


def running_sums(values: np.ndarray) -> np.ndarray:
    """Sums of values `(T, ...)` over the frames before each, `(T + 1, ...)`."""
    sums = np.zeros((len(values) + 1, *values.shape[1:]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


@dataclass(frozen=True)
class Windows:
    """
    The windows of one scale in an episode.

    Attributes:
        scale: `SHORT`, `MIDDLE` or `WHOLE`.
        first, stop: `(W,)` int64, first frame of each window and the frame after its last.
    """

    scale: str
    first: np.ndarray
    stop: np.ndarray

    def rows(self) -> list[slice]:
        """The frames of each window."""
        return [slice(*ends) for ends in zip(self.first.tolist(), self.stop.tolist(), strict=True)]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means of values `(T, ...)` over each window, `(W, ...)`."""
        return self.mean_of(running_sums(values))

    def mean_of(self, sums: np.ndarray) -> np.ndarray:
        """Means over each window, `(W, ...)`, from the running sums of values that windows of several scales share."""
        size = (self.stop - self.first).reshape(-1, *[1] * (sums.ndim - 1))
        return (sums[self.stop] - sums[self.first]) / size


def windows_of(length: int, fps: float) -> list[Windows]:
    """
    The windows of an episode: overlapping by half at the shorter scales, and the whole episode; none below
    `LEAST_FRAMES`, where a mean says nothing.
    """
    if length < LEAST_FRAMES:
        return []
    found = []
    begin, end = (STALE, length - STALE) if length > 4 * STALE else (0, length)
    inner = end - begin
    shortest = min(inner, max(LEAST_FRAMES, round(min(SHORTEST * fps, SHORTEST_SHARE * inner))))
    for scale, size in ((SHORT, shortest), (MIDDLE, round(GROWTH * shortest))):
        if size <= 0.6 * inner:
            count = 1 + int(np.ceil((inner - size) / (size / 2)))
            first = begin + np.unique(np.round(np.linspace(0, inner - size, count)).astype(int))
            found.append(Windows(scale, first, first + size))
    return [*found, Windows(WHOLE, np.array([begin]), np.array([end]))]
