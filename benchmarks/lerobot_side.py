"""LeRobot's part of benchmarks/loader.py: times LeRobot's dataset under a DataLoader, in LeRobot's own environment.

Reads one line `warm_up batches seed` per round from stdin and prints the seconds of the round. The two sides can
therefore alternate, while imports and opening the dataset happen once.
"""

from __future__ import annotations

import sys
import time

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(root: str, fps: float, batch: int, workers: int, chunk: int, offset: int, cameras: list[str]) -> None:
    images = {camera: [0.0, offset / fps] for camera in cameras}
    actions = {"action": [step / fps for step in range(chunk)]}
    dataset = LeRobotDataset("local/dataset", root=root, delta_timestamps={**images, **actions}, video_backend="pyav")
    print("ready", flush=True)
    for line in sys.stdin:
        warm_up, batches, seed = map(int, line.split())
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )
        walk = iter(loader)
        for _ in range(warm_up):
            next(walk)
        start = time.perf_counter()
        for _ in range(batches):
            next(walk)
        print(time.perf_counter() - start, flush=True)
        del walk, loader


if __name__ == "__main__":
    _, root, fps, batch, workers, chunk, offset, *cameras = sys.argv
    main(root, float(fps), int(batch), int(workers), int(chunk), int(offset), cameras)
