"""Untrained policies that match a simulator's robot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import VideoClip
from hf_ptr.envs.protocol import RobotInterface
from hf_ptr.policies.vla.building import policy_from_dataset


def save_policy(
    folder: Path,
    interface: RobotInterface,
    instructions: Sequence[str],
    cameras: Sequence[str] = (),
    action: Sequence[float] | None = None,
) -> Path:
    """An untrained policy that observes `cameras` (16 x 16 images) or the state, and always outputs about `action`."""
    features = {**interface.observations, "action": interface.action_dim}
    random, rows = np.random.default_rng(0), 8 * len(instructions)
    table = EpisodeTable(
        columns={name: random.normal(size=(rows, n)).astype(np.float32) for name, n in features.items()},
        task_index=np.repeat(np.arange(len(instructions)), 8),
        tasks=tuple(instructions),
        starts=np.arange(len(instructions)) * 8,
        lengths=np.full(len(instructions), 8),
        episode_index=np.arange(len(instructions)),
        frame_id=np.arange(rows),
        fps=20.0,
        robot_type="panda",
        source="noise",
        features={name: {"dtype": "video", "shape": [16, 16, 3], "names": None} for name in cameras},
        videos={
            name: {episode: VideoClip(Path("none.mp4"), 0.0, 8) for episode in range(len(instructions))}
            for name in cameras
        },
    )
    torch.manual_seed(0)
    sized = {"image_size": 16} if cameras else {}
    observed = [*cameras] or list(interface.observations)
    policy, processor = policy_from_dataset(table, observation_features=observed, n_action_steps=4, **sized)
    if action is not None:
        policy.action_normalizer.set(torch.tensor(action), torch.full((interface.action_dim,), 1e-3))
    policy.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
