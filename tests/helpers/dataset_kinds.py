"""Small datasets of the kinds that users have: positions or velocities, other widths, frame rates and cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
from data_helpers import vector, with_camera

from hf_ptr.data.episodes import EpisodeTable


def reaching(
    episodes: int = 12,
    length: int = 40,
    *,
    state: int = 3,
    action: int = 3,
    fps: float = 20.0,
    velocities: bool = False,
) -> EpisodeTable:
    """Smooth reaches to a goal of each episode; the state follows the commanded position by one frame."""
    rng = np.random.default_rng(0)
    positions = []
    for _ in range(episodes):
        time = np.linspace(0, 1, length)[:, None]
        width = max(state, action)
        positions.append(rng.normal(0, 0.1, width) + rng.normal(0, 1, width) * (3 * time**2 - 2 * time**3))
    target = np.stack(positions)
    now = np.concatenate((target[:, :1], target[:, :-1]), axis=1)
    commands = np.gradient(target, axis=1) * fps if velocities else target
    frames = episodes * length
    return EpisodeTable(
        columns={
            "observation.state": now[..., :state].reshape(frames, -1).astype(np.float32),
            "action": commands[..., :action].reshape(frames, -1).astype(np.float32),
        },
        task_index=np.zeros(frames, dtype=np.int64),
        tasks=("reach",),
        starts=np.arange(episodes) * length,
        lengths=np.full(episodes, length),
        episode_index=np.arange(episodes),
        frame_id=np.arange(frames),
        fps=fps,
        robot_type="arm",
        source="reaching",
        features={"observation.state": vector(state), "action": vector(action)},
    )


def with_cameras(table: EpisodeTable, *cameras: str) -> EpisodeTable:
    described = [with_camera(table, camera).features[camera] for camera in cameras]
    return dataclasses.replace(table, features={**table.features, **dict(zip(cameras, described, strict=True))})
