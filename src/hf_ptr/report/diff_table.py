"""Tables of the differences of two scorings, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from hf_ptr.detection.findings import Finding
from hf_ptr.exports.comparison import Comparison
from hf_ptr.report.note_words import plain_table
from hf_ptr.report.verdict import amount_of


def diff_table(compared: Comparison, most: int) -> Table:
    """
    The findings that differ, faults first.

    Args:
        compared: the comparison.
        most: the most rows.
    """
    rows = [("new", found, "") for found in compared.new] + [("gone", found, "") for found in compared.gone]
    rows += [("changed", one.after, _was(one.before, one.what)) for one in compared.changed]
    rows.sort(key=lambda row: (row[1].severity != "fault", row[1].episode_index, row[1].first_frame))
    shown = plain_table(f"Findings that differ{f', the first {most}' if len(rows) > most else ''}")
    for name in ("", "severity"):
        shown.add_column(name, no_wrap=True)
    for name in ("episode", "frames"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("amount", no_wrap=True)
    shown.add_column("cause")
    for kind, found, was in rows[:most]:
        cause = f"{escape(found.cause)}\n[dim]{escape(was)}[/dim]" if was else escape(found.cause)
        frames = f"{found.first_frame}-{found.last_frame}"
        shown.add_row(kind, found.severity, str(found.episode_index), frames, escape(amount_of(found)), cause)
    return shown


def weights_table(weights: Mapping[int, tuple[float, float]], most: int) -> Table:
    """
    The episodes whose mean weight differs, the largest change first.

    Args:
        weights: by id of the episode, the mean weight before and after, as a share of the largest.
        most: the most rows.
    """
    rows = sorted(weights.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    more = f", the first {most}" if len(rows) > most else ""
    shown = plain_table(f"Mean weight as a share of the largest{more}")
    for name in ("episode", "A", "B"):
        shown.add_column(name, justify="right")
    for episode, (before, after) in rows[:most]:
        shown.add_row(str(episode), f"{before:.2f}", f"{after:.2f}")
    return shown


def _was(before: Finding, what: tuple[str, ...]) -> str:
    values = {
        "severity": before.severity,
        "amount": amount_of(before),
        "place": f"frames {before.first_frame}-{before.last_frame}",
    }
    return f"before: {', '.join(values[name] for name in what)}"
