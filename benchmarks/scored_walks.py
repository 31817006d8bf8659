"""Synthetic demonstrations of any number, and `hf-ptr score` of them in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurement import ROOT
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.writer import write_table

FRAMES, TASKS, STATE, ACTION = 100, 10, 8, 4
LAG = 2
# Run by each process: the command, then one line with its peak memory in MB and the seconds of its stages.
MEASURED = """
import json, os, sys, time
from benchmarks.process_memory import peak
from hf_ptr.data import episode_groups
from hf_ptr.scoring import fit, other_episodes
from hf_ptr.training import detected_scores
most, block, seconds = int(sys.argv[1]), int(sys.argv[2]), {}
episode_groups.MOST_EPISODES, other_episodes.BLOCK = most, block
def timed(owner, name, stage):
    plain = getattr(owner, name)
    def call(*arguments, **settings):
        begun = time.monotonic()
        try:
            return plain(*arguments, **settings)
        finally:
            seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - begun
    setattr(owner, name, call)
timed(detected_scores, "cached_detection", "groups")
timed(fit, "score_round", "fit")
timed(fit.OtherEpisodes, "_score_block", "blocks")
from hf_ptr.cli import main
try:
    main(["score", *sys.argv[3:]])
except SystemExit as stop:
    if stop.code:
        raise
stages = {name: round(each, 2) for name, each in seconds.items()}
print(json.dumps({"peak_mb": round(peak() / 1e6, 1), **stages}), flush=True)
"""


def walks(episodes: int, folder: Path) -> Path:
    """Smooth random commands of ten tasks; the state follows them, next to mixtures of them."""
    random = np.random.default_rng(0)
    goal, mixture = random.normal(size=(TASKS, ACTION)), random.normal(size=(ACTION, STATE - ACTION)) / 2
    actions, states = [], []
    for number in range(episodes):
        kicks = random.normal(size=(FRAMES + 15, ACTION)).cumsum(axis=0)
        action = (kicks[15:] - kicks[:-15]) / 7.5 + 0.3 * goal[number % TASKS] * np.linspace(0, 1, FRAMES)[:, None]
        followed = np.concatenate([action[:1].repeat(LAG, axis=0), action[:-LAG]])
        state = np.concatenate([followed, followed @ mixture], axis=1) + random.normal(0, 0.01, (FRAMES, STATE))
        actions.append(action.astype(np.float32))
        states.append(state.astype(np.float32))
    columns = {"observation.state": np.concatenate(states), "action": np.concatenate(actions)}
    return write_table(table_of(columns, FRAMES, TASKS), folder)


def table_of(columns: dict[str, np.ndarray], frames: int, tasks: int) -> EpisodeTable:
    """Vectors `(F, d)` float32 as episodes of `frames` frames, their tasks in turn."""
    episodes = len(columns["action"]) // frames
    lengths = np.full(episodes, frames, dtype=np.int64)
    return EpisodeTable(
        columns=columns,
        task_index=np.repeat(np.arange(episodes) % tasks, frames).astype(np.int64),
        tasks=tuple(f"do {number}" for number in range(tasks)),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        episode_index=np.arange(episodes, dtype=np.int64),
        frame_id=np.arange(episodes * frames, dtype=np.int64),
        fps=30.0,
        robot_type=None,
        source=f"walks-{episodes}",
        features={
            name: {"dtype": "float32", "shape": [column.shape[1]], "names": None} for name, column in columns.items()
        },
    )


def start(
    dataset: Path, out: Path, processes: int, most: int, block: int, settings: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """
    `hf-ptr score` of a dataset, in a process or several.

    Args:
        dataset: the folder.
        out: the score file; the kept parts of scorings are next to it.
        processes: number of processes, of `accelerate launch` if several.
        most: episodes that are compared at once, and that the score is fitted to.
        block: transitions that are scored at once.
        settings: settings of the score.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    script = out.with_name("measured.py")
    script.write_text(MEASURED, encoding="utf-8")
    # Without MPI, only the launcher for GPUs starts several processes on a CPU, too.
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    given = [str(most), str(block), str(dataset), *settings, "--out", str(out)]
    command = [sys.executable, *(launcher if processes > 1 else ()), str(script), *given]
    # The script lies elsewhere, and imports from here.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {"HF_HOME": str(out.with_name("home")), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})


def measure(
    dataset: Path, out: Path, processes: int, most: int, block: int, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """Wall seconds, the largest peak memory of a process in MB, and the longest seconds of each stage."""
    shutil.rmtree(out.parent, ignore_errors=True)
    begun = time.monotonic()
    printed, errors = (run := start(dataset, out, processes, most, block, settings)).communicate()
    if run.returncode:
        sys.exit(f"a scoring ended with {run.returncode}:\n{errors[-3000:]}")
    found: dict[str, float] = {}
    for line in printed.splitlines():
        if line.startswith('{"peak_mb"'):
            for name, value in json.loads(line).items():
                found[name] = max(found.get(name, 0.0), value)
    return {"seconds": round(time.monotonic() - begun, 1), **found}
