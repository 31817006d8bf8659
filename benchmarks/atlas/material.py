"""What the planted faults of the atlas are made of: a dataset's episodes, their units, sensor noise and lead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Material:
    """
    What a fault may use.

    Attributes:
        states, actions: the episodes, each `(T, d)`, raw units.
        state_unit, action_unit: `(d,)` standard deviation within an episode; 0 for resting dimensions.
        state_noise, action_noise: `(d,)` noise of the recording.
        fps: frames per second.
        lead: frames from a command to the state that fits it best.
        velocity: whether the command is a velocity.
    """

    states: list[np.ndarray]
    actions: list[np.ndarray]
    state_unit: np.ndarray
    action_unit: np.ndarray
    state_noise: np.ndarray
    action_noise: np.ndarray
    fps: float
    lead: int
    velocity: bool

    @classmethod
    def of(cls, states: list[np.ndarray], actions: list[np.ndarray], fps: float) -> Material:
        """The material of a dataset's episodes."""
        units, noises = [], []
        for parts in (states, actions):
            spread = np.array([part.std(axis=0) for part in parts])
            unit = np.maximum(np.median(spread, axis=0), 0.3 * np.sqrt((spread**2).mean(axis=0)))
            units.append(np.where(unit > 0.25 * np.quantile(unit[unit > 0], 0.75), unit, 0.0))
            # Half of the second difference's spread where the robot is slowest: sensor noise and little else.
            second = [np.abs(np.diff(part, n=2, axis=0)) for part in parts if len(part) > 4]
            noises.append(np.quantile(np.concatenate(second), 0.25, axis=0) / 0.8)
        return cls(states, actions, *units, *noises, fps, *_lead(states, actions, units, fps))


def _lead(
    states: list[np.ndarray], actions: list[np.ndarray], units: list[np.ndarray], fps: float
) -> tuple[int, bool]:
    """Frames from a command to the state that fits it best, and whether it is a velocity; columns pair by position."""
    width = min(states[0].shape[1], actions[0].shape[1])
    used = np.flatnonzero((units[0][:width] > 0) & (units[1][:width] > 0))
    best = (-1.0, 0, False)
    for lead in range(0, max(2, round(0.5 * fps))):
        for velocity in (False, True):
            fit = []
            for state, action in zip(states, actions, strict=True):
                target = np.gradient(state[:, used], axis=0) if velocity else state[:, used]
                if len(state) > 2 * lead + 8:
                    a, b = action[3 : len(action) - lead - 3, used], target[3 + lead : len(state) - 3]
                    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
                    fit.append((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0) + 1e-12))
            best = max(best, (float(np.median(fit)), lead, velocity))
    return best[1], best[2]
