"""Speed of loading batches of chunks, compared with LeRobot's dataset and DataLoader and with PyAV decoding alone.

    python -m benchmarks.loader --lerobot .venv-lerobot/bin/python

The dataset has 200 episodes and two cameras, H.264 with a key frame every second frame, as encoded by LeRobot's
recorder. Both sides read it in alternating rounds and return the images at the chunk's start and after it, at full
size, and the actions of the chunk. The decode limit is a plain PyAV loop, in one process, over exactly the frames
that hf-ptr decoded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from benchmarks import process_memory
from benchmarks.measurement import (
    ROOT,
    command_parser,
    machine,
    ratio,
    ratio_text,
    results_file,
    run,
    summary,
    write_results,
)
from hf_ptr.data.chunks import ChunkBatch, ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.features import INDEX_FEATURES
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.data.video import FrameReader
from hf_ptr.errors import InputError

VECTORS = ("observation.state", "action")
CAMERAS = ("observation.images.front", "observation.images.wrist")
EPISODES, RECORDED, LENGTH, FPS, SIZE = 200, 8, 80, 30, (240, 320)
CHUNK, OFFSET, BATCH = 16, 16, 16
# The small form has these instead.
SMALL_SIZES = {"EPISODES": 6, "RECORDED": 2, "LENGTH": 40, "SIZE": (48, 64), "FRAMES": 2000}
# 14 joints and 14 commands: two arms.
FRAMES, WIDTH = 1_000_000, 14
VECTOR = {"dtype": "float32", "shape": [WIDTH], "names": None}


def camera_frames(random: np.random.Generator) -> Iterator[np.ndarray]:
    """A moving view of a textured scene, with sensor noise."""
    height, width = SIZE
    coarse = random.integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)
    scene = np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)).astype(np.int16)
    grain = random.integers(-4, 5, (2 * height, 2 * width, 3), dtype=np.int16)
    for frame in range(LENGTH):
        top, left = frame % height, 2 * frame % width
        y, x = random.integers(0, (height, width))
        view = scene[top : top + height, left : left + width] + grain[y : y + height, x : x + width]
        yield view.clip(0, 255).astype(np.uint8)


def make_videos(folder: Path) -> Path:
    """The dataset. Only eight recordings are encoded; 200 episodes link to them, since they decode alike."""
    random = np.random.default_rng(0)
    recorded = folder.with_name("recorded")
    recorded.mkdir()
    features = {
        **dict.fromkeys(VECTORS, VECTOR),
        **{
            name: {"dtype": "video", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]} for name in CAMERAS
        },
    }
    index = {name: {"dtype": "int64", "shape": [1], "names": None} for name in INDEX_FEATURES if name != "timestamp"}
    info = {
        "codebase_version": "v2.1", "robot_type": None, "fps": FPS, "chunks_size": 1000,
        "total_episodes": EPISODES, "total_frames": EPISODES * LENGTH,
        "features": {**features, "timestamp": {"dtype": "float32", "shape": [1], "names": None}, **index},
    }  # fmt: skip
    for number in range(RECORDED):
        with av.open(str(recorded / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"g": "2", "bf": "0", "crf": "23"})
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            for frame in camera_frames(random):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    v21 = folder.with_name("v21")
    (v21 / "meta").mkdir(parents=True)
    (v21 / "data/chunk-000").mkdir(parents=True)
    (v21 / "meta/info.json").write_text(json.dumps(info))
    (v21 / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "look"}))
    lines = [{"episode_index": episode, "tasks": ["look"], "length": LENGTH} for episode in range(EPISODES)]
    (v21 / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for episode in range(EPISODES):
        frames = np.arange(LENGTH)
        vectors = {
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(random.standard_normal(LENGTH * WIDTH, dtype=np.float32)), WIDTH
            )
            for name in VECTORS
        }
        rows = {
            **vectors, "timestamp": (frames / FPS).astype(np.float32), "frame_index": frames,
            "episode_index": np.full(LENGTH, episode), "index": episode * LENGTH + frames,
            "task_index": np.zeros(LENGTH, dtype=np.int64),
        }  # fmt: skip
        pq.write_table(pa.table(rows), v21 / f"data/chunk-000/episode_{episode:06d}.parquet")
        for number, camera in enumerate(CAMERAS):
            path = v21 / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(recorded / f"{(episode + 3 * number) % RECORDED}.mp4")
    return convert_lerobot(v21, folder)


def chunks_of(table: EpisodeTable) -> ChunkDataset:
    return ChunkDataset(
        table,
        chunk_size=CHUNK,
        chunk_stride=CHUNK,
        target_offset=OFFSET,
        observation_features=CAMERAS,
        image_size=SIZE,
    )


def ours(dataset: ChunkDataset, workers: int, warm_up: int, batches: int, seed: int) -> float:
    """Seconds for a number of batches, loaded as in training."""
    loader = DataLoader(
        dataset, batch_sampler=SegmentBatches(dataset, BATCH, seed=seed), num_workers=workers, collate_fn=_columns
    )
    walk = iter(loader)
    for _ in range(warm_up):
        next(walk)
    start = time.perf_counter()
    for _ in range(batches):
        next(walk)
    return time.perf_counter() - start


def _columns(batch: ChunkBatch) -> Mapping[str, torch.Tensor]:
    return batch.columns


@contextmanager
def lerobot(python: str, dataset: Path, workers: int) -> Iterator[Any]:
    """A function that times one round of LeRobot."""
    command = [
        python, str(ROOT / "benchmarks" / "lerobot_side.py"), str(dataset),
        *map(str, (FPS, BATCH, workers, CHUNK, OFFSET)), *CAMERAS,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": ""}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=dataset, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("LeRobot's process did not start; see the error above")

        def measure(warm_up: int, batches: int, seed: int) -> float:
            print(warm_up, batches, seed, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield measure
        process.stdin.close()


def readers_of(dataset: ChunkDataset) -> list[FrameReader]:
    """The frame readers of the dataset's cameras."""
    assert dataset.images is not None
    return dataset.images.readers


