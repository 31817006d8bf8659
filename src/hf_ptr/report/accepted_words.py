"""Accepted findings in words, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hf_ptr.detection.accepted import ACCEPTED
from hf_ptr.detection.findings import Finding
from hf_ptr.report.note_words import MOST_IDS, kind_name
from hf_ptr.utils.listing import listed


def accepted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The accepted findings, by episode and frame."""
    chosen = [found for found in findings if found.severity == "accepted"]
    return sorted(chosen, key=lambda found: (found.episode_index, found.first_frame))


def accepted_line(findings: Sequence[Finding]) -> str:
    """
    The accepted findings in a sentence: each kind with its episodes and reasons; "" without any.

    Args:
        findings: the findings; faults and notes are left out.
    """
    of_check: dict[str, list[Finding]] = {}
    for found in accepted_findings(findings):
        of_check.setdefault(found.check, []).append(found)
    if not of_check:
        return ""
    named = []
    for check, accepted in of_check.items():
        ids = list(dict.fromkeys(found.episode_index for found in accepted))
        reasons = "; ".join(dict.fromkeys(found.action.removeprefix(ACCEPTED) for found in accepted))
        episodes = f"episode{'s' if len(ids) > 1 else ''} {listed(ids, MOST_IDS)}"
        named.append(f"{kind_name(check)} in {episodes} ({reasons})")
    return f"Accepted by the owner of the dataset: {'; '.join(named)}."
