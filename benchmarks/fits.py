"""Fits of the label-free score on the demonstrations of `benchmarks.robustness`, recorded one line a fit."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.robustness.behaviour import is_current, versions
from benchmarks.robustness.results import checkout
from benchmarks.robustness.running import data_hash
from benchmarks.robustness.suites import SUITES
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import CorruptionTruth, corrupt
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.utils.atomic_files import write_json

SUITE = SUITES["mt10-state"]
Cell = dict[str, Any]


def corrupted_chunks(corruption: str, seed: int) -> tuple[ChunkDataset, CorruptionTruth]:
    """The chunks of a seed's corrupted demonstrations, and the faults that they carry."""
    table, truth = corrupt(read_dataset(SUITE.demonstrations_of(seed)), corruption, seed)
    return ChunkDataset(table, observation_features=["observation.environment_state"]), truth


def fill(results: Path, cells: Sequence[Cell], figures_of: Callable[[Cell], dict[str, Any]], *, keep: bool) -> None:
    """
    Writes a line for every cell; lines of the same code and data are not computed again.

    Args:
        results: the file of lines.
        cells: the fits, each with a `seed`, whose demonstrations are recorded where they are missing.
        figures_of: computes the figures of a cell.
        keep: whether lines of older code are accepted.
    """
    parts, commit = ("calibrated",), checkout()

    def lines() -> list[dict[str, Any]]:
        # Read again each time: another command may be running for other seeds.
        return json.loads(results.read_text()) if results.exists() else []

    for cell in track(cells, "fitting"):
        folder = SUITE.demonstrations_of(cell["seed"])
        if not folder.exists():
            record_metaworld(SUITE.tasks, SUITE.demonstrations, folder, seed=cell["seed"])
        same = {**cell, "data_hash": data_hash(folder)}
        if any(same.items() <= line.items() and (keep or is_current(line, parts)) for line in lines()):
            continue
        start = time.monotonic()
        figures = figures_of(cell)
        made = {
            **same,
            "behaviour": versions(parts),
            **figures,
            "seconds": round(time.monotonic() - start, 1),
            "commit": commit,
        }
        with results.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_json([*(line for line in lines() if not cell.items() <= line.items()), made], results)
