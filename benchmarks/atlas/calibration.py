"""
Among the findings of a stated probability, the share of true ones: in planted, rarely planted and untouched sets.

    python -m benchmarks.atlas.calibration --set g1_bottle=PATH --set cr5_usb=PATH

An episode counts once, with its most probable fault. What is found in an episode of the untouched set may be a fault
that nobody planted, and it is found again in every planted set: the shares are also given without these episodes.
Writes `benchmarks/results/calibration.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import measurement
from benchmarks.atlas.cells import Cell, cells_of
from benchmarks.atlas.generated import generated_set
from benchmarks.atlas.kinds import FAULTS
from benchmarks.atlas.options import named, pairs
from benchmarks.atlas.planted import ACTION, STATE, UNTOUCHED, plant, read_set
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.detect import detect
from hf_ptr.errors import InputError
from hf_ptr.utils.progress import progress_bar

# Faults of each mechanism, some of them hard to find.
CHOSEN = (
    "swapped",
    "noise 0.1",
    "late 3",
    "gain 0.5 one",
    "offset 0.5",
    "exchanged",
    "dead",
    "state spikes 1",
    "idle tail 3",
    "duplicate",
)
SMALL_CHOSEN = ("late 6", "noise 0.1")
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Flagged:
    """An episode with a fault: its dataset and position, the cell, the stated probability, whether it was planted."""

    dataset: str
    position: int
    cell: Cell
    probability: float
    true: bool


def flagged(dataset: str, table: EpisodeTable, cell: Cell) -> list[Flagged]:
    """The episodes of a cell with a fault, without originals of copies; none where no episode can have the fault."""
    planted = plant(table, cell.fault, cell.part, cell.seed, cell.carriers)
    if planted is None:
        return []
    found = detect(planted.table, state_feature=STATE, action_feature=ACTION, power=False)
    positions = {episode: position for position, episode in enumerate(planted.table.episode_index.tolist())}
    best: dict[int, float] = {}
    for finding in found.findings:
        if finding.severity == "fault":
            position = positions[finding.episode_index]
            best[position] = max(best.get(position, 0.0), finding.probability)
    return [
        Flagged(dataset, position, cell, probability, bool(planted.carriers[position]))
        for position, probability in best.items()
        if not planted.aside[position]
    ]


def reliability(found: Iterable[Flagged]) -> dict[str, Any]:
    """For each level, the number of findings of at least this probability, their mean probability, the share true."""
    kept = list(found)
    stated, true = np.array([one.probability for one in kept]), np.array([one.true for one in kept], dtype=bool)
    table: dict[str, Any] = {}
    for level in LEVELS:
        chosen = stated >= level
        some = bool(chosen.any())
        table[str(level)] = {
            "findings": int(chosen.sum()),
            "stated": round(float(stated[chosen].mean()), 4) if some else None,
            "true": round(float(true[chosen].mean()), 4) if some else None,
        }
    return table


def groups(found: Sequence[Flagged]) -> dict[str, dict[str, Any]]:
    """The reliability over all, by the number of carriers, and without what the untouched sets show."""
    known = {(one.dataset, one.position) for one in found if one.cell.fault == UNTOUCHED}
    planted = [one for one in found if one.cell.fault != UNTOUCHED]
    return {
        "all": reliability(found),
        "fifth": reliability(one for one in planted if not one.cell.rare),
        "rare": reliability(one for one in planted if one.cell.rare),
        "untouched": reliability(one for one in found if one.cell.fault == UNTOUCHED),
        "without episodes that the untouched set shows": reliability(
            one for one in planted if (one.dataset, one.position) not in known
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = measurement.command_parser("atlas.calibration", (__doc__ or "").strip())
    parser.add_argument("--set", action="append", default=[], metavar="NAME=PATH", help="a dataset and its name")
    parser.add_argument(
        "--state", action="append", default=[], metavar="NAME=FEATURE", help=f"its state feature; default {STATE}"
    )
    parser.add_argument("--episodes", type=int, default=100, help="most episodes of a dataset; default 100")
    parser.add_argument("--faults", help=f"comma-separated; default {', '.join(CHOSEN)}")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds; default 1")
    options = parser.parse_args(arguments)
    faults = named("--faults", options.faults or ",".join(SMALL_CHOSEN if options.small else CHOSEN), list(FAULTS))
    sets, states = pairs("--set", options.set), pairs("--state", options.state)
    if not sets and not options.small:
        raise InputError("no dataset given; name one with --set NAME=PATH")
    tables = {name: read_set(path, states.get(name, STATE), options.episodes) for name, path in sets.items()}
    if options.small:
        tables["generated"] = generated_set(10)
    work = [
        (name, table, cell)
        for name, table in tables.items()
        for cell in cells_of([UNTOUCHED, *faults], range(1, 1 + options.seeds), table.num_episodes, rare=True)
    ]
    found: list[Flagged] = []
    with progress_bar() as bar:
        task = bar.add_task("planted sets", total=len(work))
        for name, table, cell in work:
            found += flagged(name, table, cell)
            bar.advance(task)
    result = {
        "datasets": {name: table.num_episodes for name, table in tables.items()},
        "faults": faults,
        "seeds": options.seeds,
        "cells": len(work),
        **groups(found),
    }
    for group, shares in groups(found).items():
        print(group)
        for level, row in shares.items():
            print(f"  at least {level}: {row['findings']} findings, stated {row['stated']}, true {row['true']}")
    measurement.write_results(result, measurement.results_file("calibration", options.small))


if __name__ == "__main__":
    measurement.run("benchmarks.atlas.calibration", main)
