"""Present findings as entries of `meta/hf_ptr_expected.yaml`: a baseline, after which only new ones are reported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.detection.accepted import ACCEPTED
from hf_ptr.detection.findings import Finding


def accepted_entries(findings: Iterable[Finding], reason: str) -> list[dict[str, Any]]:
    """
    Entries that accept the given findings.

    Findings that begin with the episode, as those of whole episodes do, make one entry for all episodes of a check;
    each other one has its own, with its frames.

    Args:
        findings: faults and notes, and accepted ones, which keep their reason.
        reason: why they are accepted.
    """
    whole: dict[tuple[str, str], list[int]] = {}
    placed = []
    for found in sorted(findings, key=lambda one: (one.check, one.episode_index, one.first_frame)):
        why = found.action.removeprefix(ACCEPTED) if found.severity == "accepted" else reason
        if found.first_frame == 0:
            whole.setdefault((found.check, why), []).append(found.episode_index)
            continue
        placed.append(
            {
                "check": found.check,
                "episodes": str(found.episode_index),
                "frames": f"{found.first_frame}:{found.last_frame + 1}",
                "reason": why,
            }
        )
    entries = [{"check": check, "episodes": episode_ranges(ids), "reason": why} for (check, why), ids in whole.items()]
    return sorted([*entries, *placed], key=lambda entry: entry["check"])
