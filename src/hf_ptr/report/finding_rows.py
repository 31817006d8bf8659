"""The table of faults of the page, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_ptr.detection.findings import Finding, faults_in_order
from hf_ptr.report import verdict
from hf_ptr.report.inputs import ReportInput
from hf_ptr.report.next_steps import training_steps

# Rows of the table; the findings file has all.
MOST_ROWS = 300


def finding_rows(findings: Sequence[Finding], lengths: Mapping[int, int]) -> dict[str, Any]:
    """
    The rows of the table of faults.

    Args:
        findings: the findings.
        lengths: the number of frames of each episode, by its id.

    Returns:
        `faults`, a list of rows as in [`finding_row`], `MOST_ROWS` at most, and `left_out`, the number of the others.
    """
    faults = faults_in_order(findings)
    return {
        "faults": [finding_row(found, lengths) for found in faults[:MOST_ROWS]],
        "left_out": max(0, len(faults) - MOST_ROWS),
    }


def finding_row(found: Finding, lengths: Mapping[int, int]) -> tuple[str, ...]:
    """A finding as `(episode, frames, cause, amount, probability, action)`."""
    return (
        str(found.episode_index),
        verdict.frames_of(found, lengths),
        found.cause,
        verdict.amount_of(found),
        verdict.probability_of(found),
        found.action,
    )


def next_steps(report: ReportInput) -> list[tuple[str, str]]:
    """What to type next, `(purpose, command)`; empty for a run, which has been trained, and after planted faults."""
    if report.path is None or report.settings or report.recipe.get("corruption", "clean") != "clean":
        return []
    return training_steps(report.dataset or "DATASET", report.path, report.flagged, report.recipe)
