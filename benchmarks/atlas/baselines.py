"""Trivial baselines: one figure an episode, judged by its distance from the median of the dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.atlas.metrics import Judgement
from benchmarks.atlas.planted import ACTION, STATE, Planted

# Robust standard deviations from the median beyond which an episode is flagged.
FAR = 3.5
# Share of the median speed below which a frame is idle.
IDLE = 0.1
# Frames of an episode that are compared with those of the others.
FRAMES = 60


def judge(name: str, planted: Planted) -> dict[str, Judgement]:
    """Flags the episodes whose figure is far from the median on either side, and ranks them by that distance."""
    states, actions = (_standardised(planted.episodes(feature)) for feature in (STATE, ACTION))
    figure = BASELINES[name](states, actions)
    distance = np.abs(figure - np.median(figure))
    score = distance / max(1.4826 * float(np.median(distance)), 1e-9)
    return {name: Judgement(score > FAR, score)}


def _standardised(episodes: list[np.ndarray]) -> list[np.ndarray]:
    column = np.concatenate(episodes).astype(np.float64)
    middle, spread = column.mean(axis=0), column.std(axis=0)
    spread[spread == 0] = 1.0
    return [(part - middle) / spread for part in episodes]


def _speed(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(values, axis=0), axis=1) if len(values) > 1 else np.zeros(1)


def length(states: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """Number of frames."""
    return np.array([float(len(state)) for state in states])


def jerk(states: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """Mean third difference of the commands."""
    return np.array([np.abs(np.diff(a, n=3, axis=0)).mean() if len(a) > 3 else 0.0 for a in actions])


def path_length(states: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """Length of the path of the state."""
    return np.array([_speed(state).sum() for state in states])


def idle_share(states: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """Share of the frames in which the state hardly moves."""
    typical = float(np.median(np.concatenate([_speed(state) for state in states])))
    return np.array([(_speed(state) < IDLE * typical).mean() for state in states])


def gap(states: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """Mean distance between command and state, column by column as far as both have columns."""
    width = min(states[0].shape[1], actions[0].shape[1])
    return np.array([np.abs(s[:, :width] - a[:, :width]).mean() for s, a in zip(states, actions, strict=True)])


def neighbours(states: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """Mean distance of an episode's frames to the nearest frame of another episode, state and command together."""
    parts = []
    for state, action in zip(states, actions, strict=True):
        rows = np.linspace(0, len(state) - 1, min(FRAMES, len(state))).round().astype(int)
        parts.append(np.concatenate([state[rows], action[rows]], axis=1))
    found = []
    for number, part in enumerate(parts):
        others = cKDTree(np.concatenate([other for place, other in enumerate(parts) if place != number]))
        found.append(float(others.query(part)[0].mean()))
    return np.array(found)


BASELINES: dict[str, Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]] = {
    "length": length,
    "jerk": jerk,
    "path length": path_length,
    "idle share": idle_share,
    "state-action gap": gap,
    "kNN distance": neighbours,
}
