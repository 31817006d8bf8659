"""What `hf-ptr score` prints: the verdict first, then the findings, the power card, the scores."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hf_ptr.detection.detect import Detection
    from hf_ptr.detection.findings_file import FindingsFiles

# Columns of the table of findings where the output is not a terminal.
WIDTH = 110


def print_findings(
    found: Detection, lengths: Mapping[int, int], beside: FindingsFiles, harm: Mapping[str, float]
) -> None:
    """
    Prints the verdict, the findings and the power card.

    Args:
        found: what was found.
        lengths: the number of frames of each episode, by its id.
        beside: the files of the findings.
        harm: the user's choice of harm, by name of the check.
    """
    from rich.console import Console

    from hf_ptr.report.accepted_words import accepted_line
    from hf_ptr.report.note_words import notes_line, notes_table
    from hf_ptr.report.power_rows import power_card_text, power_summary
    from hf_ptr.report.verdict import findings_table, severities, verdict
    from hf_ptr.training.detected_scores import power_values
    from hf_ptr.utils.listing import counted

    # A file or a pipe has no width; the 80 columns that rich assumes there break the causes.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    accepted = accepted_line(found.findings)
    notes = notes_line(found.findings, len(lengths), harm)
    typer.echo(verdict(found.findings, lengths, harm))
    if notes:
        typer.echo(notes)
    if accepted:
        typer.echo(accepted)
    if found.power is not None:
        typer.echo(power_summary(power_values(found)))
    typer.echo()
    if found.flagged:
        console.print(findings_table(found.findings, lengths))
        typer.echo()
    if any(one.severity == "note" for one in found.findings):
        console.print(notes_table(found.findings, lengths, harm))
        typer.echo()
    if found.power is not None:
        console.print(power_card_text(found.power))
        typer.echo()
    typer.echo(
        f"{beside.findings}: {counted(len(found.findings), 'row')}: {severities(found.findings)}; the same in "
        f"{beside.rows}; self-test: {beside.power}"
    )


def print_summary(
    summary: Mapping[str, Any], resting: Mapping[str, list[int]], bounds: tuple[float, float] | None
) -> None:
    """
    Prints the statistics of a score file.

    Args:
        summary: from `ScoreSummary.to_dict`.
        resting: dimensions that do not enter the score, by the name of their feature.
        bounds: the weights of a chunk with a fault and of a good one; None for the paper's score.
    """
    from hf_ptr.utils.listing import counted

    rest = summary["frames"] - summary["with_target"]
    # The paper gives these chunks its neutral weight.
    instead = "weight 1" if bounds is None else "the mean score of their episode, unless findings change it"
    last = f"; {counted(rest, 'frame')} at the ends of episodes without a later frame to compare: {instead}"
    typer.echo(
        f"{summary['scores']}: a score and a weight for each of {summary['frames']} frames{last if rest else ''}"
    )
    if bounds is not None:
        low, high = bounds
        typer.echo(
            f"scores: 0 for a fault, 1 for no fault, on average {_number(summary['mean_score'])}; weights: "
            f"{low:g} to {high:g}, on average {summary['mean_weight']:.2f}. Training uses the ratios of weights only"
        )
    else:
        typer.echo(f"mean score {_number(summary['mean_score'])}, mean weight {summary['mean_weight']:.2f}")
    if resting:
        which = "; ".join(f"{name} {', '.join(map(str, numbers))}" for name, numbers in resting.items())
        typer.echo(f"dimensions that do not move, and are not scored: {which}")
    for fault in summary["faults"]:
        typer.echo(
            f"planted fault {fault['fault']}: {counted(fault['episodes'], 'episode')}; AUROC of the scores "
            f"{_number(fault['auroc'])} (1: all have lower scores than the others; 0.5: chance)"
        )


def print_next(
    dataset: str | None, out: Path, flagged: Collection[int], lowered: Collection[int], options: Mapping[str, Any]
) -> None:
    """
    Prints what to type next.

    Args:
        dataset: path or repo id of the scored dataset; None where nothing is to be trained with these scores.
        out: the score file.
        flagged: ids of the episodes with faults.
        lowered: ids of further episodes, whose notes lower weights.
        options: options that `hf-ptr init` needs too, as in `training_steps`.
    """
    from hf_ptr.report.next_steps import training_steps

    report = ("see the findings", shlex.join(["hf-ptr", "report", str(out)]))
    training = () if dataset is None else training_steps(dataset, out, sorted(flagged), sorted(lowered), options)
    steps = [report, *training]
    typer.echo("Next:")
    for purpose, command in steps:
        typer.echo(f"  {command}   # {purpose}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
