"""Finds faults in a dataset: the one call that users make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.check import Check
from hf_ptr.detection.detector import Detector, Hit
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.signals import Signals


@dataclass(frozen=True)
class Detection:
    """
    What was found in a dataset of E episodes.

    Attributes:
        findings: by episode in the order of the table, faults first, then by probability.
        unavailable: by the name of a check that this dataset has no data for, why.
        episode_probability: `(E,)`, probability that an episode has a fault; for rankings also below the threshold.
        frame_evidence: for each episode `(T,)`, evidence of a fault in each frame, at least 0; for rankings.
    """

    findings: tuple[Finding, ...]
    unavailable: Mapping[str, str]
    episode_probability: np.ndarray
    frame_evidence: tuple[np.ndarray, ...]

    @property
    def flagged(self) -> list[int]:
        """Ids of the episodes with a fault, in the order of the table."""
        return list(dict.fromkeys(found.episode_index for found in self.findings if found.severity == "fault"))


def detect(
    table: EpisodeTable,
    *,
    state_feature: str = "observation.state",
    action_feature: str = "action",
    checks: Sequence[type[Check]] | None = None,
) -> Detection:
    """
    Finds faults in a dataset, without labels and without a policy.

    Args:
        table: the episodes.
        state_feature, action_feature: names of vector features, several joined by commas.
        checks: the checks to use; by default all of [`all_checks`][hf_ptr.detection.registry.all_checks].

    Raises:
        InputError: a feature is missing or not finite, or the table has one episode only.
    """
    signals = Signals.of_table(table, state_feature, action_feature)
    detector = Detector(signals, all_checks() if checks is None else checks)
    findings: list[Finding] = []
    least, evidence = [], []
    for view, measured in zip(detector.views, detector.measured, strict=True):
        hits = detector.hits(view, measured)
        episode = signals.episode_index[view.episode.position]
        findings += _findings(hits, episode)
        least.append(detector.least_p(view, measured))
        evidence.append(detector.frame_evidence(view, measured))
    unavailable = {name: reason for name, reason in detector.unavailable.items() if reason is not None}
    return Detection(tuple(findings), unavailable, 1 - np.array(least), tuple(evidence))


def _findings(hits: Sequence[Hit], episode: int) -> list[Finding]:
    """One finding for each check that has any hit: the most improbable one, with the frames of all that touch it."""
    best: dict[str, Hit] = {}
    for hit in hits:
        name = hit.check.name
        if name not in best or hit.p < best[name].p:
            best[name] = hit
    found = [
        Finding(
            check=name,
            episode_index=episode,
            first_frame=hit.found.first,
            last_frame=hit.found.stop - 1,
            probability=1 - hit.p,
            severity=hit.check.severity,
            amount=hit.found.amount,
            unit=hit.check.unit,
            cause=hit.check.cause(hit.found),
            action=hit.check.action,
        )
        for name, hit in best.items()
    ]
    return sorted(found, key=lambda one: (one.severity != "fault", -one.probability))
