"""The results file: one JSON line a run, appended when the run ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.robustness.suites import RESULTS, WORK

KEY = ("suite", "corruption", "severity", "arm", "seed")


def results_file(suite: str) -> Path:
    """The smoke test's results are nobody's figures and stay out of the repository."""
    return WORK / suite / "results.jsonl" if suite == "smoke" else RESULTS


def append(line: dict[str, Any]) -> None:
    """Adds a run; it replaces an older one of the same cell when read."""
    file = results_file(line["suite"])
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(line) + "\n")


def read_lines(suite: str | None = None) -> list[dict[str, Any]]:
    """The newest line of every cell, of one suite or of all that are kept."""
    file = results_file(suite or "")
    if not file.exists():
        return []
    lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines() if text]
    newest = {tuple(line[name] for name in KEY): line for line in lines}
    return [line for line in newest.values() if suite in (None, line["suite"])]


def corruption_name(line: dict[str, Any]) -> str:
    """The corruption as recipes name it, with its severity."""
    return line["corruption"] if line["severity"] == "paper" else f"{line['corruption']}-{line['severity']}"
