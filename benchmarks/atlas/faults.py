"""Faults of the values of command or state in an episode of unchanged length. Amounts in standard deviations."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.material import Altered, Fault, Material, busy_dimensions, smooth
from hf_ptr.detection.planting import resample


def swapped(state, action, number, m: Material, rng):
    """The commands of another episode, stretched to this one."""
    other = m.actions[m.donor(number, rng)]
    stretched = resample(other, np.linspace(0, len(other) - 1, len(action)))
    return state, stretched + rng.normal(0, m.action_noise, action.shape)


def noise(size: float) -> Fault:
    """White noise on all commands."""

    def plant(state, action, number, m, rng):
        return state, action + rng.normal(0, 1, action.shape) * size * m.action_unit

    return plant


def coloured_noise(size: float) -> Fault:
    """Commands that wander slowly around the right ones, over about a third of a second."""

    def plant(state, action, number, m, rng):
        wander = smooth(rng.normal(0, 1, action.shape), max(1, round(0.15 * m.fps)))
        return state, action + size * m.action_unit * wander / wander.std(axis=0)

    return plant


def state_noise(size: float) -> Fault:
    """White noise on all states."""

    def plant(state, action, number, m, rng):
        return state + rng.normal(0, 1, state.shape) * size * m.state_unit, action

    return plant


def late(frames: float) -> Fault:
    """Commands that were recorded late; early for a negative number."""

    def plant(state, action, number, m, rng):
        moved = resample(action, np.arange(len(action)) - frames)
        return state, moved + rng.normal(0, m.action_noise, action.shape) * 0.5

    return plant


def late_state(frames: float) -> Fault:
    """States that were recorded late."""

    def plant(state, action, number, m, rng):
        moved = resample(state, np.arange(len(state)) - frames)
        return moved + rng.normal(0, 0.5 * m.state_noise, state.shape), action

    return plant


def jitter(frames: float) -> Fault:
    """Commands whose time stamps wander by some frames either way."""

    def plant(state, action, number, m, rng):
        wander = smooth(rng.normal(0, 1, len(action)), max(1, round(0.1 * m.fps)))
        return state, resample(action, np.arange(len(action)) + frames * wander / wander.std())

    return plant


def reversed_actions(state, action, number, m, rng):
    """Commands backwards in time."""
    return state, action[::-1] + rng.normal(0, m.action_noise, action.shape)


def gain(factor: float) -> Fault:
    """All commands too large or too small, around their mean."""

    def plant(state, action, number, m, rng):
        middle = action.mean(axis=0)
        return state, np.where(m.action_unit > 0, middle + factor * (action - middle), action)

    return plant


def gain_one(factor: float) -> Fault:
    """One command too large or too small."""

    def plant(state, action, number, m, rng):
        action = action.copy()
        for d in busy_dimensions(action, m.action_unit, rng):
            action[:, d] = action[:, d].mean() + factor * (action[:, d] - action[:, d].mean())
        return state, action

    return plant


def inverted_group(state, action, number, m, rng):
    """The last part of the dimensions inverted, as a hand mounted the other way round."""
    action = action.copy()
    group = np.arange(len(m.action_unit) * 2 // 3, len(m.action_unit))
    group = group[m.action_unit[group] > 0]
    middle = np.concatenate(m.actions)[:, group].mean(axis=0)
    action[:, group] = 2 * middle - action[:, group]
    return state, action


def zeroed_group(state, action, number, m, rng):
    """The first half of the dimensions written as zero, as for an arm that was not driven."""
    group = np.arange(len(m.action_unit) // 2)
    if not (m.action_unit[group] > 0).any():
        return None
    action = action.copy()
    action[:, group] = 0.0
    return state, action


def inverted_gripper(state, action, number, m, rng):
    """A two-valued command with its values exchanged."""
    grippers = np.flatnonzero(m.two_valued & (m.action_unit > 0))
    if not len(grippers):
        return None
    column = np.concatenate(m.actions)[:, grippers]
    action = action.copy()
    action[:, grippers] = column.min(axis=0) + column.max(axis=0) - action[:, grippers]
    return state, action


def flipped_axis(state, action, number, m, rng):
    """One command with the wrong sign, around the dataset's median."""
    action = action.copy()
    for d in busy_dimensions(action, m.action_unit, rng):
        middle = np.median(np.concatenate(m.actions)[:, d])
        action[:, d] = 2 * middle - action[:, d]
    return state, action


def offset(size: float) -> Fault:
    """One command shifted."""

    def plant(state, action, number, m, rng):
        action = action.copy()
        for d in busy_dimensions(action, m.action_unit, rng):
            action[:, d] += size * m.action_unit[d] * rng.choice([-1, 1])
        return state, action

    return plant


def state_offset(size: float) -> Fault:
    """One state shifted."""

    def plant(state, action, number, m, rng):
        state = state.copy()
        for d in busy_dimensions(state, m.state_unit, rng):
            state[:, d] += size * m.state_unit[d] * rng.choice([-1, 1])
        return state, action

    return plant


