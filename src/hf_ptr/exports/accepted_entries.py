"""Present findings as entries of `meta/hf_ptr_expected.yaml`: a baseline, after which only new ones are reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.detection.accepted import ACCEPTED
from hf_ptr.detection.findings import Finding


def accepted_entries(findings: Iterable[Finding], reason: str, lengths: Mapping[int, int]) -> list[dict[str, Any]]:
    """
    Entries that accept the given findings.

    Findings of one check in the same frames share an entry. An entry without frames, which accepts later findings
    anywhere in the episode, is for findings of whole episodes only.

    Args:
        findings: faults and notes, and accepted ones, which keep their reason.
        reason: why they are accepted.
        lengths: frames of each episode by its id; a finding of an episode that is missing here keeps its frames.
    """
    episodes: dict[tuple[str, str, str], list[int]] = {}
    for found in sorted(findings, key=lambda one: (one.check, one.episode_index, one.first_frame)):
        why = found.action.removeprefix(ACCEPTED) if found.severity == "accepted" else reason
        whole = found.first_frame == 0 and found.last_frame + 1 >= lengths.get(
            found.episode_index, found.last_frame + 2
        )
        frames = "" if whole else f"{found.first_frame}:{found.last_frame + 1}"
        episodes.setdefault((found.check, why, frames), []).append(found.episode_index)
    return [
        {
            "check": check,
            "episodes": episode_ranges(ids),
            **({"frames": frames} if frames else {}),
            "reason": why,
        }
        for (check, why, frames), ids in episodes.items()
    ]
