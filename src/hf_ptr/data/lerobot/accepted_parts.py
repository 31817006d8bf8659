"""Accepted findings of a dataset, for the episodes of a copy made of parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.data.expected_findings import ExpectedFinding
from hf_ptr.data.lerobot.rewriting import Part


def accepted_in_parts(expected: Sequence[ExpectedFinding], parts: Sequence[Part]) -> list[dict[str, Any]]:
    """
    Entries of `meta/hf_ptr_expected.yaml` with the ids and frames of the new dataset.

    Args:
        expected: the entries of the source.
        parts: the new episodes in order.

    Returns:
        The entries, without those of which no episode or frame is left.
    """
    entries: list[dict[str, Any]] = []
    for entry in expected:
        new: dict[tuple[int, int] | None, list[int]] = {}
        for number, part in enumerate(parts):
            if not entry.has_episode(part.episode):
                continue
            frames = entry.frames
            if frames is not None:
                first, end = max(frames[0], part.first) - part.first, min(frames[1], part.stop) - part.first
                if first >= end:
                    continue
                frames = first, end
            new.setdefault(frames, []).append(number)
        for frames, numbers in new.items():
            everywhere = entry.episodes is None and frames is None
            entries.append(
                {
                    "check": entry.check,
                    "episodes": "all" if everywhere else episode_ranges(numbers),
                    **({} if frames is None else {"frames": f"{frames[0]}:{frames[1]}"}),
                    "reason": entry.reason,
                }
            )
    return entries
