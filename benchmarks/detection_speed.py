"""Seconds of the detection of faults on a generated dataset, with and without the power card, and of each check.

    python -m benchmarks.detection_speed [--episodes 100 --frames 360 --dimensions 26 --rounds 3]

One process, one thread, no cameras. Reports CPU and wall seconds of `detect`, and CPU milliseconds of each check
for an episode. Writes `benchmarks/results/detection_speed.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.measurement import command_parser, machine, results_file, run, summary, write_results
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.detect import detect
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.signals import Signals

STATE, ACTION = "observation.state", "action"
FPS, DELAY, NOISE = 30.0, 3, 0.003
WAVES = 5


def generated(episodes: int, frames: int, dimensions: int) -> EpisodeTable:
    """Smooth motions of joints and a two-valued gripper; the command leads the state."""
    rng = np.random.default_rng(0)
    way = rng.normal(0, 1, (WAVES, dimensions - 1))
    times = np.arange(frames + DELAY)[:, None] / frames
    states, actions = [], []
    for _ in range(episodes):
        phase = np.linspace(0, 0.7, dimensions - 1) + rng.uniform(0, 0.15, (WAVES, dimensions - 1))
        size = way * rng.uniform(0.7, 1.3, way.shape)
        path = sum(size[k] * np.sin(2 * np.pi * (k + 1) * (times + phase[k])) / (k + 1) for k in range(WAVES))
        closed = (times > rng.uniform(0.3, 0.6)).astype(float)
        path = np.concatenate([path, closed], axis=1)
        noise = rng.normal(0, NOISE, (2, frames, dimensions))
        noise[1, :, -1] = 0.0
        states.append(path[:-DELAY] + noise[0])
        actions.append(path[DELAY:] + noise[1])
    total = episodes * frames
    return EpisodeTable(
        columns={STATE: np.concatenate(states).astype(np.float32), ACTION: np.concatenate(actions).astype(np.float32)},
        task_index=np.zeros(total, dtype=np.int64),
        tasks=("move the arm",),
        starts=np.arange(episodes) * frames,
        lengths=np.full(episodes, frames),
        episode_index=np.arange(episodes),
        frame_id=np.arange(total),
        fps=FPS,
        robot_type="generated",
        source="generated",
        features={name: {"dtype": "float32", "shape": [dimensions], "names": None} for name in (STATE, ACTION)},
    )


def cost(work: Callable[[], object], rounds: int) -> dict[str, Any]:
    """CPU and wall seconds."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpus, walls = zip(*taken, strict=True)
    return {"cpu_seconds": summary(cpus), "wall_seconds": summary(walls)}


def milliseconds(detector: Detector) -> dict[str, float]:
    """CPU milliseconds of each check for an episode, and of the response model's prediction."""
    episodes, found = detector.context.signals.episodes, {}
    works: dict[str, Callable[[], Sequence[object]]] = {
        "prediction": lambda: [detector.context.view(episode) for episode in episodes]
    }
    works |= {
        check.name: lambda check=check: [check.measure(view) for view in detector.views] for check in detector.checks
    }
    for name, work in works.items():
        start = time.process_time()
        work()
        found[name] = round(1000 * (time.process_time() - start) / len(episodes), 3)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = command_parser("detection_speed", __doc__)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--frames", type=int, default=360)
    parser.add_argument("--dimensions", type=int, default=26)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.small:
        options.episodes, options.frames, options.dimensions, options.rounds = 10, 80, 4, 1
    table = generated(options.episodes, options.frames, options.dimensions)
    rounds = options.rounds
    result = {
        "episodes": options.episodes,
        "frames": options.frames,
        "dimensions": options.dimensions,
        "machine": machine(),
        "detect": cost(lambda: detect(table), rounds),
        "detect_without_power": cost(lambda: detect(table, power=False), rounds),
        "milliseconds": milliseconds(Detector(Signals.of_table(table, STATE, ACTION), all_checks())),
    }
    print(json.dumps(result, indent=2))
    write_results(result, results_file("detection_speed", options.small))


if __name__ == "__main__":
    run("benchmarks.detection_speed", main)
