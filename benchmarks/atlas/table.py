"""
Print the tables of the atlas: what each tool finds on each dataset, and where another tool is better than ours.

    python -m benchmarks.atlas.table [--out FILE] [--set NAME] [--seed N ...] [--all]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measurement
from benchmarks.atlas.camera_faults import CAMERA_CONTROLS
from benchmarks.atlas.cells import Recorded
from benchmarks.atlas.kinds import CONTROLS
from benchmarks.atlas.ours import OURS, OWN
from benchmarks.atlas.planted import PART, RARE, UNTOUCHED, WHOLE
from benchmarks.pages import markdown_table
from hf_ptr.errors import InputError

HARMLESS = (*CONTROLS, *CAMERA_CONTROLS)
# A kind counts as found from this recall on, whole and in a part, if at most this share of the sound is flagged.
FOUND = {WHOLE: 0.9, PART: 0.7}
FALSE = 0.05
# Largest difference of promised power and recall that is accepted.
NEAR = 0.15
Line = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A tool's figures on one fault, over all seeds: carriers, found carriers, sound episodes, false alarms."""

    carriers: int
    found: float
    sound: int
    false: float

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Kind | None:
        """None where no line has a recall."""
        lines = [line for line in lines if line["recall"] is not None]
        if not lines:
            return None
        carriers = [line["carriers"] for line in lines]
        sound = [line["episodes"] - line["carriers"] for line in lines]
        return cls(
            sum(carriers),
            sum(line["recall"] * count for line, count in zip(lines, carriers, strict=True)),
            sum(sound),
            sum(line["false_alarms"] * count for line, count in zip(lines, sound, strict=True)),
        )

    @property
    def recall(self) -> float:
        """Share of the carriers that is found."""
        return self.found / self.carriers

    @property
    def variance(self) -> float:
        """Variance of the recall, from the carriers with two found and two missed ones added (Agresti and Coull)."""
        share = (self.found + 2) / (self.carriers + 4)
        return share * (1 - share) / (self.carriers + 4)

    def counts(self, part: str) -> bool:
        """Whether the kind is found at an accepted share of false alarms."""
        return self.recall >= FOUND[part] and self.false <= FALSE * self.sound


def mean_recall(kinds: Sequence[Kind]) -> str:
    """Mean recall over kinds with its 95 % interval."""
    if not kinds:
        return "–"
    mean = float(np.mean([kind.recall for kind in kinds]))
    half = 1.96 * float(np.sqrt(sum(kind.variance for kind in kinds))) / len(kinds)
    return f"{mean:.2f} [{max(0.0, mean - half):.2f}, {min(1.0, mean + half):.2f}]"


def number(values: Iterable[float | None], form: str = ".2f") -> str:
    """Mean of the defined values."""
    known = [value for value in values if value is not None]
    return format(float(np.mean(known)), form) if known else "–"


def rare(line: Line) -> bool:
    """Whether the planted fault is a rare one."""
    return line["carriers"] <= RARE and line["fault"] != UNTOUCHED


def kinds_of(lines: Sequence[Line], tool: str, part: str, chosen: Callable[[Line], bool]) -> dict[str, Kind]:
    """A tool's figures by fault."""
    mine = [line for line in lines if line["tool"] == tool and line["part"] == part and chosen(line)]
    found = {}
    for fault in dict.fromkeys(line["fault"] for line in mine):
        kind = Kind.of(line for line in mine if line["fault"] == fault)
        if kind is not None:
            found[fault] = kind
    return found


def usual(line: Line) -> bool:
    """Whether a fifth of the episodes carry the fault."""
    return not rare(line)


def summary_table(lines: Sequence[Line], tools: Sequence[str]) -> str:
    """One row a tool."""
    rows = []
    for tool in tools:
        whole, part, few = (
            kinds_of(lines, tool, place, chosen) for place, chosen in ((WHOLE, usual), (PART, usual), (WHOLE, rare))
        )
        mine = [line for line in lines if line["tool"] == tool]
        faults = [line for line in mine if line["fault"] not in (UNTOUCHED, *HARMLESS)]
        rows.append(
            [
                tool,
                number((line["false_alarms"] for line in mine if line["fault"] == UNTOUCHED), ".1%"),
                number((line["false_alarms"] for line in mine if line["fault"] in HARMLESS), ".1%"),
                number((line["false_alarms"] for line in faults), ".1%"),
                f"{sum(kind.counts(WHOLE) for kind in whole.values())}/{len(whole)}",
                mean_recall(list(whole.values())),
                f"{sum(kind.counts(PART) for kind in part.values())}/{len(part)}",
                mean_recall(list(part.values())),
                f"{sum(kind.counts(WHOLE) for kind in few.values())}/{len(few)}",
                number(line["auroc"] for line in faults),
                number(line["auroc_length_matched"] for line in faults),
                number(line["auroc_frames"] for line in faults),
                number(line["iou"] for line in faults),
                number((line["seconds"] for line in mine), ".1f"),
            ]
        )
    header = ["tool", "untouched flagged", "controls flagged", "false with faults", "kinds, whole", "recall, whole"]
    header += ["kinds, part", "recall, part", "kinds, two carriers", "AUROC", "length-matched", "frames", "IoU", "s"]
    return markdown_table([header, *rows])


