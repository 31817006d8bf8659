"""The faults of chunks: the probability that the frames of a chunk have a fault, and the chunks beside a fault."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.findings import Finding

# Kinds of checks whose faults lower the score of the whole episode: it compares states and actions.
SCORED_KINDS = ("action", "state")


def chunk_fault_probability(
    findings: Iterable[Finding], table: EpisodeTable, *, chunk_size: int, target_offset: int
) -> np.ndarray:
    """
    The largest probability of a fault among the frames that each chunk covers: its actions, `t .. t + L - 1`, and its
    target, `t + Δ`. Notes and episodes that the table does not have do not count.

    Args:
        findings: the findings.
        table: F frames.
        chunk_size: `L`, actions of a chunk.
        target_offset: `Δ`, frames to the next observation.

    Returns:
        `(F,)` float64, one for the chunk that starts at each frame; 0 without a fault.
    """
    found = np.zeros(table.num_frames)
    position = {episode: place for place, episode in enumerate(table.episode_index.tolist())}
    for one in findings:
        if one.severity != "fault" or one.episode_index not in position:
            continue
        place = position[one.episode_index]
        start, length = int(table.starts[place]), int(table.lengths[place])
        for reach in ((0, chunk_size - 1), (target_offset, target_offset)):
            first, last = max(0, one.first_frame - reach[1]), min(length - 1, one.last_frame - reach[0])
            rows = slice(start + first, start + last + 1)
            found[rows] = np.maximum(found[rows], one.probability)
    return found


def chunks_beside_faults(findings: Iterable[Finding], table: EpisodeTable, probability: np.ndarray) -> np.ndarray:
    """
    The chunks without a fault of episodes with a fault of state or action in some of their frames.

    The calibrated score judges an episode as a whole. Where a fault has a place, it explains a low score of the
    episode, and the other chunks need not share it.

    Args:
        findings: the findings.
        table: F frames.
        probability: `(F,)`, from [`chunk_fault_probability`].

    Returns:
        `(F,)` bool, one for the chunk that starts at each frame.
    """
    placed = {
        found.episode_index
        for found in findings
        if found.severity == "fault" and found.check.partition("/")[0] in SCORED_KINDS
    }
    inside = np.repeat(np.isin(table.episode_index, list(placed)), table.lengths)
    return inside & (probability == 0)
