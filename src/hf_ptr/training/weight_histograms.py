"""
Histograms of the sample weights during training: one line of JSON per logging step, in the run's folder.

A module apart from `weight_record`, which imports torch: `hf-ptr report` reads the histograms without it.
"""

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
    Append the histogram of the weights since the previous logging step.

    Args:
        folder: folder of the run.
        step: optimiser step of the log.
        edges: `B + 1` ascending bin edges.
        counts: `B` counts of weights; the last bin includes its upper edge.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HISTOGRAMS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "edges": list(edges), "counts": list(counts)}) + "\n")


def forget_histograms_after(folder: Path, step: int) -> None:
    """Remove the histograms after `step`, which a run resumed from a checkpoint writes again."""
    if (folder / HISTOGRAMS_FILE).is_file():
        kept = [line for line in read_histograms(folder) if line["step"] <= step]
        write_text("".join(f"{json.dumps(line)}\n" for line in kept), folder / HISTOGRAMS_FILE)


def read_histograms(folder: Path) -> list[dict[str, Any]]:
    """`{step, edges, counts}` of each logging step, sorted by step; invalid lines are ignored."""
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
