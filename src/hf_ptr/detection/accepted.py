"""Accepted findings: those that the owner of a dataset expects."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from hf_ptr.data.expected_findings import ExpectedFinding
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.registry import all_checks
from hf_ptr.errors import DataWarning, nearest

# Start of the action of an accepted finding, before the reason.
ACCEPTED = "accepted: "
# An entry with frames accepts a finding with at least this share of its frames among them: the place of a finding
# moves by some frames when the other episodes change.
SHARE = 0.5


def with_accepted(
    findings: Iterable[Finding], expected: Sequence[ExpectedFinding], episodes: Collection[int]
) -> tuple[Finding, ...]:
    """
    The findings, with the severity `accepted` and the reason as the action where an entry accepts them.

    Gives a warning for an entry that accepts none, if the dataset has one of its episodes.

    Args:
        findings: the findings.
        expected: the entries; the first one that accepts a finding counts.
        episodes: ids of the episodes of the dataset.
    """
    result, used = [], set()
    for found in findings:
        entry = next((number for number, one in enumerate(expected) if _accepts(one, found)), None)
        if entry is not None:
            used.add(entry)
            action = f"{ACCEPTED}{expected[entry].reason}"
            usual = found.accepted_as if found.severity == "accepted" else found.severity
            found = replace(found, severity="accepted", accepted_as=usual, action=action)
        result.append(found)
    known = [check.name for check in all_checks()] if len(used) < len(expected) else []
    for number, one in enumerate(expected):
        if number in used or not (one.episodes is None or any(map(one.has_episode, episodes))):
            continue
        hint = "" if one.check in known else f" (unknown check {one.check!r}.{nearest(one.check, known)})"
        warnings.warn(f"{one.place}: accepts no finding{hint}; remove it", DataWarning, stacklevel=2)
    return tuple(result)


def _accepts(entry: ExpectedFinding, found: Finding) -> bool:
    if entry.check != found.check or not entry.has_episode(found.episode_index):
        return False
    if entry.frames is None:
        return True
    first, end = entry.frames
    common = min(end, found.last_frame + 1) - max(first, found.first_frame)
    return common >= SHARE * (found.last_frame + 1 - found.first_frame)
