"""`hf-ptr diff`: what changed between two scorings of a dataset."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hf_ptr.exports.comparison import Comparison
    from hf_ptr.exports.lineage import Scoring

# Rows of each list, and columns where the output is not a terminal.
ROWS, WIDTH = 20, 110


class FailOn(StrEnum):
    """The difference with which the command exits with code 1."""

    NEW_FAULT = "new-fault"
    ANY = "any"
    NEVER = "never"


def diff(
    before: Annotated[Path, typer.Argument(help="Score file or findings file.", metavar="A")],
    after: Annotated[
        Path, typer.Argument(help="The same of the dataset after an edit, or with another version.", metavar="B")
    ],
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit with code 1 after: new-fault, any difference, or never.")
    ] = FailOn.NEVER,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON, and nothing else.")] = False,
) -> None:
    """Compare two scorings of a dataset: findings that are new, gone or changed, and weights of episodes that changed.

    Findings of one check are the same if they share frames of an episode. An amount has changed if one is less than
    0.8 of the other, a place if less than 0.8 of the frames are common, and a mean weight by more than 0.05 of the
    largest. Accepted findings count as such. Of a dataset and its copies from `hf-ptr apply`, or of two copies,
    episodes and frames are those of the latest dataset that both were made of.

    Examples:

        hf-ptr diff before.parquet after.parquet

        hf-ptr diff main.parquet branch.parquet --fail-on new-fault
    """
    import json
    import warnings

    from hf_ptr.errors import DataWarning
    from hf_ptr.exports.comparison import compare_findings
    from hf_ptr.exports.lineage import in_common_source

    first, second, doubt = in_common_source(_read(before), _read(after))
    if doubt:
        warnings.warn(doubt, DataWarning, stacklevel=2)
    both = None if first.rows is None or second.rows is None else (first.rows, second.rows)
    compared = compare_findings(first.findings, second.findings, both)
    if as_json:
        typer.echo(json.dumps(compared.to_dict(), indent=2, allow_nan=False))
    else:
        _print(compared)
    failing = {"new-fault": bool(compared.new_faults), "any": compared.differs, "never": False}
    if failing[fail_on.value]:
        raise typer.Exit(1)


def _read(path: Path) -> Scoring:
    from hf_ptr.data.score_file import read_scores
    from hf_ptr.detection.findings_file import attributes, holds_findings, read_beside, read_findings
    from hf_ptr.errors import InputError
    from hf_ptr.exports.lineage import Scoring

    if path.is_file() and holds_findings(path):
        return Scoring(read_findings(path), None, attributes(path).get("dataset"))
    rows = read_scores(path)
    found = read_beside(path, rows.attrs)
    if found is None:
        raise InputError(f"{path} has no findings to compare; score the data with hf-ptr score")
    return Scoring(found.findings, rows, rows.attrs.get("dataset"))


def _print(compared: Comparison) -> None:
    import sys

    from rich.console import Console

    from hf_ptr.data.episode_ids import episode_ranges
    from hf_ptr.report.diff_table import diff_table, weights_table
    from hf_ptr.utils.listing import counted

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    typer.echo(
        f"Findings: {len(compared.new)} new, {len(compared.gone)} gone, {len(compared.changed)} changed, "
        f"{compared.same} unchanged; {counted(len(compared.new_faults), 'new fault')}; "
        f"{counted(len(compared.weights), 'episode')} with another mean weight"
    )
    for name, ids in zip(("A", "B"), compared.only, strict=True):
        if ids:
            typer.echo(f"Only {name} has episode{'s' if len(ids) > 1 else ''} {episode_ranges(ids)}")
    if compared.new or compared.gone or compared.changed:
        typer.echo()
        console.print(diff_table(compared, ROWS))
    if compared.weights:
        typer.echo()
        console.print(weights_table(compared.weights, ROWS))
