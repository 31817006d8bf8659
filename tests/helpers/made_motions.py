"""Made recordings of an arm with a gripper that picks something up and carries it away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.signals import Signals

FPS = 20.0
JOINTS = 4
LEAD = 2
NOISE = 0.003
STATE, ACTION = "observation.state", "action"

Recording = tuple[np.ndarray, np.ndarray]
Change = Callable[[int, np.ndarray, np.ndarray], Recording]


def path_through(points: Sequence[tuple[np.ndarray, float]], rng: np.random.Generator) -> Recording:
    """
    A way through points, each a place of the joints and a gripper: state and command, `(T, JOINTS + 1)`.

    The motion to each point starts and ends at rest, and takes about a second and a half; the gripper then switches
    within a third of a second. Commands lead the state by `LEAD` frames.
    """
    places, grips = [points[0][0][None]], [np.array([points[0][1]])]
    for (before, was), (after, grip) in pairwise(points):
        frames = int(rng.integers(26, 34)) if np.abs(after - before).max() > 0.05 else 8
        share = 0.5 - 0.5 * np.cos(np.pi * np.arange(1, frames + 1) / frames)
        places.append(before + (after - before) * share[:, None])
        # It opens or closes at the end of the way, over four frames.
        grips.append(was + (grip - was) * np.clip((np.arange(frames) - frames + 4) / 3, 0, 1))
    whole = np.concatenate([np.concatenate(places), np.concatenate(grips)[:, None]], axis=1)
    ahead = np.concatenate([whole[LEAD:], np.repeat(whole[-1:], LEAD, axis=0)])
    noise = rng.normal(0, NOISE, (2, *whole.shape))
    return whole + noise[0], ahead + noise[1]


def picking(rng: np.random.Generator, failures: int = 0, grasps: int = 1) -> Recording:
    """An arm picks up `grasps` things, one after the other; before the first success come `failures`."""
    home = np.array([0.0, 0.0, 0.5, 0.0])
    points = [(home, 0.0)]
    for number in range(grasps):
        thing = np.array([1.0 + number, 0.3, -0.5, 0.4]) + rng.normal(0, 0.1, JOINTS)
        above, goal = thing + np.array([0, 0, 0.25, 0]), np.array([-1.0, 1.0, -0.3, -0.6]) + rng.normal(0, 0.1, JOINTS)
        for _ in range(failures if number == 0 else 0):
            points += [(thing, 0.0), (thing, 1.0), (above, 1.0), (above, 0.0)]
        points += [(thing, 0.0), (thing, 1.0), (goal, 1.0), (goal, 0.0)]
    return path_through([*points, (home, 0.0)], rng)


def smooth_motions(episodes: int, frames: int = 100, *, velocity: bool = False) -> list[Recording]:
    """Smooth motions of three joints; the command leads by `LEAD` frames and is a position or a velocity."""
    rng = np.random.default_rng(0)
    times = np.arange(frames + LEAD + 1)[:, None] / (frames + LEAD + 1)
    found = []
    for _ in range(episodes):
        phase, size = rng.uniform(0, 1, (2, 4, 3))
        path = sum(size[k] * np.sin(2 * np.pi * (k + 1) * (times + phase[k])) for k in range(4))
        command = np.diff(path, axis=0)[LEAD:] if velocity else path[LEAD:-1]
        noise = rng.normal(0, NOISE, (2, frames, 3))
        found.append((path[:frames] + noise[0], command + noise[1] * command.std()))
    return found


def wandering(rng: np.random.Generator) -> Recording:
    """An arm moves through four places at random, with a gripper that switches at each."""
    return path_through([(rng.normal(0, 1, JOINTS), float(number % 2)) for number in range(5)], rng)


def velocities(number: int, state: np.ndarray, action: np.ndarray) -> Recording:
    """The same with commands that are velocities of the joints; for `table_of`."""
    del number
    speed = np.gradient(action[:, :JOINTS], axis=0) * FPS
    # Smooth, as a controller's commands are.
    speed = np.stack([np.convolve(column, np.ones(5) / 5, mode="same") for column in speed.T], axis=1)
    return state, np.concatenate([speed, action[:, JOINTS:]], axis=1)


def table_of(recordings: Sequence[Recording], change: Change | None = None, names: Sequence[str] = ()) -> EpisodeTable:
    """The table of recordings of one task; `change` makes an episode's state and command from its number and both."""
    pairs = [pair if change is None else change(number, *pair) for number, pair in enumerate(recordings)]
    lengths = np.array([len(state) for state, _ in pairs])
    total = int(lengths.sum())
    widths = {STATE: pairs[0][0].shape[1], ACTION: pairs[0][1].shape[1]}
    return EpisodeTable(
        columns={
            feature: np.concatenate([pair[number] for pair in pairs]).astype(np.float32)
            for number, feature in enumerate((STATE, ACTION))
        },
        task_index=np.zeros(total, dtype=np.int64),
        tasks=("pick it up",),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        episode_index=np.arange(len(pairs)),
        frame_id=np.arange(total),
        fps=FPS,
        robot_type=None,
        source="made",
        features={
            feature: {"dtype": "float32", "shape": [width], "names": list(names) if len(names) == width else None}
            for feature, width in widths.items()
        },
    )


def signals_of(recordings: Sequence[Recording], change: Change | None = None, names: Sequence[str] = ()) -> Signals:
    """The signals of the same."""
    return Signals.of_table(table_of(recordings, change, names), STATE, ACTION)
