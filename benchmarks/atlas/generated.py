"""A generated set for the small form: reaches of a six-joint arm with a gripper."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.planted import ACTION, STATE
from hf_ptr.data.episodes import EpisodeTable

JOINTS, FPS = 6, 20.0
TASKS = ("put the block in the box", "put the cup on the shelf")
# Frames by which the arm follows its command, and sensor noise in radians.
DELAY, NOISE = 2, 0.002


def generated_set(episodes: int = 24, seed: int = 0) -> EpisodeTable:
    """Sound episodes: smooth minimum-jerk reaches between random places near those of the task, at random speeds."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-1.2, 1.2, (len(TASKS), 4, JOINTS))
    states, actions, numbers, lengths = [], [], [], []
    for episode in range(episodes):
        task = episode % len(TASKS)
        stops = places[task] + rng.normal(0, 0.12, (4, JOINTS))
        sizes = rng.integers(25, 40, 3)
        path = [stops[:1]]
        for begin, end, size in zip(stops[:-1], stops[1:], sizes, strict=True):
            t = np.linspace(0, 1, size + 1)[1:, None]
            path.append(begin + (end - begin) * (10 * t**3 - 15 * t**4 + 6 * t**5))
            path.append(np.repeat(end[None], rng.integers(3, 6), axis=0))
        command = np.concatenate(path)
        # An operator's hand is never still.
        wander = np.cumsum(rng.normal(0, 1, command.shape), axis=0)
        command = command + 0.004 * (wander - wander.mean(axis=0))
        reached = np.concatenate([np.repeat(command[:1], DELAY, axis=0), command[:-DELAY]])
        kernel = np.ones(5) / 5
        state = np.stack([np.convolve(np.pad(joint, 2, mode="edge"), kernel, mode="valid") for joint in reached.T], 1)
        closed = ((np.arange(len(command)) > sizes[0]) & (np.arange(len(command)) < len(command) - 12)).astype(float)
        width = np.convolve(np.pad(closed, 4, mode="edge"), np.ones(9) / 9, mode="valid")
        states.append(np.c_[state + rng.normal(0, NOISE, state.shape), width + rng.normal(0, NOISE, len(width))])
        actions.append(np.c_[command + rng.normal(0, NOISE / 2, command.shape), closed])
        numbers.append(np.full(len(command), task))
        lengths.append(len(command))
    total = sum(lengths)
    return EpisodeTable(
        columns={STATE: np.concatenate(states).astype(np.float32), ACTION: np.concatenate(actions).astype(np.float32)},
        task_index=np.concatenate(numbers),
        tasks=TASKS,
        starts=np.cumsum(lengths) - lengths,
        lengths=np.array(lengths),
        episode_index=np.arange(episodes),
        frame_id=np.arange(total),
        fps=FPS,
        robot_type="generated",
        source="generated",
        features={name: {"dtype": "float32", "shape": [JOINTS + 1], "names": None} for name in (STATE, ACTION)},
    )
