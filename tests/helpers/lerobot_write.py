"""Records a dataset with LeRobot, in LeRobot's environment (test_read_by_lerobot.py)."""

from __future__ import annotations

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

SIZE = (48, 64)


def image(episode: int, frame: int) -> np.ndarray:
    """A smooth image, which a codec preserves, different for every frame."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    channels = [(3 * y + 20 * frame) % 256, (2 * x + 60 * episode) % 256, (x + y + 9 * frame) % 256]
    return np.stack(channels, axis=2).astype(np.uint8)


def main(root: str, videos: str, *lengths: str) -> None:
    camera = {
        "dtype": "video" if videos == "1" else "image",
        "shape": (*SIZE, 3),
        "names": ["height", "width", "channels"],
    }
    vector = {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]}
    features = {"observation.state": vector, "action": vector, "observation.images.front": camera}
    dataset = LeRobotDataset.create(
        "local/made", fps=10, features=features, root=root, robot_type="made", use_videos=videos == "1"
    )
    for episode, length in enumerate(map(int, lengths)):
        for frame in range(length):
            values = np.array([episode, frame, episode * frame / 7], dtype=np.float32)
            dataset.add_frame(
                {
                    "observation.state": values,
                    "action": -values,
                    "observation.images.front": image(episode, frame),
                    "task": f"task {episode % 2}",
                }
            )
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
