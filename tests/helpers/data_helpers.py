"""Small synthetic datasets: with values that encode episode and frame, or with simple known dynamics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_ptr.data.episodes import EpisodeTable

STATE_WIDTH = 3
ACTION_WIDTH = 4
# Frames of a default drifting episode.
LENGTH = 40
REAL_V21 = Path(__file__).resolve().parents[3] / "shared" / "data" / "g1_bottle"


def vector(width: int, dtype: str = "float32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [width], "names": [f"x{i}" for i in range(width)]}


def coded_table(lengths: Sequence[int], tasks: int = 3, source: str = "coded") -> EpisodeTable:
    """Every vector encodes its episode (first dimension, from 1, to differ from padding) and frame (second)."""
    lengths_array = np.asarray(lengths, dtype=np.int64)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths_array) - lengths_array
    frame = np.arange(len(episode)) - np.repeat(starts, lengths)

    def column(width: int, offset: float) -> np.ndarray:
        rest = [np.sin(np.arange(len(episode)) * (i + 1) + offset) for i in range(width - 2)]
        return np.stack([episode + 1.0, frame + 0.0, *rest], axis=1).astype(np.float32)

    return EpisodeTable(
        columns={"observation.state": column(STATE_WIDTH, 0.0), "action": column(ACTION_WIDTH, 0.5)},
        task_index=(episode % tasks).astype(np.int64),
        tasks=tuple(f"do task {i}" for i in range(tasks)),
        starts=starts,
        lengths=lengths_array,
        episode_index=np.arange(len(lengths), dtype=np.int64),
        frame_id=np.arange(len(episode), dtype=np.int64),
        fps=20.0,
        robot_type="coder",
        source=source,
        features={
            "observation.state": vector(STATE_WIDTH),
            "action": vector(ACTION_WIDTH),
            "observation.images.front": {"dtype": "video", "shape": [16, 16, 3], "names": None},
        },
    )


def drifting_table(lengths: list[int], tasks: int = 2, wrong: tuple[int, ...] = (), seed: int = 0) -> EpisodeTable:
    """A point that its actions move: smooth ones of the episode's own, and a drift that its task decides.

    In the episodes `wrong` the recorded actions have the opposite sign.
    """
    rng = np.random.default_rng(seed)
    states, actions = [], []
    for number, length in enumerate(lengths):
        drift = 0.3 * np.array([np.cos(np.pi * (number % tasks)), np.sin(np.pi * (number % tasks))])
        time = np.arange(length)[:, None] * 0.25
        action = drift + np.sin(time * rng.uniform(0.6, 1.4, 2) + rng.uniform(0, 6, 2))
        states.append(rng.normal(0, 1, 2) + np.concatenate((np.zeros((1, 2)), np.cumsum(action, axis=0)[:-1])) * 0.2)
        actions.append(-action if number in wrong else action)
    sizes = np.asarray(lengths, dtype=np.int64)
    episode = np.repeat(np.arange(len(lengths)), sizes)
    return EpisodeTable(
        columns={
            "observation.state": np.concatenate(states).astype(np.float32),
            "action": np.concatenate(actions).astype(np.float32),
        },
        task_index=(episode % tasks).astype(np.int64),
        tasks=tuple(f"go {i}" for i in range(tasks)),
        starts=np.cumsum(sizes) - sizes,
        lengths=sizes,
        episode_index=np.arange(len(lengths), dtype=np.int64) + 7,
        frame_id=np.arange(len(episode), dtype=np.int64) + 100,
        fps=20.0,
        robot_type=None,
        source="drifting",
        features={"observation.state": vector(2), "action": vector(2)},
    )


def with_camera(table: EpisodeTable, camera: str, size: tuple[int, int] = (32, 48)) -> EpisodeTable:
    """The table with a video feature, for `write_v21`."""
    feature = {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"]}
    numeric = {name: value for name, value in table.features.items() if value["dtype"] != "video"}
    return replace(table, features={**numeric, camera: feature})


def coded_image(episode: int, frame: int, size: tuple[int, int]) -> np.ndarray:
    """An image that encodes the frame (brightness, up to 15) and the episode (red), robust to any codec."""
    shade = np.full((*size, 3), 20 + 15 * (frame % 16), dtype=np.uint8)
    shade[:, :, 0] = 60 * (episode % 5)
    return shade


def write_video(path: Path, images: Sequence[np.ndarray], fps: int, key_frames: int = 6) -> None:
    """An mp4 with few key frames and with B-frames, as written by recorders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"g": str(key_frames), "crf": "12", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write_v21(table: EpisodeTable, root: Path) -> Path:
    """A LeRobotDataset v2.1 folder: one parquet and video file per episode, JSON Lines metadata, no statistics."""
    (root / "meta").mkdir(parents=True)
    index_features = {name: vector(1, "int64") for name in ("frame_index", "episode_index", "index", "task_index")}
    info = {
        "codebase_version": "v2.1",
        "robot_type": table.robot_type,
        "total_episodes": table.num_episodes,
        "total_frames": table.num_frames,
        "total_tasks": len(table.tasks),
        "chunks_size": 1000,
        "fps": int(table.fps),
        "splits": {"train": f"0:{table.num_episodes}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {**table.features, "timestamp": vector(1), **index_features},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(table.tasks)])
    episodes = []
    for position, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
        rows = slice(start, start + length)
        number = int(table.episode_index[position])
        columns: dict[str, Any] = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(column[rows].ravel()), column.shape[1])
            for name, column in table.columns.items()
        }
        columns |= {
            "timestamp": pa.array((np.arange(length) / table.fps).astype(np.float32)),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": table.frame_id[rows],
            "task_index": table.task_index[rows],
        }
        path = root / f"data/chunk-{number // 1000:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        for name, feature in table.features.items():
            if feature["dtype"] == "video" and name not in table.columns and feature.get("names") is not None:
                size = feature["shape"][0], feature["shape"][1]
                video = root / f"videos/chunk-{number // 1000:03d}/{name}/episode_{number:06d}.mp4"
                write_video(video, [coded_image(number, f, size) for f in range(length)], int(table.fps))
        tasks = [table.tasks[i] for i in dict.fromkeys(table.task_index[rows].tolist())]
        episodes.append({"episode_index": number, "tasks": tasks, "length": int(length)})
    write_lines(root / "meta/episodes.jsonl", episodes)
    return root


def write_lines(path: Path, records: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every path under `root` with its content, to check that nothing was written."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def assert_same_table(left: EpisodeTable, right: EpisodeTable) -> None:
    """Check that two tables are bit-identical, except for source name and feature descriptions."""
    assert left.columns.keys() == right.columns.keys()
    for name, column in left.columns.items():
        assert column.dtype == right.columns[name].dtype == np.float32
        assert column.tobytes() == right.columns[name].tobytes(), name
    for name in ("task_index", "starts", "lengths", "episode_index", "frame_id"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert left.tasks == right.tasks
    assert left.fps == right.fps
    assert left.robot_type == right.robot_type
