"""What `hf-ptr score` prints: the verdict first, then the findings, the power card, the scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hf_ptr.detection.detect import Detection
    from hf_ptr.detection.findings_file import FindingsFiles

# Columns of the table of findings where the output is not a terminal.
WIDTH = 110


def print_findings(found: Detection, lengths: Mapping[int, int], beside: FindingsFiles) -> None:
    """
    Prints the verdict, the findings and the power card.

    Args:
        found: what was found.
        lengths: the number of frames of each episode, by its id.
        beside: the files of the findings.
    """
    from rich.console import Console

    from hf_ptr.report.power_rows import power_card_text, power_summary
    from hf_ptr.report.verdict import findings_table, notes_line, verdict

    # A file or a pipe has no width; the 80 columns that rich assumes there break the causes.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    typer.echo(verdict(found.findings, lengths))
    if found.power is not None:
        typer.echo(power_summary(found.power.as_json()))
    if found.flagged:
        console.print(findings_table(found.findings, lengths))
    notes = notes_line(found.findings)
    if notes:
        typer.echo(notes)
    if found.power is not None:
        console.print(power_card_text(found.power))
    typer.echo(f"{beside.findings}: {len(found.findings)} findings; the same in {beside.rows}; {beside.power}")


def print_summary(summary: Mapping[str, Any], resting: Mapping[str, list[int]]) -> None:
    """
    Prints the statistics of a score file.

    Args:
        summary: from `ScoreSummary.to_dict`.
        resting: dimensions that do not enter the score, by the name of their feature.
    """
    typer.echo(
        f"{summary['scores']}: {summary['frames']} frames, {summary['with_target']} with a target; mean score "
        f"{_number(summary['mean_score'])}, mean weight {summary['mean_weight']:.2f}"
    )
    if resting:
        which = "; ".join(f"{name} {', '.join(map(str, numbers))}" for name, numbers in resting.items())
        typer.echo(f"dimensions at rest, which do not enter the score: {which}")
    for fault in summary["faults"]:
        typer.echo(f"known fault {fault['fault']}: {fault['episodes']} episodes, AUROC {_number(fault['auroc'])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
