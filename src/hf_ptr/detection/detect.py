"""Finds faults in a dataset: the one call that users make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_ptr.data.episode_groups import episode_groups
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.cameras import read_tracks
from hf_ptr.detection.check import Check, View
from hf_ptr.detection.detector import Detector, Hit
from hf_ptr.detection.findings import Finding, flagged_episodes
from hf_ptr.detection.place import places
from hf_ptr.detection.power import PowerCard, power_card
from hf_ptr.detection.probability import probabilities
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import SHORT


@dataclass(frozen=True)
class Detection:
    """
    What was found in a dataset of E episodes.

    Attributes:
        findings: by episode in the order of the table, faults first, then by probability.
        power: what would be found in this dataset, and what cannot be found; None if it was not asked for.
        unavailable: by the name of a check that this dataset has no data for, why.
        episode_evidence: `(E,)`, one minus the least probability of a sound episode over all checks; for rankings.
        frame_evidence: for each episode `(T,)`, evidence of a fault in each frame, at least 0; for rankings.
        groups: number of episodes of each group that was compared within itself; the power is that of the first.
    """

    findings: tuple[Finding, ...]
    power: PowerCard | None
    unavailable: Mapping[str, str]
    episode_evidence: np.ndarray
    frame_evidence: tuple[np.ndarray, ...]
    groups: tuple[int, ...] = ()

    @property
    def flagged(self) -> list[int]:
        """Ids of the episodes with a fault, in rising order."""
        return flagged_episodes(self.findings)


def detect(
    table: EpisodeTable,
    *,
    state_feature: str = "observation.state",
    action_feature: str = "action",
    cameras: Sequence[str] | None = (),
    checks: Sequence[type[Check]] | None = None,
    power: bool = True,
    seed: int = 0,
) -> Detection:
    """
    Finds faults in a dataset, without labels and without a policy.

    A dataset of more than `MOST_EPISODES` episodes is divided into groups, and episodes are compared within their
    group; see `hf_ptr.data.episode_groups`.

    Args:
        table: the episodes.
        state_feature, action_feature: names of vector features, several joined by commas.
        cameras: names of the cameras whose images are decoded and checked; None for all.
        checks: the checks to use; by default all of [`all_checks`][hf_ptr.detection.registry.all_checks].
        power: whether to plant faults, to learn which ones would be found.
        seed: random seed of the planted faults and of the groups.

    Raises:
        InputError: a feature is missing or not finite, a camera is missing, or the table has one episode only.
    """
    groups = episode_groups(table, (state_feature, action_feature), seed)
    parts = [
        detect_together(
            table if len(groups) == 1 else table.select(ids.tolist()),
            state_feature=state_feature,
            action_feature=action_feature,
            cameras=cameras,
            checks=checks,
            power=power and not number,
            seed=seed,
        )
        for number, ids in enumerate(groups)
    ]
    return merged(table.episode_index, groups, parts)


def detect_together(
    table: EpisodeTable,
    *,
    state_feature: str = "observation.state",
    action_feature: str = "action",
    cameras: Sequence[str] | None = (),
    checks: Sequence[type[Check]] | None = None,
    power: bool = True,
    seed: int = 0,
) -> Detection:
    """As [`detect`][], with all episodes compared with each other, however many they are."""
    signals = Signals.of_table(table, state_feature, action_feature)
    if cameras is None or len(cameras):
        names = tuple(table.videos) if cameras is None else cameras
        signals = signals.with_tracks(read_tracks(table, names), names)
    return detect_in(signals, checks, power, seed)


def detect_in(
    signals: Signals, checks: Sequence[type[Check]] | None = None, power: bool = True, seed: int = 0
) -> Detection:
    """Finds faults in signals; see [`detect`][]."""
    detector = Detector(signals, all_checks() if checks is None else checks)
    hits: list[tuple[View, Hit]] = []
    least, evidence = [], []
    for view, measured in zip(detector.views, detector.measured, strict=True):
        hits += [(view, hit) for hit in detector.hits(view, measured)]
        least.append(detector.least_p(view, measured))
        evidence.append(detector.frame_evidence(view, measured))
    unavailable = {name: reason for name, reason in detector.unavailable.items() if reason is not None}
    card = power_card(detector, seed) if power else None
    return Detection(
        tuple(_findings(hits, detector)),
        card,
        unavailable,
        1 - np.array(least),
        tuple(evidence),
        (len(detector.views),),
    )


def merged(episode_index: np.ndarray, groups: Sequence[np.ndarray], parts: Sequence[Detection]) -> Detection:
    """
    What was found in a dataset whose groups of episodes were judged one by one; that of a single group as it is.

    Args:
        episode_index: `(E,)` ids of the episodes, in the order of the dataset.
        groups: ids of the episodes of each group.
        parts: what was found in each; the first has the power.
    """
    if len(parts) == 1:
        return parts[0]
    position = {episode: place for place, episode in enumerate(episode_index.tolist())}
    found = sorted((one for part in parts for one in part.findings), key=lambda one: position[one.episode_index])
    episode_evidence = np.empty(len(position))
    frame_evidence: dict[int, np.ndarray] = {}
    for ids, part in zip(groups, parts, strict=True):
        places = [position[episode] for episode in ids.tolist()]
        episode_evidence[places] = part.episode_evidence
        frame_evidence.update(zip(places, part.frame_evidence, strict=True))
    # A check that one group has data for works.
    unavailable = {
        name: reason
        for name, reason in parts[0].unavailable.items()
        if all(name in part.unavailable for part in parts)
    }
    return Detection(
        findings=tuple(found),
        power=parts[0].power,
        unavailable=unavailable,
        episode_evidence=episode_evidence,
        frame_evidence=tuple(frame_evidence[place] for place in range(len(position))),
        groups=tuple(size for part in parts for size in part.groups),
    )


def _findings(hits: Sequence[tuple[View, Hit]], detector: Detector) -> list[Finding]:
    """The findings of each check at each place of an episode."""
    signals = detector.context.signals
    number = {check.name: place for place, check in enumerate(detector.checks) if check.seen_everywhere}
    grouped: dict[tuple[int, str], list[Hit]] = {}
    for view, hit in hits:
        grouped.setdefault((view.episode.position, hit.check.name), []).append(hit)
    placed = [
        (position, *place)
        for (position, name), of_check in grouped.items()
        for place in places(
            of_check,
            len(signals.episodes[position]),
            detector.measured[position][number[name]].get(SHORT) if name in number else None,
        )
    ]
    found: list[tuple[int, Finding]] = []
    for severity in ("fault", "note"):
        chosen = [one for one in placed if one[1].check.severity == severity]
        p, positions = np.array([hit.p for _, hit, *_ in chosen]), np.array([position for position, *_ in chosen])
        alone = probabilities(p, positions, len(signals.episodes))
        # The expected share of false ones among all findings as improbable as this (Benjamini and Hochberg). It bounds
        # the second finding of an episode, which no density of episodes describes.
        expected = p * len(signals.episodes) / max(len(np.unique(positions)), 1)
        for row, (position, hit, first, stop) in enumerate(chosen):
            probability = float(max(alone[row], 1 - expected[row]))
            found.append((position, _finding(hit, signals.episode_index[position], first, stop, probability)))
    # Of equals the first in the order of the checks, which have the particular mechanisms before the general ones.
    found.sort(key=lambda one: (one[0], one[1].severity != "fault", -round(one[1].probability, 2)))
    return [finding for _, finding in found]


def _finding(hit: Hit, episode: int, first: int, stop: int, probability: float) -> Finding:
    return Finding(
        check=hit.check.name,
        episode_index=episode,
        first_frame=first,
        last_frame=stop - 1,
        probability=probability,
        severity=hit.check.severity,
        amount=hit.found.amount,
        unit=hit.check.unit,
        cause=hit.check.cause(hit.found),
        action=hit.check.action,
    )
