"""Findings of a dataset for the terminal and the report: the verdict in a sentence, and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from rich.markup import escape
from rich.table import Table

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.detection.findings import Finding, faults_in_order, flagged_episodes
from hf_ptr.report.note_words import lowered_words, plain_table
from hf_ptr.utils.listing import counted

# Episodes that the verdict names with their fault, and rows of the table in the terminal.
NAMED, ROWS = 3, 20
NOTHING = "hf-ptr found no fault of the kinds that it can find"


def verdict(
    findings: Sequence[Finding], lengths: Mapping[int, int], harm: Mapping[str, float] = MappingProxyType({})
) -> str:
    """
    The verdict in a sentence: the episodes with faults, each with its main one, then those with lower weights only.

    Args:
        findings: the findings.
        lengths: the number of frames of each episode, by its id.
        harm: the user's choice of harm, by name of the check.
    """
    flagged = flagged_episodes(findings)
    of = f"of {counted(len(lengths), 'episode')}"
    words = lowered_words(findings, len(lengths), harm)
    lowered = f"; {words}" if words else ""
    if not flagged:
        return f"{NOTHING}: 0 {of} flagged{lowered}."
    main = [main_fault(findings, episode) for episode in flagged]
    main.sort(key=lambda found: -round(found.probability, 2))
    named = "; ".join(f"ep {found.episode_index}{_place(found, lengths)} {found.cause}" for found in main[:NAMED])
    more = sorted(found.episode_index for found in main[NAMED:])
    rest = f"; also ep {episode_ranges(more)}" if more else ""
    return f"{len(flagged)} {of} {'has a fault' if len(flagged) == 1 else 'have faults'}: {named}{rest}{lowered}."


def severities(findings: Iterable[Finding]) -> str:
    """The number of findings of each severity, for example `1 fault, 36 notes, 2 accepted`."""
    number = Counter(found.severity for found in findings)
    accepted = [f"{number['accepted']} accepted"] if number["accepted"] else []
    return ", ".join([counted(number["fault"], "fault"), counted(number["note"], "note"), *accepted])


def main_fault(findings: Sequence[Finding], episode: int) -> Finding:
    """The main fault of an episode that has one, the first of `faults_in_order`."""
    return next(found for found in faults_in_order(findings) if found.episode_index == episode)


def by_check(findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """The faults in order, one for each check of an episode, with the number of its further places."""
    places = Counter((found.episode_index, found.check) for found in findings if found.severity == "fault")
    found = []
    for one in faults_in_order(findings):
        further = places.pop((one.episode_index, one.check), 0) - 1
        if further >= 0:
            found.append((one, further))
    return found


def frames_of(found: Finding, lengths: Mapping[int, int]) -> str:
    """The frames of a finding in words."""
    if found.first_frame == 0 and found.last_frame == lengths.get(found.episode_index, 0) - 1:
        return "all"
    if found.first_frame == found.last_frame:
        return str(found.first_frame)
    return f"{found.first_frame}-{found.last_frame}"


def _place(found: Finding, lengths: Mapping[int, int]) -> str:
    frames = frames_of(found, lengths)
    return "" if frames == "all" else f" frame{'s' if '-' in frames else ''} {frames}"


def amount_of(found: Finding) -> str:
    """The amount of a finding with its unit."""
    return f"{found.amount:.3g} {found.unit}"


def probability_of(found: Finding) -> str:
    """The probability of a finding; not 1, which it rounds to."""
    return "> 0.99" if found.probability > 0.99 else f"{found.probability:.2f}"


def findings_table(findings: Sequence[Finding], lengths: Mapping[int, int]) -> Table:
    """
    The faults for the terminal, `ROWS` at most: one for each check of an episode, with the number of further places.

    Args:
        findings: the findings; notes are left out.
        lengths: the number of frames of each episode, by its id.
    """
    faults = by_check(findings)
    count = sum(further + 1 for _, further in faults)
    more = f", the first {ROWS}" if len(faults) > ROWS else ""
    title = f"{counted(count, 'fault')}{more}"
    shown = plain_table(title)
    for name in ("episode", "frames", "probability"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("amount", no_wrap=True)
    shown.add_column("cause, and what to do")
    for found, further in faults[:ROWS]:
        shown.add_row(
            str(found.episode_index),
            frames_of(found, lengths) + (f" (+{further})" if further else ""),
            probability_of(found),
            escape(amount_of(found)),
            f"{escape(found.cause)}\n[dim]{escape(found.action)}[/dim]",
        )
    return shown
