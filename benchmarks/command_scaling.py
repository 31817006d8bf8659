"""Seconds and memory of `hf-ptr validate` and `hf-ptr report` by the number of episodes.

    python -m benchmarks.command_scaling [--episodes 1000 10000 100000]

Synthetic demonstrations without video, as those of `benchmarks.score_scaling`. The report is that of a score file with
random weights and with findings in every thirtieth episode: making the real ones is measured there. `grows` is the
slope of log seconds, or of log memory, over log episodes from each size to the next: 0 is constant, 1 is proportional.
Runs on Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measurement import command_parser, machine, results_file, run, write_results
from benchmarks.score_scaling import exponents
from benchmarks.scored_walks import walks
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import score_frame, write_scores
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import findings_written
from hf_ptr.utils.process_pool import process_pool

# One episode of so many has a finding, and rows of so many episodes are written at once.
FAULTY, BLOCK = 30, 1000
FIGURES = ("seconds", "peak_mb")
# The command, then a line with its peak memory in MB.
MEASURED = """
import sys
from benchmarks.process_memory import peak
sys.argv[0] = "hf-ptr"
from hf_ptr.cli import main
try:
    main()
except SystemExit as stop:
    if stop.code:
        raise
print(peak() / 1e6)
"""


def write_score_file(dataset: Path, file: Path) -> None:
    """A score file of the dataset with random weights, and its findings."""
    table, chance = read_dataset(dataset), np.random.default_rng(0)

    def rows() -> Iterator[pd.DataFrame]:
        for first in range(0, table.num_episodes, BLOCK):
            part = slice(first, first + BLOCK)
            count = int(table.lengths[part].sum())
            weight = chance.uniform(0.25, 4.0, count)
            yield score_frame(table, part, score=weight / 4, weight=weight, valid=True, scorer="random")

    numbers = range(0, table.num_episodes, FAULTY)
    findings = [
        Finding("action/noise", number, 0, int(table.lengths[number]) - 1, 0.99, "fault", 0.2, "std", "noise", "look")
        for number in numbers
    ]
    with findings_written(file, findings, {}, dataset=str(dataset)) as detection:
        write_scores(rows(), file, dataset=str(dataset), detection=detection)


def measured(arguments: Sequence[str]) -> dict[str, float]:
    """Wall seconds and peak memory in MB of a command of hf-ptr."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"hf-ptr {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {"seconds": round(time.monotonic() - begun, 2), "peak_mb": round(float(done.stdout.split()[-1]), 1)}


def main() -> None:
    parser = command_parser("command_scaling", __doc__)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options = parser.parse_args()
    if options.small:
        options.episodes = [60, 120]
    lines: dict[str, list[dict[str, Any]]] = {"validate": [], "report": []}
    for episodes in options.episodes:
        with tempfile.TemporaryDirectory() as scratch:
            folder, scores = Path(scratch) / "data", Path(scratch) / "scores.parquet"
            # In another process: memory of this one would count in the peak of its children.
            with process_pool(1) as pool:
                pool.submit(walks, episodes, folder).result()
                pool.submit(write_score_file, folder, scores).result()
            for name, arguments in (("validate", [str(folder)]), ("report", [str(scores)])):
                lines[name].append({"episodes": episodes, **measured([name, *arguments])})
                print(name, lines[name][-1], flush=True)
        result = {
            "what": "hf-ptr validate and report of tables without video, by episodes",
            "command": f"python -m benchmarks.command_scaling --episodes {' '.join(map(str, options.episodes))}",
            "machine": machine(),
            **{name: {"runs": found, "grows": exponents(found, FIGURES)} for name, found in lines.items()},
        }
        # After each size, because the last takes longest.
        write_results(result, results_file("command_scaling", options.small))


if __name__ == "__main__":
    run("benchmarks.command_scaling", main)
