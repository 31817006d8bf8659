"""The table of faults of the page, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hf_ptr.data.episode_ids import episode_text
from hf_ptr.detection.findings import Finding, faults_in_order
from hf_ptr.detection.harm import harm_of
from hf_ptr.report import verdict
from hf_ptr.report.accepted_words import accepted_findings
from hf_ptr.report.inputs import ReportInput
from hf_ptr.report.next_steps import training_steps
from hf_ptr.report.note_words import kind_name

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


def reasons_of(findings: Sequence[Finding], harm: Mapping[str, float]) -> dict[int, str]:
    """
    What was found in each episode in words, by its id: faults, notes that lower weights, other notes, and
    accepted findings.

    Args:
        findings: the findings.
        harm: the user's choice of harm, by name of the check.
    """
    kinds: dict[int, dict[str, list[str]]] = {}
    notes = [found for found in findings if found.severity == "note"]
    # The kinds of an episode in the order of their names here.
    for name, chosen in (
        ("fault", faults_in_order(findings)),
        ("lower weights", [found for found in notes if harm_of(found, harm) > 0]),
        ("note", [found for found in notes if not harm_of(found, harm) > 0]),
        ("accepted", accepted_findings(findings)),
    ):
        for found in chosen:
            words = found.cause if name == "fault" else kind_name(found.check)
            kinds.setdefault(found.episode_index, {}).setdefault(name, []).append(words)
    return {
        episode: "; ".join(f"{name}: {', '.join(dict.fromkeys(words))}" for name, words in of_episode.items())
        for episode, of_episode in kinds.items()
    }


def next_steps(report: ReportInput) -> list[tuple[str, str]]:
    """What to type next, `(purpose, command)`: to train with scores without planted faults, to evaluate a run."""
    if report.path is None:
        return []
    held_out = report.recipe.get("eval_episodes")
    if report.settings and report.dataset and held_out:
        words = ["hf-ptr", "evaluate", str(report.path), "--dataset", report.dataset, "--episodes"]
        return [("measure the action error on the held-out episodes", shlex.join([*words, episode_text(held_out)]))]
    if report.settings or report.recipe.get("corruption", "clean") != "clean":
        return []
    dataset = report.dataset or "DATASET"
    return training_steps(dataset, report.path, report.flagged, report.lowered, report.recipe)
