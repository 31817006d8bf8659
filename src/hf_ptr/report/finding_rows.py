"""The tables of findings and notes of the page, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_ptr.detection.findings import Finding, faults_in_order
from hf_ptr.report import verdict
from hf_ptr.report.inputs import ReportInput
from hf_ptr.report.next_steps import training_steps

# Rows of each table; the findings file has all.
MOST_ROWS = 300


def finding_rows(findings: Sequence[Finding], lengths: Mapping[int, int]) -> dict[str, Any]:
    """
    The rows of both tables.

    Args:
        findings: the findings.
        lengths: the number of frames of each episode, by its id.

    Returns:
        `faults` and `notes`, each a list of `(episode, frames, cause, amount, probability, action)`, `MOST_ROWS` at
        most, and `left_out`, the number of rows that are not in them.
    """
    faults = faults_in_order(findings)
    notes = sorted(
        (found for found in findings if found.severity == "note"), key=lambda found: (found.check, found.episode_index)
    )
    return {
        "faults": [_row(found, lengths) for found in faults[:MOST_ROWS]],
        "notes": [_row(found, lengths) for found in notes[:MOST_ROWS]],
        "left_out": max(0, len(faults) - MOST_ROWS) + max(0, len(notes) - MOST_ROWS),
    }


def _row(found: Finding, lengths: Mapping[int, int]) -> tuple[str, ...]:
    return (
        str(found.episode_index),
        verdict.frames_of(found, lengths),
        found.cause,
        verdict.amount_of(found),
        verdict.probability_of(found),
        found.action,
    )


def next_steps(report: ReportInput) -> list[tuple[str, str]]:
    """What to type next, `(purpose, command)`; empty for a run, which has been trained."""
    if report.path is None or report.settings:
        return []
    return training_steps(report.dataset or "DATASET", report.path, report.flagged)
