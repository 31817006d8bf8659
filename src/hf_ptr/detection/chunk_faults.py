"""The faults of chunks: the expected harm of the findings on the frames of a chunk, and the chunks next to a fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.harm import harm_of

# Kinds of checks whose faults lower the score of the whole episode: it compares states and actions.
SCORED_KINDS = ("action", "state")
ACTION_NOISE = "action/noise"
# A fault in more chunks of an episode than this share may well be one of the whole episode that is seen in places.
PLACED = 0.4


def chunk_harm(
    findings: Iterable[Finding],
    table: EpisodeTable,
    *,
    chunk_size: int,
    harm: Mapping[str, float] = MappingProxyType({}),
) -> np.ndarray:
    """
    The expected harm of each chunk: the largest product of probability and harm among the findings on its frames.

    A chunk covers the frames that a policy learns from, its observation `t` and its actions `t .. t + L - 1`. Several
    findings on one chunk often have one cause, so their probabilities are not combined. Episodes that the table does
    not have do not count.

    Args:
        findings: the findings.
        table: F frames.
        chunk_size: `L`, actions of a chunk.
        harm: the user's choice of harm, by name of the check; see [`harm_of`][hf_ptr.detection.harm.harm_of].

    Returns:
        `(F,)` float64 in [0, 1], one for the chunk that starts at each frame; 0 without a harmful finding.
    """
    found = np.zeros(table.num_frames)
    position = {episode: place for place, episode in enumerate(table.episode_index.tolist())}
    for one in findings:
        expected = one.probability * harm_of(one, harm)
        if not expected or one.episode_index not in position:
            continue
        place = position[one.episode_index]
        start, length = int(table.starts[place]), int(table.lengths[place])
        first, last = max(0, one.first_frame - chunk_size + 1), min(length - 1, one.last_frame)
        rows = slice(start + first, start + last + 1)
        found[rows] = np.maximum(found[rows], expected)
    return found


def least_harm(
    findings: Iterable[Finding],
    table: EpisodeTable,
    *,
    chunk_size: int,
    harm: Mapping[str, float] = MappingProxyType({}),
) -> np.ndarray:
    """
    The harm of each chunk, as [`chunk_harm`], with action noise half excused.

    Of all faults, noise alone has the right action as its mean: where most chunks are faulty, its weights are raised
    first.
    """
    excused = [
        replace(found, probability=found.probability / 2.0) if found.check == ACTION_NOISE else found
        for found in findings
    ]
    return chunk_harm(excused, table, chunk_size=chunk_size, harm=harm)


def chunks_next_to_faults(findings: Iterable[Finding], table: EpisodeTable, harm: np.ndarray) -> np.ndarray:
    """
    The harmless chunks of episodes with a fault of state or action in some of their frames.

    The calibrated score judges an episode as a whole. Where a fault has a place, it explains a low score of the
    episode, and the other chunks need not share it; unless most of the episode is harmful, as where actions of another
    episode are noticed wherever they differ enough. An accepted fault explains the score of its own chunks as well.

    Args:
        findings: the findings.
        table: F frames.
        harm: `(F,)`, from [`chunk_harm`].

    Returns:
        `(F,)` bool, one for the chunk that starts at each frame.
    """
    placed = {
        found.episode_index
        for found in findings
        if "fault" in (found.severity, found.accepted_as) and found.check.partition("/")[0] in SCORED_KINDS
    }
    shares = np.add.reduceat(harm > 0, table.starts) / table.lengths
    explained = np.isin(table.episode_index, list(placed)) & (shares <= PLACED)
    return np.repeat(explained, table.lengths) & (harm == 0)
