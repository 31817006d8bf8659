"""Findings: what is wrong with which frames of which episode."""

from __future__ import annotations

from dataclasses import dataclass

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
        severity: `fault` or `note`.
        amount: amount in units of `unit`.
        unit: for example `frames`.
        cause: the likely cause in words.
        action: what to do.
    """

    check: str
    episode_index: int
    first_frame: int
    last_frame: int
    probability: float
    severity: Severity
    amount: float
    unit: str
    cause: str
    action: str
