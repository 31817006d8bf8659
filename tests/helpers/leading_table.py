"""Smooth motions whose commands lead the state: data in which the detection has something to compare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hf_ptr.data.episodes import EpisodeTable

FPS = 20.0


def leading_table(
    episodes: int, action_of: Callable[[int, np.ndarray], np.ndarray] | None = None, frames: int = 120
) -> EpisodeTable:
    """
    Episodes of three joints whose commands lead them by two frames.

    Args:
        episodes: number of episodes.
        action_of: from the number of an episode and its actions `(frames, 3)` to other actions.
        frames: frames of each.
    """
    rng = np.random.default_rng(0)
    times = np.arange(frames + 2) / frames
    states, actions = [], []
    for number in range(episodes):
        phase, size = rng.uniform(0, 1, (2, 4, 3))
        path = sum(size[k] * np.sin(2 * np.pi * (k + 1) * (times[:, None] + phase[k])) for k in range(4))
        states.append(path[:-2] + rng.normal(0, 0.003, (frames, 3)))
        action = path[2:] + rng.normal(0, 0.003, (frames, 3))
        actions.append(action if action_of is None else action_of(number, action))
    total = episodes * frames
    return EpisodeTable(
        columns={
            "observation.state": np.concatenate(states).astype(np.float32),
            "action": np.concatenate(actions).astype(np.float32),
        },
        task_index=np.zeros(total, dtype=np.int64),
        tasks=("move",),
        starts=np.arange(episodes) * frames,
        lengths=np.full(episodes, frames),
        episode_index=np.arange(episodes),
        frame_id=np.arange(total),
        fps=FPS,
        robot_type=None,
        source="made",
        features={name: {"dtype": "float32", "shape": [3], "names": None} for name in ("observation.state", "action")},
    )