def wanted_frames(dataset: ChunkDataset, walk: list[list[int]]) -> list[list[tuple[int, int]]]:
    """For each batch, the (episode, frame) pairs not needed by an earlier batch: those that a full cache decodes."""
    table = dataset.table
    episode = np.repeat(table.episode_index, table.lengths)
    seen: set[tuple[int, int]] = set()
    batches = []
    for rows in walk:
        batch = dataset.without_observations(torch.tensor(rows))
        targets = [row + OFFSET for row, valid in zip(rows, batch["has_target"].tolist(), strict=True) if valid]
        keys = {(int(episode[row]), int(table.video_frame[row])) for row in (*rows, *targets)}
        batches.append(sorted(keys - seen))
        seen |= keys
    return batches


def decode_limit(table: EpisodeTable, dataset: ChunkDataset, batches: int) -> tuple[float, float, int]:
    """Seconds of hf-ptr in one process, seconds of a plain PyAV loop over the same frames, and their number."""
    walk = list(SegmentBatches(dataset, BATCH, seed=7))[:batches]
    wanted = wanted_frames(dataset, walk)
    timed = chunks_of(table)
    start = time.perf_counter()
    for rows in walk:
        timed.batch(rows)
    mine = time.perf_counter() - start
    files: dict[Path, Any] = {}
    for camera in CAMERAS:
        for clip in table.videos[camera].values():
            if clip.path not in files:
                files[clip.path] = av.open(str(clip.path))
                files[clip.path].streams.video[0].thread_type = "NONE"
    start = time.perf_counter()
    count = 0
    for keys in wanted:
        for camera in CAMERAS:
            positions = defaultdict(list)
            for episode, frame in keys:
                clip = table.videos[camera][episode]
                positions[clip.path].append(int(clip.file.index.labels[clip.position(frame, FPS)]))
            for path, times in positions.items():
                count += len(times)
                _decode(files[path], sorted(times))
    limit = time.perf_counter() - start
    for container in files.values():
        container.close()
    # Both sides must have decoded the same number of frames for their times to be comparable.
    assert count == sum(reader.decoded for reader in readers_of(timed))
    return mine, limit, count


def _decode(container: Any, times: list[int]) -> None:
    stream = container.streams.video[0]
    for wanted in times:
        container.seek(wanted, stream=stream)
        for frame in container.decode(stream):
            if frame.pts >= wanted:
                frame.to_ndarray(format="rgb24")
                break


def memory_of_epochs(table: EpisodeTable, epochs: int) -> list[float]:
    """Resident memory (MB) after each epoch over six episodes, which exceed the small cache."""
    dataset = chunks_of(table.select(table.episode_index[:6].tolist()))
    for reader in readers_of(dataset):
        reader.cache_bytes = 32 * 1024**2
    batches = SegmentBatches(dataset, BATCH, seed=0)
    held = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for rows in batches:
            dataset.batch(rows)
        held.append(process_memory.resident() / 1e6)
    return held


