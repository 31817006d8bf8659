"""
What the small form must find: write it from its last run, after an intended change.

    python -m benchmarks.atlas --small; python -m benchmarks.atlas.pinned

The small form fails if more sound episodes are flagged than here, or a fault is found in fewer of its
carriers, by more than one of five.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measurement
from benchmarks.atlas.cells import Recorded
from benchmarks.atlas.kinds import FAULTS
from benchmarks.atlas.ours import OURS
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import write_json

# A recall may be lower by this: one of the five carriers, which another machine may see differently.
SLACK = 0.21
FILE = Path(__file__).parent / "pinned.json"
Figures = dict[str, dict[str, float]]


def figures_of(lines: Iterable[dict[str, Any]]) -> Figures:
    """`recall` and `false_alarms` of our detector by cell, each as a share of the episodes that it is defined for."""
    found: Figures = {"recall": {}, "false_alarms": {}}
    for line in lines:
        if line["tool"] == OURS:
            name = f"{line['dataset']}: {line['fault']}, {line['part']}"
            if line["fault"] in FAULTS:
                found["recall"][name] = line["recall"]
            found["false_alarms"][name] = line["false_alarms"]
    return found


def problems(figures: Figures, pinned: Figures) -> list[str]:
    """One line for each figure that is worse than the pinned one, or is not pinned, or not measured."""
    found = []
    for name, value in figures["recall"].items():
        least = pinned["recall"].get(name)
        if least is not None and value < least - SLACK:
            found.append(f"{name}: recall {value:.2f}, pinned {least:.2f}")
    for name, value in figures["false_alarms"].items():
        most = pinned["false_alarms"].get(name)
        if most is not None and value > most:
            found.append(f"{name}: {value:.1%} falsely flagged, pinned {most:.1%}")
    for kind in ("recall", "false_alarms"):
        found += [f"{name}: {kind} not pinned" for name in figures[kind].keys() - pinned[kind].keys()]
        found += [f"{name}: {kind} not measured" for name in pinned[kind].keys() - figures[kind].keys()]
    return sorted(found)


def require_pinned(lines: Iterable[dict[str, Any]]) -> None:
    """
    Compare the small form with the pinned figures.

    Raises:
        InputError: a figure is worse than pinned.
    """
    found = problems(figures_of(lines), json.loads(FILE.read_text(encoding="utf-8")))
    if found:
        raise InputError(
            f"{len(found)} figures differ from {FILE.name}: {'; '.join(found)}; "
            "if that is intended, run `python -m benchmarks.atlas.pinned`"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    measurement.command_parser("atlas.pinned", (__doc__ or "").strip(), small=False).parse_args(arguments)
    recorded = Recorded(measurement.SMALL / "atlas.jsonl")
    if not recorded.lines:
        raise InputError(f"{recorded.file} has no cells; run `python -m benchmarks.atlas --small` first")
    write_json(figures_of(recorded.lines.values()), FILE)
    print(f"written to {FILE}")


if __name__ == "__main__":
    measurement.run("benchmarks.atlas.pinned", main)
