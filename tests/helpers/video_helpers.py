"""A dataset with one camera whose frames can be identified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_ptr.data.lerobot.writer import DatasetWriter

CAMERA = "observation.images.top"


LENGTHS = (9, 5, 12)


def image(episode: int, frame: int) -> np.ndarray:
    """An image with a brightness that encodes the frame, robust to any codec."""
    shade = np.full((32, 48, 3), 20 + 15 * frame, dtype=np.uint8)
    shade[:, :, 0] = 60 * episode
    return shade


def frame_of(images: np.ndarray) -> list[int]:
    return np.round((images[..., 1].mean(axis=(1, 2)) - 20) / 15).astype(int).tolist()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes in one video file, as LeRobot v3.0 stores them."""
    out = tmp_path_factory.mktemp("video") / "data"
    features = {
        "observation.state": {"dtype": "float32", "shape": [1], "names": ["frame"]},
        "action": {"dtype": "float32", "shape": [1], "names": ["frame"]},
        CAMERA: {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
    }
    with DatasetWriter(out, fps=10, features=features, robot_type="none", tasks=["count"]) as writer:
        for episode, length in enumerate(LENGTHS):
            column = np.arange(length, dtype=np.float32)[:, None]
            images = np.stack([image(episode, frame) for frame in range(length)])
            writer.add_episode({"observation.state": column, "action": column}, "count", {CAMERA: images})
    return out
