"""Faults that change the frames of an episode: their number, order, or origin."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.material import Altered, Fault, Material, busy_dimensions, smooth

# Seconds over which a person starts and stops.
SOFT = 0.2


def doubled(state, action, number, m: Material, rng):
    """Every frame twice, with sensor noise."""
    rows = np.repeat(np.arange(len(state)), 2)
    return m.sensed(state[rows], action[rows], rng)


def dropped(share: float) -> Fault:
    """Frames missing here and there, in state and command alike."""

    def plant(state, action, number, m, rng):
        kept = np.sort(rng.choice(len(state), int((1 - share) * len(state)), replace=False))
        return state[kept], action[kept]

    return plant


def idle_tail(seconds: float) -> Fault:
    """The recorder was stopped late."""

    def plant(state, action, number, m, rng):
        extra = max(4, round(seconds * m.fps))
        rows = np.concatenate([np.arange(len(state)), np.full(extra, len(state) - 1)])
        command = action[rows]
        if m.velocity:
            paired = list(m.slope)
            command[len(state) :, paired] = 0.0
        altered = m.sensed(state[rows], command, rng, share=0.5)
        times = m.joined_times(np.diff(m.seconds[number]), np.full(extra, 1 / m.fps))
        return altered._replace(frames=np.arange(len(rows)) >= len(state), seconds=times)

    return plant


def joined(state, action, number, m, rng):
    """The first half of this episode and the second half of another."""
    donor = m.donor(number, rng)
    cut, other = len(state) // 2, len(m.states[donor]) // 2
    return Altered(
        np.concatenate([state[:cut], m.states[donor][other:]]),
        np.concatenate([action[:cut], m.actions[donor][other:]]),
        seconds=_one_after_the_other(m, m.seconds[number][:cut], m.seconds[donor][other:]),
    )


def _one_after_the_other(m: Material, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return m.joined_times(np.diff(first), np.array([1 / m.fps]), np.diff(second))


def false_start(state, action, number, m, rng):
    """The beginning of another take before this one, whose robot was set back in between."""
    donor = m.donor(number, rng)
    size = int(rng.uniform(0.25, 0.4) * len(m.states[donor]))
    frames = np.arange(size + len(state)) < size
    return Altered(
        np.concatenate([m.states[donor][:size], state]),
        np.concatenate([m.actions[donor][:size], action]),
        frames,
        seconds=_one_after_the_other(m, m.seconds[donor][:size], m.seconds[number]),
    )


def truncated(state, action, number, m, rng):
    """The recorder was stopped early."""
    n = int(rng.uniform(0.4, 0.7) * len(state))
    return Altered(state[:n], action[:n], seconds=m.seconds[number][:n])


def retry(state, action, number, m, rng):
    """In the middle the robot goes back a part of its way and does it again, a little differently."""
    length = len(state)
    size, again = int(rng.uniform(0.2, 0.3) * length), int(rng.uniform(0.4, 0.7) * length)
    way = np.concatenate([np.arange(again), np.arange(again, again - size, -1), np.arange(again - size, length)])
    altered = m.warped(number, smooth(way.astype(float), max(1, round(SOFT * m.fps / 2))), rng)
    change = np.zeros(altered.state.shape)
    second = slice(again + size // 2, again + 2 * size)
    for d in busy_dimensions(state, m.state_unit, rng, 2):
        rise = np.sin(np.linspace(0, np.pi, second.stop - second.start)) ** 2
        change[second, d] = 0.3 * m.state_unit[d] * rng.choice([-1, 1]) * rise[: len(change[second])]
    moved = m.moved(altered.state, altered.action, change) or altered
    frames = np.zeros(len(way), dtype=bool)
    frames[again - size : again + size] = True
    return moved._replace(frames=frames, seconds=altered.seconds)


def duplicate(state, action, number, m, rng):
    """A copy of another episode, with sensor noise."""
    donor = m.donor(number, rng)
    copy = m.sensed(m.states[donor], m.actions[donor], rng, share=0.5)
    return copy._replace(partner=donor, seconds=m.seconds[donor])


def cut_duplicate(state, action, number, m, rng):
    """The middle of another episode, with sensor noise."""
    donor = m.donor(number, rng)
    n = len(m.states[donor])
    rows = slice(int(0.1 * n), int(0.8 * n))
    copy = m.sensed(m.states[donor][rows], m.actions[donor][rows], rng, share=0.5)
    return copy._replace(partner=donor, seconds=m.joined_times(np.diff(m.seconds[donor][rows])))


def half_speed_frames(state, action, number, m, rng):
    """Recorded at half the frame rate that the dataset states."""
    return state[::2], action[::2]