OPENING = """
import json, sys, time
import pyarrow.compute, pyarrow.parquet
from benchmarks.process_memory import peak, reset_peak, resident
from hf_ptr.data.lerobot.reader import read_dataset
before = resident()
# The temporary memory of the imports is not counted.
reset_peak()
start, busy = time.perf_counter(), time.process_time()
table = read_dataset(sys.argv[1])
print(json.dumps([
    time.perf_counter() - start, time.process_time() - busy, (peak() - before) / 1e6, (resident() - before) / 1e6,
    table.num_frames,
]))
"""


def opening(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Time and memory of opening a table of a million frames, each round in a fresh process."""
    length = 400
    starts = np.arange(0, FRAMES, length)
    random = np.random.default_rng(0)
    table = EpisodeTable(
        columns={
            n: random.standard_normal((FRAMES, WIDTH), dtype=np.float32) for n in ("observation.state", "action")
        },
        task_index=np.zeros(FRAMES, dtype=np.int64),
        tasks=("go",),
        starts=starts,
        lengths=np.full(len(starts), length),
        episode_index=np.arange(len(starts)),
        frame_id=np.arange(FRAMES),
        fps=FPS,
        robot_type=None,
        source="made",
        features=dict.fromkeys(VECTORS, VECTOR),
    )
    write_table(table, folder)
    found: dict[str, list[float]] = {"seconds": [], "seconds of the processor": [], "MB at the peak": [], "MB": []}
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", OPENING, str(folder)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        *values, frames = json.loads(done.stdout)
        assert frames == FRAMES
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return found


def main() -> None:
    parser = command_parser("loader", __doc__)
    parser.add_argument("--lerobot", help="Python of LeRobot's environment (make lerobot); needed unless --small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    epochs = 10
    if options.small:
        globals().update(SMALL_SIZES)
        options.rounds, options.batches, options.workers, epochs = 1, 1, 0, 3
    elif options.lerobot is None:
        raise InputError("--lerobot is missing; run make lerobot, and pass .venv-lerobot/bin/python")
    with tempfile.TemporaryDirectory() as scratch:
        opened = opening(Path(scratch) / "table", options.rounds)
        print("open", opened, flush=True)
        videos = make_videos(Path(scratch) / "videos")
        table = read_dataset(videos)
        dataset = chunks_of(table)
        speeds: dict[str, list[float]] = {"hf_ptr": []}
        with lerobot(options.lerobot, videos, options.workers) if options.lerobot else nullcontext() as their_round:
            for turn in range(options.rounds):
                samples = options.batches * BATCH
                speeds["hf_ptr"].append(samples / ours(dataset, options.workers, 4, options.batches, turn))
                if their_round is not None:
                    theirs = speeds.setdefault("lerobot 0.6.1", [])
                    theirs.append(samples / their_round(4, options.batches, turn))
                print(
                    turn, {name: f"{values[-1]:.1f} samples a second" for name, values in speeds.items()}, flush=True
                )
        limits = [decode_limit(table, dataset, options.batches) for _ in range(options.rounds)]
        print("limit", limits, flush=True)
        held = memory_of_epochs(table, epochs)
    mine, *other = speeds.values()
    result = {
        "what": "samples per second of a batch with two cameras at the chunk's start and after it, at full size",
        "command": f"python -m benchmarks.loader --rounds {options.rounds} --batches {options.batches} "
        f"--workers {options.workers}",
        "dataset": {
            "episodes": EPISODES,
            "frames": EPISODES * LENGTH,
            "cameras": 2,
            "size": SIZE,
            "codec": "h264, g=2",
        },
        "machine": machine(),
        "samples_per_second": {name: summary(values) for name, values in speeds.items()},
        "decoding": {
            "frames": limits[0][2],
            "seconds, one process": summary([mine for mine, _, _ in limits]),
            "seconds, PyAV alone": summary([limit for _, limit, _ in limits]),
        },
        "ratios": {
            **({"hf_ptr/lerobot": ratio(mine, other[0])} if other else {}),
            "share of the decode limit": summary([limit / own for own, limit, _ in limits]),
        },
        "memory after each epoch, MB": [round(value, 1) for value in held],
        f"memory growth from epoch 3 to {epochs}": held[-1] / held[2] - 1,
        f"a table of {FRAMES:,} frames": {name: summary(values) for name, values in opened.items()},
    }
    for name, each in result["ratios"].items():
        print(f"{name}: {ratio_text(each, '.2f')}")
    growth = statistics.median(held[-3:]) / held[2] - 1
    print(f"memory grows by {100 * growth:.1f} % from epoch 3 to {epochs}")
    write_results(result, results_file("loader", options.small))


if __name__ == "__main__":
    run("benchmarks.loader", main)
