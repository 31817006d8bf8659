"""Seconds and memory of `hf-ptr score` by the number of episodes and of processes.

    python -m benchmarks.score_scaling [--episodes 100 1000 10000] [--processes 1 2]

Synthetic demonstrations without video: 100 frames an episode, a state of 8 numbers, actions of 4, ten tasks. Each
scoring is a command of its own with the default settings; seconds of its stages are those of the slowest process:
`groups` judges the episodes and runs the self-test, `fit` trains the heads, `blocks` scores the episodes outside of
the sample. `grows` is the slope of log seconds, or of log memory, over log episodes from each size to the next: 0 is
constant, 1 is proportional. `difference` is the largest one of scores and weights between the numbers of processes.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measurement import command_parser, machine, results_file, run, write_results
from benchmarks.scored_walks import FRAMES, measure, walks
from hf_ptr.data.episode_groups import MOST_EPISODES
from hf_ptr.scoring.other_episodes import BLOCK
from hf_ptr.utils.process_pool import process_pool

FIGURES = ("seconds", "peak_mb", "groups", "fit", "blocks")


def exponents(lines: Sequence[dict[str, Any]], figures: Sequence[str]) -> list[dict[str, Any]]:
    """The slope of the logarithm of each figure over that of the episodes, from each size to the next."""
    return [
        {"from": small["episodes"], "to": large["episodes"]}
        | {
            name: round(math.log(large[name] / small[name]) / math.log(large["episodes"] / small["episodes"]), 2)
            for name in figures
            if small.get(name) and large.get(name)
        }
        for small, large in itertools.pairwise(lines)
    ]


def grows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exponents from each size to the next, of the runs in one process."""
    fewest = min(each["processes"] for each in lines)
    return exponents([line for line in lines if line["processes"] == fewest], FIGURES)


def difference(files: list[Path]) -> float:
    """The largest difference of a score or weight between score files of the same episodes."""
    first, *others = (pd.read_parquet(file, columns=["score", "weight"]).to_numpy(np.float64) for file in files)
    return max((float(np.abs(other - first).max()) for other in others), default=0.0)


def main() -> None:
    parser = command_parser("score_scaling", __doc__)
    parser.add_argument("--episodes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    most, block, settings = MOST_EPISODES, BLOCK, []
    if options.small:
        # Two groups of few episodes, and heads of two steps.
        options.episodes, options.processes = [8, 16], [1]
        most, block, settings = 8, 500, ["steps=2", "rounds=1"]
    lines, differences = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for episodes in options.episodes:
            # In another process: memory of this one would count in the peak of its children.
            with process_pool(1) as pool:
                dataset = pool.submit(walks, episodes, Path(scratch) / str(episodes)).result()
            files = []
            for processes in options.processes:
                files.append(Path(scratch) / f"{episodes}-{processes}" / "scores.parquet")
                found = measure(dataset, files[-1], processes, most, block, settings)
                per_thousand = round(found["seconds"] / episodes * 1000, 1)
                lines.append({"episodes": episodes, "processes": processes, **found, "per_thousand": per_thousand})
                print(lines[-1], flush=True)
            differences[str(episodes)] = difference(files)
            result = {
                "what": "hf-ptr score of tables without video, by episodes and processes",
                "command": f"python -m benchmarks.score_scaling --episodes {' '.join(map(str, options.episodes))}",
                "machine": machine(),
                "frames_an_episode": FRAMES,
                "most_episodes": most,
                "runs": lines,
                "grows": grows(lines),
                "difference": differences,
            }
            # After each size, because the last takes longest.
            write_results(result, results_file("score_scaling", options.small))
    for each in result["grows"]:
        print(each)


if __name__ == "__main__":
    run("benchmarks.score_scaling", main)
