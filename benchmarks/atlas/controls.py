"""Peculiarities that do no harm: none of them may be called a fault."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.material import Altered, Fault, Material, busy_dimensions, smooth
from benchmarks.atlas.time_faults import SOFT


def half_rate(state, action, number, m: Material, rng):
    """Each command held for two frames."""
    return state, action[np.arange(len(action)) // 2 * 2]


def slower(factor: float) -> Fault:
    """The same way at another speed, with the natural lead of the command over the state."""

    def plant(state, action, number, m, rng):
        return m.warped(number, np.arange(int(len(state) * factor)) / factor, rng)

    return plant


def pause(seconds: float) -> Fault:
    """The operator stops and continues, softly."""

    def plant(state, action, number, m, rng):
        extra, at = max(2, round(seconds * m.fps)), int(rng.integers(len(state) // 4, 3 * len(state) // 4))
        times = np.concatenate([np.arange(at), np.full(extra, at), np.arange(at, len(state))]).astype(float)
        return m.warped(number, smooth(times, max(1, round(SOFT * m.fps / 2))), rng)

    return plant


def return_motion(state, action, number, m, rng):
    """The way back to the start is recorded as well, faster."""
    back = np.arange(len(state) - 1, -1, -1.5)
    times = np.concatenate([np.arange(len(state)), back]).astype(float)
    altered = m.warped(number, smooth(times, max(1, round(SOFT * m.fps / 2))), rng)
    # A gripper stays as it is at the end.
    altered.action[len(state) :, m.two_valued] = action[-1, m.two_valued]
    return altered


def clutch(state, action, number, m, rng):
    """For two seconds the operator lifts the leader arm: nothing moves, and the command is that of the state."""
    extra, at = max(4, round(2.0 * m.fps)), int(rng.integers(len(state) // 4, 3 * len(state) // 4))
    times = np.concatenate([np.arange(at), np.full(extra, at), np.arange(at, len(state))]).astype(float)
    altered = m.warped(number, smooth(times, max(1, round(SOFT * m.fps / 2))), rng)
    for d, slope in m.slope.items():
        # Command and state may have different units and zeros.
        zero = np.median(action[:, d] - slope * state[:, d])
        still = 0.0 if m.velocity else zero + slope * altered.state[at : at + extra, d]
        altered.action[at : at + extra, d] = still
    return altered


def minority_strategy(state, action, number, m, rng):
    """A detour in the middle, the same one in all its episodes, commanded as it was driven."""
    length = len(state)
    change = np.zeros(state.shape)
    bump = np.sin(np.linspace(0, np.pi, length // 2)) ** 2
    # One way for all episodes: it depends on the dataset only.
    same = np.random.default_rng(len(m.states))
    paired = [d for d in m.slope if m.state_unit[d] > 0]
    for d in same.permutation(paired)[:2].astype(int).tolist():
        change[length // 4 : length // 4 + len(bump), d] = 0.8 * m.state_unit[d] * same.choice([-1, 1]) * bump
    return m.moved(state, action, change)


def rare_task(state, action, number, m, rng):
    """Another task, with an instruction of its own: the way from the end to the start."""
    altered = m.warped(number, np.arange(len(state) - 1, -1, -1).astype(float), rng)
    return altered._replace(instruction="put everything back")


def near_equal_instruction(state, action, number, m, rng):
    """The same task in other words."""
    return Altered(state, action, instruction=f"please {m.instructions[number]}, thanks")


def busy_start(state, action, number, m, rng):
    """A correction at the start: a small motion away and back before the task."""
    n = min(len(state) // 4, max(6, round(0.8 * m.fps)))
    change = np.zeros(state.shape)
    for d in busy_dimensions(state, m.state_unit, rng, 2):
        change[:n, d] = 0.3 * m.state_unit[d] * np.sin(np.linspace(0, np.pi, n)) ** 2
    return m.moved(state, action, change)
