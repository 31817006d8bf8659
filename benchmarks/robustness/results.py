"""The results file: one JSON line per run, appended when the run ends."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.robustness.suites import RESULTS, ROOT, WORK, Key

KEY = ("suite", "corruption", "severity", "arm", "seed")


def results_file(smoke: bool = False) -> Path:
    """The results file; that of the smoke test lies outside the repository."""
    return WORK / "smoke" / "results.jsonl" if smoke else RESULTS


def append(line: dict[str, Any]) -> None:
    """Appends a run. When read, it replaces an older run of the same cell."""
    file = results_file(line["suite"].startswith("smoke"))
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, allow_nan=False) + "\n"
    with file.open("a+b") as opened:
        # A process killed in the middle of a line leaves it without an end.
        if opened.tell() and _last_byte(file) != b"\n":
            text = "\n" + text
        opened.write(text.encode())
        opened.flush()
        os.fsync(opened.fileno())


def read_lines(smoke: bool = False) -> list[dict[str, Any]]:
    """
    The newest line of every cell, in the order in which they were appended. Incomplete lines are skipped.

    Args:
        smoke: read the results of the smoke test.
    """
    file = results_file(smoke)
    if not file.exists():
        return []
    newest = {}
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            key = tuple(line[name] for name in KEY)
            # A repeated run moves to the end; it does not take the position of the one it replaces.
            newest.pop(key, None)
            newest[key] = line
        except (ValueError, KeyError, TypeError):
            continue
    return list(newest.values())


def corruption_name(line: dict[str, Any]) -> str:
    """The name of the corruption in recipes, which includes the severity."""
    return line["corruption"] if line["severity"] == "paper" else f"{line['corruption']}-{line['severity']}"


def cell_of(line: dict[str, Any]) -> Key:
    """The cell of a plan that a line belongs to."""
    return line["suite"], corruption_name(line), line["arm"], line["seed"]


def checkout() -> str:
    """The commit of the checkout, with `-dirty` if there are uncommitted changes."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read()
