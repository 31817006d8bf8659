"""The results file: one JSON line a run, appended when the run ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.robustness.suites import RESULTS, WORK, Key

KEY = ("suite", "corruption", "severity", "arm", "seed")


def results_file(smoke: bool = False) -> Path:
    """The smoke test's results are nobody's figures and stay out of the repository."""
    return WORK / "smoke" / "results.jsonl" if smoke else RESULTS


def append(line: dict[str, Any]) -> None:
    """Adds a run; it replaces an older one of the same cell when read."""
    file = results_file(line["suite"].startswith("smoke"))
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, allow_nan=False) + "\n"
    with file.open("a+b") as opened:
        # After a kill in the middle of a line, the next one begins anew.
        if opened.tell() and _last_byte(file) != b"\n":
            text = "\n" + text
        opened.write(text.encode())
        opened.flush()
        os.fsync(opened.fileno())


def read_lines(smoke: bool = False) -> list[dict[str, Any]]:
    """
    The newest line of every cell, those that are kept or of the smoke test, in the order in which they were made; one
    cut short was no finished run.
    """
    file = results_file(smoke)
    if not file.exists():
        return []
    newest = {}
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            key = tuple(line[name] for name in KEY)
            # A run made anew is the newest of all, not in the place of the one that it replaces.
            newest.pop(key, None)
            newest[key] = line
        except (ValueError, KeyError, TypeError):
            continue
    return list(newest.values())


def corruption_name(line: dict[str, Any]) -> str:
    """The corruption as recipes name it, with its severity."""
    return line["corruption"] if line["severity"] == "paper" else f"{line['corruption']}-{line['severity']}"


def cell_of(line: dict[str, Any]) -> Key:
    """Which run of a plan it is."""
    return line["suite"], corruption_name(line), line["arm"], line["seed"]


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read()
