"""Cells and tables of the pages in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.robustness.statistics import Estimate


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """A table of the rows, the first of which is its head."""
    head, *body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def points(estimate: Estimate) -> str:
    """A difference of success rates in points with its interval; empty without a value."""
    return "" if estimate.value is None else f"{100 * estimate.value:+.1f} {bounds(estimate, '%+.1f')}"


def bounds(estimate: Estimate, form: str) -> str:
    """The interval of an estimate, 100 times its ends; empty without one."""
    return "" if estimate.interval is None else "[{}, {}]".format(*(form % (100 * end) for end in estimate.interval))
