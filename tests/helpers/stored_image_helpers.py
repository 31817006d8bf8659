"""Datasets with images stored in the tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data_helpers import ACTION_WIDTH, STATE_WIDTH, coded_table, vector, write_v21

from hf_ptr.data.lerobot.stored_images import png
from hf_ptr.data.lerobot.writer import DatasetWriter

CAMERA = "observation.images.top"


SIZE = (18, 22)


LENGTHS = [7, 4, 9]


IMAGE = {"dtype": "image", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]}


def image(episode: int, frame: int) -> np.ndarray:
    return np.random.default_rng([episode, frame]).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def images_v30(out: Path) -> Path:
    table = coded_table(LENGTHS)
    features = {"observation.state": vector(STATE_WIDTH), "action": vector(ACTION_WIDTH), CAMERA: IMAGE}
    with DatasetWriter(out, fps=20, features=features, robot_type="coder", tasks=table.tasks) as writer:
        for episode, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
            rows = slice(start, start + length)
            tasks = [table.tasks[number] for number in table.task_index[rows]]
            images = (image(episode, frame) for frame in range(length))
            writer.add_episode({n: c[rows] for n, c in table.columns.items()}, tasks, {CAMERA: images})
    return out


def images_v21(out: Path, in_files: bool = False) -> Path:
    """A v2.1 dataset as written by LeRobot without videos: images in the tables, or in files named in them."""
    write_v21(coded_table(LENGTHS), out)
    info = json.loads((out / "meta/info.json").read_text())
    del info["features"]["observation.images.front"]
    info["features"][CAMERA] = IMAGE
    (out / "meta/info.json").write_text(json.dumps(info))
    for episode, length in enumerate(LENGTHS):
        path = out / f"data/chunk-000/episode_{episode:06d}.parquet"
        cells = []
        for frame in range(length):
            name = f"images/{CAMERA}/episode_{episode:06d}/frame_{frame:06d}.png"
            encoded: bytes | None = png(image(episode, frame))
            if in_files:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(encoded or b"")
                encoded = None
            cells.append({"bytes": encoded, "path": name})
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        pq.write_table(pq.ParquetFile(path).read().append_column(CAMERA, pa.array(cells, kind)), path)
    return out
