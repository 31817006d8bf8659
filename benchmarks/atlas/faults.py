"""The kinds of faults of the atlas: planted with soft seams, the dataset's own sensor noise, and no exact repeats.

Amounts are in standard deviations within an episode, seconds or frames. None of this is shared with the faults that
the checks plant for their own power card.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.atlas.material import Material

Signals = tuple[np.ndarray, np.ndarray]
Fault = Callable[[np.ndarray, np.ndarray, int, Material, np.random.Generator], Signals]


def _resample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    at = np.clip(at, 0, len(values) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)[:, None]


def _busy(
    values: np.ndarray, unit: np.ndarray, rng: np.random.Generator, count: int = 1, least: float = 0.6
) -> np.ndarray:
    """Dimensions that move in this episode, drawn at random."""
    moved = np.flatnonzero((unit > 0) & (values.std(axis=0) >= least * unit))
    two_valued = np.array([len(np.unique(values[:, d])) <= 3 for d in moved], dtype=bool)
    moved = moved[~two_valued] if (~two_valued).any() else moved
    return rng.choice(moved, min(count, len(moved)), replace=False)


def swapped(state, action, number, m, rng):
    donor = (number + rng.integers(1, len(m.actions))) % len(m.actions)
    other = m.actions[donor]
    return state, _resample(other, np.linspace(0, len(other) - 1, len(action))) + rng.normal(
        0, m.action_noise, action.shape
    )


def noise(size):
    def plant(state, action, number, m, rng):
        return state, action + rng.normal(0, 1, action.shape) * size * m.action_unit

    return plant


def state_noise(size):
    def plant(state, action, number, m, rng):
        return state + rng.normal(0, 1, state.shape) * size * m.state_unit, action

    return plant


def late(frames):
    def plant(state, action, number, m, rng):
        moved = _resample(action, np.arange(len(action)) - frames)
        return state, moved + rng.normal(0, m.action_noise, action.shape) * 0.5

    return plant


def reversed_actions(state, action, number, m, rng):
    return state, action[::-1] + rng.normal(0, m.action_noise, action.shape)


def gain(factor, share=1.0):
    def plant(state, action, number, m, rng):
        middle = action.mean(axis=0)
        chosen = (m.action_unit > 0) & (rng.random(len(middle)) < share)
        return state, np.where(chosen, middle + factor * (action - middle), action)

    return plant


def gain_one(factor):
    def plant(state, action, number, m, rng):
        action = action.copy()
        for d in _busy(action, m.action_unit, rng):
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


def flipped_axis(state, action, number, m, rng):
    action = action.copy()
    for d in _busy(action, m.action_unit, rng):
        middle = np.median(np.concatenate(m.actions)[:, d])
        action[:, d] = 2 * middle - action[:, d]
    return state, action


def offset(size):
    def plant(state, action, number, m, rng):
        action = action.copy()
        for d in _busy(action, m.action_unit, rng):
            action[:, d] += size * m.action_unit[d] * rng.choice([-1, 1])
        return state, action

    return plant


def state_offset(size):
    def plant(state, action, number, m, rng):
        state = state.copy()
        for d in _busy(state, m.state_unit, rng):
            state[:, d] += size * m.state_unit[d] * rng.choice([-1, 1])
        return state, action

    return plant


def exchanged(state, action, number, m, rng):
    action = action.copy()
    pair = _busy(action, m.action_unit, rng, 2)
    if len(pair) == 2:
        action[:, pair] = action[:, pair[::-1]]
    return state, action


def dead(state, action, number, m, rng):
    action = action.copy()
    for d in _busy(action, m.action_unit, rng):
        action[:, d] = action[0, d] + rng.normal(0, 0.5 * m.action_noise[d], len(action))
    return state, action


def dead_state(state, action, number, m, rng):
    state = state.copy()
    for d in _busy(state, m.state_unit, rng):
        state[:, d] = state[0, d] + rng.normal(0, 0.5 * m.state_noise[d], len(state))
    return state, action


def doubled(state, action, number, m, rng):
    rows = np.repeat(np.arange(len(state)), 2)
    return state[rows] + rng.normal(0, 0.3 * m.state_noise, (len(rows), state.shape[1])), action[rows] + rng.normal(
        0, 0.3 * m.action_noise, (len(rows), action.shape[1])
    )


def spikes(size, which):
    def plant(state, action, number, m, rng):
        signals = [state.copy(), action.copy()]
        values, unit = signals[which], (m.state_unit, m.action_unit)[which]
        for _ in range(3):
            at = rng.integers(3, len(values) - 4)
            for d in _busy(values, unit, rng, 2):
                values[at : at + rng.integers(1, 3), d] += size * unit[d] * rng.choice([-1, 1])
        return tuple(signals)

    return plant


def idle_tail(seconds):
    def plant(state, action, number, m, rng):
        extra = max(4, round(seconds * m.fps))
        return tuple(
            np.concatenate([values, values[-1] + rng.normal(0, 0.5 * noise, (extra, values.shape[1]))])
            for values, noise in ((state, m.state_noise), (action, m.action_noise))
        )

    return plant


def pause(seconds):
    def plant(state, action, number, m, rng):
        extra, at = max(2, round(seconds * m.fps)), int(rng.integers(len(state) // 4, 3 * len(state) // 4))
        parts = []
        for values, noise in ((state, m.state_noise), (action, m.action_noise)):
            # Slows down and speeds up over a fifth of a second, as a person does.
            ramp = max(2, round(0.2 * m.fps))
            speed = np.ones(len(values) + extra)
            times = np.concatenate([np.arange(at), np.full(extra, at), np.arange(at, len(values))]).astype(float)
            kernel = np.ones(ramp) / ramp
            times = np.convolve(np.pad(times, (ramp, ramp), mode="edge"), kernel, mode="same")[ramp:-ramp]
            parts.append(_resample(values, times) + rng.normal(0, 0.3 * noise, (len(speed), values.shape[1])))
        return tuple(parts)

    return plant


def frozen_state(seconds):
    def plant(state, action, number, m, rng):
        n, state = max(4, round(seconds * m.fps)), state.copy()
        at = int(rng.integers(len(state) // 4, max(len(state) // 4 + 1, 3 * len(state) // 4 - n)))
        state[at : at + n] = state[at] + rng.normal(0, 0.3 * m.state_noise, (min(n, len(state) - at), state.shape[1]))
        return state, action

    return plant


def joined(state, action, number, m, rng):
    """Half of this episode and the second half of another."""
    donor = (number + rng.integers(1, len(m.actions))) % len(m.actions)
    cut, other = len(state) // 2, len(m.states[donor]) // 2
    return np.concatenate([state[:cut], m.states[donor][other:]]), np.concatenate(
        [action[:cut], m.actions[donor][other:]]
    )


def truncated(state, action, number, m, rng):
    n = int(rng.uniform(0.4, 0.7) * len(state))
    return state[:n], action[:n]


def duplicate(state, action, number, m, rng):
    donor = (number + rng.integers(1, len(m.actions))) % len(m.actions)
    return tuple(
        values + rng.normal(0, 0.5 * noise, values.shape)
        for values, noise in ((m.states[donor], m.state_noise), (m.actions[donor], m.action_noise))
    )


def half_rate(state, action, number, m, rng):
    rows = np.arange(len(action)) // 2 * 2
    return state, action[rows]


def slower(factor):
    def plant(state, action, number, m, rng):
        """The same way at another speed, with the natural lead of the command over the state."""
        at = np.arange(int(len(state) * factor)) / factor
        # A command is given for a time of the world, not for a time of the task.
        command = _resample(action, at + m.lead * (1 / factor - 1))
        if m.velocity:
            command = np.where(m.action_unit > 0, command / factor, command)
        return _resample(state, at) + rng.normal(
            0, 0.3 * m.state_noise, (len(at), state.shape[1])
        ), command + rng.normal(0, 0.3 * m.action_noise, command.shape)

    return plant


def dropped(share):
    def plant(state, action, number, m, rng):
        """Frames missing here and there, in state and command alike."""
        kept = np.sort(rng.choice(len(state), int((1 - share) * len(state)), replace=False))
        return state[kept], action[kept]

    return plant


def stale_state(size):
    def plant(state, action, number, m, rng):
        """States that come late by some frames."""
        return _resample(state, np.arange(len(state)) - size) + rng.normal(0, 0.5 * m.state_noise, state.shape), action

    return plant


def drift(size):
    def plant(state, action, number, m, rng):
        action = action.copy()
        for d in _busy(action, m.action_unit, rng):
            action[:, d] += np.linspace(0, size, len(action)) * m.action_unit[d]
        return state, action

    return plant


# name: (fault, can be in a part)
FAULTS: dict[str, tuple[Fault, bool]] = {
    "swapped": (swapped, True),
    "noise 0.1": (noise(0.1), True),
    "noise 0.5": (noise(0.5), True),
    "state noise 0.2": (state_noise(0.2), True),
    "late 6": (late(6), True),
    "early 6": (late(-6), True),
    "late 3": (late(3), True),
    "early 3": (late(-3), True),
    "reversed": (reversed_actions, True),
    "inverted group": (inverted_group, True),
    "flipped axis": (flipped_axis, True),
    "gain 0.5": (gain(0.5), True),
    "gain 2": (gain(2.0), True),
    "gain 0.5 one": (gain_one(0.5), True),
    "offset 0.5": (offset(0.5), True),
    "state offset 0.5": (state_offset(0.5), True),
    "exchanged": (exchanged, True),
    "dead": (dead, True),
    "dead state": (dead_state, True),
    "doubled": (doubled, False),
    "action spikes 1": (spikes(1.0, 1), False),
    "state spikes 1": (spikes(1.0, 0), False),
    "idle tail 3": (idle_tail(3.0), False),
    "frozen state 1": (frozen_state(1.0), False),
    "joined": (joined, False),
    "truncated": (truncated, False),
    "duplicate": (duplicate, False),
    "dropped 0.2": (dropped(0.2), False),
    "state late 6": (stale_state(6), True),
    "drift 1": (drift(1.0), False),
}
CONTROLS: dict[str, Fault] = {
    "tremor 0.05": noise(0.05),
    "half rate": half_rate,
    "slower 1.5": slower(1.5),
    "slower 2": slower(2.0),
    "pause 1": pause(1.0),
    "pause 2": pause(2.0),
}


def in_part(state, action, faulty: Signals, m: Material, rng) -> tuple[Signals, np.ndarray]:
    """The fault in 15 to 25 % of the episode, cross-faded over a tenth of a second; the mask of its frames."""
    length = len(state)
    n = max(8, int(rng.uniform(0.15, 0.25) * length))
    # Where the robot moves: a fault where nothing moves cannot be seen by anyone.
    speed = (
        np.abs(np.diff(action, axis=0, prepend=action[:1]))[:, m.action_unit > 0] / m.action_unit[m.action_unit > 0]
    )
    busy = np.convolve(speed.mean(axis=1), np.ones(n), mode="valid")
    first = int(rng.choice(np.flatnonzero(busy >= np.median(busy))))
    mask = np.zeros(length)
    mask[first : first + n] = 1
    ramp = max(1, round(0.1 * m.fps))
    soft = np.convolve(np.pad(mask, ramp, mode="edge"), np.ones(2 * ramp + 1) / (2 * ramp + 1), mode="valid")[:, None]
    return (state * (1 - soft) + faulty[0] * soft, action * (1 - soft) + faulty[1] * soft), mask > 0