def drift(size: float) -> Fault:
    """One command that drifts away over the episode."""

    def plant(state, action, number, m, rng):
        action = action.copy()
        for d in busy_dimensions(action, m.action_unit, rng):
            action[:, d] += np.linspace(0, size, len(action)) * m.action_unit[d]
        return state, action

    return plant


def exchanged(state, action, number, m, rng):
    """Two commands exchanged."""
    pair = busy_dimensions(action, m.action_unit, rng, 2)
    if len(pair) < 2:
        return None
    action = action.copy()
    action[:, pair] = action[:, pair[::-1]]
    return state, action


def crosstalk(share: float) -> Fault:
    """A share of one command added to another."""

    def plant(state, action, number, m, rng):
        pair = busy_dimensions(action, m.action_unit, rng, 2)
        if len(pair) < 2:
            return None
        one, other = pair
        action = action.copy()
        deviation = (action[:, other] - action[:, other].mean()) / m.action_unit[other]
        action[:, one] += share * m.action_unit[one] * deviation
        return state, action

    return plant


def dead(state, action, number, m, rng):
    """One command that stands still, with sensor noise."""
    action = action.copy()
    for d in busy_dimensions(action, m.action_unit, rng):
        action[:, d] = action[0, d] + rng.normal(0, 0.5 * m.action_noise[d], len(action))
    return state, action


def dead_state(state, action, number, m, rng):
    """One state that stands still, with sensor noise."""
    state = state.copy()
    for d in busy_dimensions(state, m.state_unit, rng):
        state[:, d] = state[0, d] + rng.normal(0, 0.5 * m.state_noise[d], len(state))
    return state, action


def clipped(share: float) -> Fault:
    """All commands limited to a share of their extent in this episode, at both ends."""

    def plant(state, action, number, m, rng):
        low, high = np.quantile(action, [(1 - share) / 2, (1 + share) / 2], axis=0)
        inside = np.clip(action, low, high) + rng.normal(0, 0.3 * m.action_noise, action.shape)
        return state, np.where(m.action_unit > 0, inside, action)

    return plant


def smoothed(seconds: float) -> Fault:
    """Commands that went through a slow filter without a delay."""

    def plant(state, action, number, m, rng):
        slow = smooth(action, max(1, round(seconds * m.fps / 2)))
        return state, np.where(m.two_valued, action, slow + rng.normal(0, 0.3 * m.action_noise, action.shape))

    return plant


def coarse(step: float) -> Fault:
    """Commands rounded to coarse steps, with sensor noise."""

    def plant(state, action, number, m, rng):
        size = np.where(m.action_unit > 0, step * m.action_unit, 1.0)
        rounded = np.round(action / size) * size + rng.normal(0, 0.3 * m.action_noise, action.shape)
        return state, np.where(m.action_unit > 0, rounded, action)

    return plant


def spikes(size: float, which: int) -> Fault:
    """Three spikes of one or two frames in two dimensions, of the state (0) or of the command (1)."""

    def plant(state, action, number, m, rng):
        signals = [state.copy(), action.copy()]
        values, unit = signals[which], (m.state_unit, m.action_unit)[which]
        frames = np.zeros(len(values), dtype=bool)
        for _ in range(3):
            at = rng.integers(3, len(values) - 4)
            rows = slice(at, at + rng.integers(1, 3))
            frames[rows] = True
            for d in busy_dimensions(values, unit, rng, 2):
                values[rows, d] += size * unit[d] * rng.choice([-1, 1])
        return Altered(*signals, frames)

    return plant


def wrapped(state, action, number, m, rng):
    """A state that leaves the range of its encoder and enters it at the other end, in the last part of its way."""
    state = state.copy()
    frames = np.zeros(len(state), dtype=bool)
    for d in busy_dimensions(state, m.state_unit, rng):
        column = np.concatenate(m.states)[:, d]
        frames = state[:, d] > np.quantile(state[:, d], 0.75)
        state[frames, d] -= 1.2 * (column.max() - column.min())
    return Altered(state, action, frames)


def frozen_state(seconds: float) -> Fault:
    """The state stands still for a while, with sensor noise."""

    def plant(state, action, number, m, rng):
        n, state = max(4, round(seconds * m.fps)), state.copy()
        at = int(rng.integers(len(state) // 4, max(len(state) // 4 + 1, 3 * len(state) // 4 - n)))
        rows = slice(at, min(at + n, len(state)))
        state[rows] = state[at] + rng.normal(0, 0.3 * m.state_noise, state[rows].shape)
        frames = np.zeros(len(state), dtype=bool)
        frames[rows] = True
        return Altered(state, action, frames)

    return plant


def stale_start(frames: int) -> Fault:
    """First frames of the state left over from the end of another episode."""

    def plant(state, action, number, m, rng):
        other = m.states[m.donor(number, rng)]
        state = state.copy()
        state[:frames] = other[-1] + rng.normal(0, 0.3 * m.state_noise, state[:frames].shape)
        return Altered(state, action, np.arange(len(state)) < frames)

    return plant
