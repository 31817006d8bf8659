"""Faults of a block of episodes, all with the same amount, and of instructions."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.material import Altered, Fault, Material


def units(factor: float) -> Fault:
    """State and command in another unit, such as degrees instead of radians."""

    def plant(state, action, number, m: Material, rng):
        commands = np.where(m.two_valued, action, factor * action)
        return factor * state, commands

    return plant


def joint_zero(size: float) -> Fault:
    """The zero of one joint shifted, in state and command alike, as after a calibration."""

    def plant(state, action, number, m, rng):
        joints = sorted(m.slope)
        if not joints or m.velocity:
            # A velocity does not show it; the state alone does.
            joints = np.flatnonzero(m.state_unit > 0).tolist()
        d = int(rng.choice(joints))
        state, action = state.copy(), action.copy()
        state[:, d] += size * m.state_unit[d]
        if d in m.slope and not m.velocity:
            action[:, d] += size * m.state_unit[d]
        return state, action

    return plant


def gain_block(factor: float) -> Fault:
    """All commands scaled, as by another setting of the teleoperation."""

    def plant(state, action, number, m, rng):
        middle = np.concatenate(m.actions).mean(axis=0)
        return state, np.where(m.action_unit > 0, middle + factor * (action - middle), action)

    return plant


def wrong_instruction(state, action, number, m, rng):
    """The instruction of another task of the dataset."""
    others = sorted(set(m.instructions) - {m.instructions[number]})
    return Altered(state, action, instruction=str(rng.choice(others))) if others else None


def placeholder(state, action, number, m, rng):
    """No instruction."""
    return Altered(state, action, instruction="")
