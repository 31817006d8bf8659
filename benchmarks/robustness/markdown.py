"""Cells of the pages in Markdown."""

from __future__ import annotations

from benchmarks.robustness.statistics import Estimate


def points(estimate: Estimate) -> str:
    """A difference of success rates in points with its interval; empty without a value."""
    return "" if estimate.value is None else f"{100 * estimate.value:+.1f} {bounds(estimate, '%+.1f')}"


def bounds(estimate: Estimate, form: str) -> str:
    """The interval of an estimate, 100 times its ends; empty without one."""
    return "" if estimate.interval is None else "[{}, {}]".format(*(form % (100 * end) for end in estimate.interval))
