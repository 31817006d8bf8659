"""The cells of the atlas and the file that they are recorded in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.atlas.kinds import CONTROLS, FAULTS
from benchmarks.atlas.planted import PART, RARE, SHARE, UNTOUCHED, WHOLE
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import write_text

FIELDS = ("dataset", "fault", "part", "seed", "tool", "carriers")


@dataclass(frozen=True)
class Cell:
    """A planted set that tools judge: fault, `whole` or `part`, seed, number of carriers."""

    fault: str
    part: str
    seed: int
    carriers: int

    @property
    def rare(self) -> bool:
        """Whether two episodes carry the fault."""
        return 0 < self.carriers <= RARE


def cells_of(faults: Sequence[str], seeds: Sequence[int], episodes: int, *, rare: bool) -> list[Cell]:
    """
    The planted sets of a dataset: each control, each fault whole, in a part where it can be, and rare if wanted.

    The untouched set comes first. It is the same for all seeds, so it is judged once.
    """
    usual = max(RARE, round(SHARE * episodes))
    chosen = [fault for fault in faults if fault in FAULTS]
    cells = [Cell(UNTOUCHED, WHOLE, seeds[0], 0)] if UNTOUCHED in faults else []
    for seed in seeds:
        cells += [Cell(fault, WHOLE, seed, usual) for fault in faults if fault in CONTROLS]
        cells += [Cell(fault, WHOLE, seed, usual) for fault in chosen]
        cells += [Cell(fault, PART, seed, usual) for fault in chosen if FAULTS[fault].partial]
        if rare and usual > RARE:
            cells += [Cell(fault, WHOLE, seed, RARE) for fault in chosen if not FAULTS[fault].block]
    return cells


class Recorded:
    """
    The recorded cells of a results file, one JSON object a line; the last line of a cell counts.

    Args:
        file: the results file; may be missing.
        fresh: remove it first.

    Raises:
        InputError: the file is not JSON lines.
    """

    def __init__(self, file: Path, fresh: bool = False) -> None:
        self.file = file
        self.lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        if fresh:
            file.unlink(missing_ok=True)
        if file.exists():
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    self._keep(json.loads(line))
                except (ValueError, KeyError) as error:
                    raise InputError(f"{file}, line {number}: not a recorded cell; remove the line") from error

    def version(self, dataset: str, cell: Cell, tool: str) -> str | None:
        """The version of the tool in the recorded line of a cell; None if there is no line."""
        line = self.lines.get((dataset, cell.fault, cell.part, cell.seed, tool, cell.carriers))
        return None if line is None else line["version"]

    def add(self, line: dict[str, Any]) -> None:
        """Record a cell."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._keep(line)

    def compact(self) -> None:
        """Remove the lines that later ones replace."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines.values())
        if self.file.exists() and text != self.file.read_text(encoding="utf-8"):
            write_text(text, self.file)

    def _keep(self, line: dict[str, Any]) -> None:
        self.lines[tuple(line[name] for name in FIELDS)] = line
