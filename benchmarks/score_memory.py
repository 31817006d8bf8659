"""Peak memory and time of `hf-ptr score` against the number of episodes, and against the length of chunks.

    python -m benchmarks.score_memory [--episodes 40 200 800 3200]

Synthetic demonstrations: a state of 26 numbers, actions of 26, 120 frames an episode, four tasks. Each size is a
process of its own, whose peak the operating system reports. Every step and every round takes the same memory, so there
are few of either, and the seconds are not those of a whole fit. `growth` is the growth of the peak from each size to
the next in bytes a frame; the vectors alone have 208. Results in `benchmarks/results/score_memory.json`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.suites import ROOT
from benchmarks.scored_walks import table_of
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.utils.atomic_files import write_json
from hf_ptr.utils.process_pool import process_pool

RESULTS = ROOT / "benchmarks" / "results" / "score_memory.json"
WIDTH, FRAMES, TASKS = 26, 120, 4
STEPS, ROUNDS = 4, 1
SHORT = (f"steps={STEPS}", f"rounds={ROUNDS}")
CHUNK, LONG_CHUNK = 16, 64
# The size that is also measured with long chunks.
LONG_CHUNK_EPISODES = 200
MEASURED = """
import sys
from benchmarks.process_memory import peak
from hf_ptr.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print(peak() / 1e6, file=sys.stderr)
"""


def demonstrations(episodes: int, folder: Path) -> Path:
    """Smooth random walks: the state follows the actions."""
    random = np.random.default_rng(0)
    kicks = random.normal(size=(episodes, FRAMES, WIDTH)).astype(np.float32)
    action = np.stack([kicks[:, max(0, i - 8) : i + 1].mean(axis=1) for i in range(FRAMES)], axis=1)
    state = np.cumsum(action, axis=1, dtype=np.float32) * 0.1
    columns = {"observation.state": state.reshape(-1, WIDTH), "action": action.reshape(-1, WIDTH)}
    return write_table(table_of(columns, FRAMES, TASKS), folder)


def measure(*command: str) -> dict[str, float]:
    """Peak memory in MB and wall seconds of an `hf-ptr` command in a process of its own."""
    start = time.monotonic()
    run = [sys.executable, "-c", MEASURED, *command]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return {"peak_mb": round(float(done.stderr.splitlines()[-1]), 1), "seconds": round(time.monotonic() - start, 1)}


def figures_of(lines: list[dict[str, float]]) -> dict[str, Any]:
    """The runs, and the growth of the peak between those of the usual chunk size, bytes a frame."""
    usual = [line for line in lines if line["chunk_size"] == CHUNK]
    growth = []
    for small, large in itertools.pairwise(usual):
        more, frames = large["peak_mb"] - small["peak_mb"], (large["episodes"] - small["episodes"]) * FRAMES
        growth.append(
            {"from": small["episodes"], "to": large["episodes"], "bytes_a_frame": round(more * 1e6 / frames)}
        )
    return {
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "frames_an_episode": FRAMES,
        "steps": STEPS,
        "rounds": ROUNDS,
        "runs": lines,
        "growth": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[40, 200, 800, 3200])
    sizes = parser.parse_args().episodes
    lines = []
    with tempfile.TemporaryDirectory() as aside:
        for episodes in sizes:
            # In another process: memory of this one would count in the peak of its children.
            with process_pool(1) as pool:
                folder = pool.submit(demonstrations, episodes, Path(aside) / str(episodes)).result()
            for chunk_size in (CHUNK, LONG_CHUNK) if episodes == LONG_CHUNK_EPISODES else (CHUNK,):
                out = Path(aside) / f"{episodes}.parquet"
                found = measure("score", str(folder), *SHORT, "--chunk-size", str(chunk_size), "--out", str(out))
                table_mb = 2 * WIDTH * 4 * episodes * FRAMES / 1e6
                lines.append({"episodes": episodes, "chunk_size": chunk_size, "table_mb": table_mb, **found})
                print(lines[-1], flush=True)
            # Written after each size, because the last takes longest.
            write_json(figures_of(lines), RESULTS)


if __name__ == "__main__":
    main()