def kind_table(lines: Sequence[Line], tools: Sequence[str]) -> str:
    """One row a fault: our figures, and the best other tool at an accepted share of false alarms."""
    rows = []
    for part in (WHOLE, PART):
        by_tool = {tool: kinds_of(lines, tool, part, usual) for tool in tools}
        for fault, ours in by_tool.get(OURS, {}).items():
            own = [
                line
                for line in lines
                if line["tool"] == OURS and line["fault"] == fault and line["part"] == part and usual(line)
            ]
            others = {
                tool: kinds[fault].recall
                for tool, kinds in by_tool.items()
                if tool not in OWN and fault in kinds and kinds[fault].false <= FALSE * kinds[fault].sound
            }
            best = max(others, key=lambda tool: others[tool], default=None)
            better = best is not None and others[best] > ours.recall
            rows.append(
                [
                    f"{fault}, {part}",
                    f"{ours.recall:.2f}" + (" ✓" if ours.counts(part) else ""),
                    f"{ours.false / ours.sound:.1%}",
                    number(line["auroc"] for line in own),
                    number(line["auroc_length_matched"] for line in own),
                    number(line["auroc_frames"] for line in own),
                    number(line["iou"] for line in own),
                    number(line["power_promised"] for line in own),
                    "–" if best is None else f"{others[best]:.2f} {best}" + (" **(better)**" if better else ""),
                ]
            )
    header = ["fault", "recall", "false", "AUROC", "length-matched", "frames", "IoU", "promised", "best other"]
    return markdown_table([header, *rows])


def promise_line(lines: Sequence[Line]) -> str:
    """How far the promised power is from the recall, over the kinds that were promised."""
    gaps = []
    for part in (WHOLE, PART):
        for fault, kind in kinds_of(lines, OURS, part, usual).items():
            promised = [
                line["power_promised"]
                for line in lines
                if (line["tool"], line["fault"], line["part"]) == (OURS, fault, part) and usual(line)
            ]
            known = [value for value in promised if value is not None]
            gaps += [abs(float(np.mean(known)) - kind.recall)] if known else []
    if not gaps:
        return "No power was promised."
    near = sum(gap <= NEAR for gap in gaps)
    return f"Promised power within {NEAR} of the recall: {near} of {len(gaps)} kinds; mean error {np.mean(gaps):.2f}."


def control_table(lines: Sequence[Line], tools: Sequence[str]) -> str:
    """One row a control, one column a tool: share of its carriers that is flagged."""
    rows = []
    for control in [name for name in HARMLESS if any(line["fault"] == name for line in lines)]:
        mine = [line for line in lines if line["fault"] == control]
        cells = [number((line["false_alarms"] for line in mine if line["tool"] == tool), ".0%") for tool in tools]
        rows.append([control, *cells])
    return markdown_table([["control", *tools], *rows])


def peer_table(lines: Sequence[Line], tools: Sequence[str]) -> str:
    """One row a fault, one column a tool: recall, marked where more than the accepted share is falsely flagged."""
    columns = {(tool, part): kinds_of(lines, tool, part, usual) for tool in tools for part in (WHOLE, PART)}
    rows = []
    for part in (WHOLE, PART):
        for fault in dict.fromkeys(fault for tool in tools for fault in columns[tool, part]):
            kinds = [columns[tool, part].get(fault) for tool in tools]
            cells = [
                "–" if kind is None else f"{kind.recall:.2f}" + ("!" if kind.false > FALSE * kind.sound else "")
                for kind in kinds
            ]
            rows.append([f"{fault}, {part}", *cells])
    return markdown_table([["fault (! = more than 5 % false)", *tools], *rows])


def tables(lines: Sequence[Line], each_tool: bool) -> str:
    """All tables of all datasets."""
    parts = []
    for dataset in dict.fromkeys(line["dataset"] for line in lines):
        mine = [line for line in lines if line["dataset"] == dataset]
        tools = list(dict.fromkeys(line["tool"] for line in mine))
        tools.sort(key=lambda tool: tool != OURS)
        episodes = max(line["episodes"] for line in mine)
        seeds = len({line["seed"] for line in mine})
        parts += [
            f"## {dataset}: {episodes} episodes, {seeds} seed{'s' if seeds > 1 else ''}",
            summary_table(mine, tools),
            kind_table(mine, tools),
            promise_line(mine),
            control_table(mine, tools),
        ]
        parts += [peer_table(mine, tools)] if each_tool else []
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = measurement.command_parser("atlas.table", (__doc__ or "").strip(), small=False)
    parser.add_argument("--out", type=Path, default=measurement.RESULTS / "atlas.jsonl", help="results file")
    parser.add_argument("--set", help="comma-separated datasets; default all")
    parser.add_argument("--seed", type=int, action="append", help="a seed; repeat for several; default all")
    parser.add_argument("--all", action="store_true", help="also the recall of every tool on every fault")
    options = parser.parse_args(arguments)
    wanted = None if options.set is None else options.set.split(",")
    lines = [
        line
        for line in Recorded(options.out).lines.values()
        if (wanted is None or line["dataset"] in wanted)
        # The untouched set is the same for all seeds.
        and (options.seed is None or line["seed"] in options.seed or line["fault"] == UNTOUCHED)
    ]
    if not lines:
        raise InputError(
            f"{options.out} has no cell of these datasets and seeds; run `python -m benchmarks.atlas` first"
        )
    print(tables(lines, options.all))


if __name__ == "__main__":
    measurement.run("benchmarks.atlas.table", main)
