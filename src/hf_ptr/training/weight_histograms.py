"""Histograms of the weights while a run trains: one line of JSON for each log, beside the run's other files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ptr.utils.atomic_files import write_text

HISTOGRAMS_FILE = "weight_histograms.jsonl"


def append_histogram(folder: Path, step: int, edges: Sequence[float], counts: Sequence[int]) -> None:
    """
    Adds the weights of the batches since the log before.

    Args:
        folder: of the run.
        step: the optimiser step of the log.
        edges: `B + 1` ascending bounds of the bins.
        counts: `B`, weights in each; the last bin has its upper bound.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HISTOGRAMS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "edges": list(edges), "counts": list(counts)}) + "\n")


def forget_histograms_after(folder: Path, step: int) -> None:
    """Takes out what was written after `step`: a run that goes on from a checkpoint comes there again."""
    if (folder / HISTOGRAMS_FILE).is_file():
        kept = [line for line in read_histograms(folder) if line["step"] <= step]
        write_text("".join(f"{json.dumps(line)}\n" for line in kept), folder / HISTOGRAMS_FILE)


def read_histograms(folder: Path) -> list[dict[str, Any]]:
    """`{step, edges, counts}` of each log in the order of the steps; lines that are none are passed over."""
    file = folder / HISTOGRAMS_FILE
    if not file.is_file():
        return []
    found = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            step, edges, counts = (
                int(line["step"]),
                [float(x) for x in line["edges"]],
                [int(x) for x in line["counts"]],
            )
        except (ValueError, KeyError, TypeError):
            continue
        if len(edges) == len(counts) + 1 > 1 and all(map(math.isfinite, edges)) and min(counts) >= 0 and any(counts):
            found.append({"step": step, "edges": edges, "counts": counts})
    return sorted(found, key=lambda line: line["step"])
