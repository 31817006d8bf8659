"""Findings: faults and notes of frames of episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hf_ptr.detection.check import Severity


@dataclass(frozen=True)
class Finding:
    """
    One finding.

    Attributes:
        check: name of the check.
        episode_index: id of the episode.
        first_frame, last_frame: the frames, both included; 0 and length - 1 for a whole episode.
        probability: probability that this is a fault and not chance.
        severity: `fault`, `note`, or `accepted` where the owner of the dataset expects it.
        amount: amount in units of `unit`.
        unit: for example `frames`.
        cause: the likely cause in words.
        action: what to do.
        accepted_as: the severity that an accepted finding would have; "" for the others.
    """

    check: str
    episode_index: int
    first_frame: int
    last_frame: int
    probability: float
    severity: Severity | Literal["accepted"]
    amount: float
    unit: str
    cause: str
    action: str
    accepted_as: Severity | Literal[""] = ""


def flagged_episodes(findings: Iterable[Finding]) -> list[int]:
    """Ids of the episodes with a finding of severity `fault`, in rising order."""
    return sorted({found.episode_index for found in findings if found.severity == "fault"})


def faults_in_order(findings: Iterable[Finding]) -> list[Finding]:
    """
    The faults by episode. Of one episode the most probable comes first, of equally probable ones the longest: a lag of
    the whole episode explains the frames in which the commands do not fit.
    """
    faults = [found for found in findings if found.severity == "fault"]
    return sorted(
        faults,
        key=lambda found: (found.episode_index, -round(found.probability, 2), found.first_frame - found.last_frame),
    )
