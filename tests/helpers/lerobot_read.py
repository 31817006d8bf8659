"""Reads a dataset with LeRobot and writes its content, in LeRobot's environment (test_read_by_lerobot.py)."""

from __future__ import annotations

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(root: str, out: str, backend: str, *frames: str) -> None:
    dataset = LeRobotDataset("local/dataset", root=root, video_backend=backend)
    indices = [int(frame) for frame in frames] or range(len(dataset))
    items = [dataset[index] for index in indices]
    seen = {
        key: np.stack([np.asarray(item[key]) for item in items])
        for key in items[0]
        if not isinstance(items[0][key], str)
    }
    stats = {f"stats/{key}/mean": np.asarray(value["mean"]) for key, value in dataset.meta.stats.items()}
    np.savez(
        out,
        task=np.array([item["task"] for item in items]),
        frames=np.array(len(dataset)),
        episodes=np.array(dataset.num_episodes),
        fps=np.array(dataset.fps),
        **seen,
        **stats,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
