"""Two sets of findings of one dataset, before and after an edit or a new version: new, gone and changed findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from hf_ptr.detection.findings import Finding

# Share of the common frames among all frames of two findings, below which the place has changed; ratio of the smaller
# to the larger amount, below which the amount has; and change of a mean weight as a share of the largest weight.
SAME_PLACE, SAME_AMOUNT, SAME_WEIGHT = 0.8, 0.8, 0.05


@dataclass(frozen=True)
class Change:
    """
    A finding in both sets.

    Attributes:
        before, after: the finding in each set.
        what: what differs: `amount`, `place`, `severity`.
    """

    before: Finding
    after: Finding
    what: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """
    The difference of two sets of findings.

    Attributes:
        new: findings of the second set only.
        gone: findings of the first set only.
        changed: findings of both that differ.
        same: number of the others of both.
        weights: by id of the episode, the mean weight before and after, each as a share of the largest weight of its
            file, where it has changed.
        only: ids of the episodes that only the first and only the second set was made of.
    """

    new: list[Finding]
    gone: list[Finding]
    changed: list[Change]
    same: int
    weights: dict[int, tuple[float, float]]
    only: tuple[list[int], list[int]]

    @property
    def new_faults(self) -> list[Finding]:
        """Findings of severity `fault` that are new, or were notes or accepted before."""
        worse = [one.after for one in self.changed if "severity" in one.what]
        return [found for found in (*self.new, *worse) if found.severity == "fault"]

    @property
    def differs(self) -> bool:
        """Whether a finding, a weight or the episodes differ."""
        return bool(self.new or self.gone or self.changed or self.weights or any(self.only))

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "new": [asdict(found) for found in self.new],
            "gone": [asdict(found) for found in self.gone],
            "changed": [
                {"what": list(one.what), "before": asdict(one.before), "after": asdict(one.after)}
                for one in self.changed
            ],
            "same": self.same,
            "weights": [
                {"episode_index": episode, "before": before, "after": after}
                for episode, (before, after) in self.weights.items()
            ],
            "only_before": self.only[0],
            "only_after": self.only[1],
        }


def compare_findings(
    before: Sequence[Finding],
    after: Sequence[Finding],
    scores: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> Comparison:
    """
    Compares two sets of findings, and the weights of their score files.

    Findings of one check in one episode are the same if they have a frame in common; of several, those with the most.

    Args:
        before, after: the findings.
        scores: rows of both score files; None to compare findings only.
    """
    alike: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for position, other in enumerate(after):
        alike[other.check, other.episode_index].append(position)
    pairs = sorted(
        (-_common(one, after[position]), place, position)
        for place, one in enumerate(before)
        for position in alike[one.check, one.episode_index]
        if _common(one, after[position]) > 0
    )
    match: dict[int, int] = {}
    taken: set[int] = set()
    for _, place, position in pairs:
        if place not in match and position not in taken:
            match[place] = position
            taken.add(position)
    changed, same = [], 0
    for place, position in sorted(match.items()):
        what = _differences(before[place], after[position])
        if what:
            changed.append(Change(before[place], after[position], what))
        else:
            same += 1
    weights, only = ({}, ([], [])) if scores is None else _weights(*scores)
    return Comparison(
        new=[found for position, found in enumerate(after) if position not in taken],
        gone=[found for place, found in enumerate(before) if place not in match],
        changed=changed,
        same=same,
        weights=weights,
        only=only,
    )


def _common(one: Finding, other: Finding) -> int:
    return min(one.last_frame, other.last_frame) + 1 - max(one.first_frame, other.first_frame)


def _differences(one: Finding, other: Finding) -> tuple[str, ...]:
    either = max(one.last_frame, other.last_frame) + 1 - min(one.first_frame, other.first_frame)
    small, large = sorted((abs(one.amount), abs(other.amount)))
    what = []
    if one.severity != other.severity:
        what.append("severity")
    if one.unit != other.unit or one.amount * other.amount < 0 or small < SAME_AMOUNT * large:
        what.append("amount")
    if _common(one, other) < SAME_PLACE * either:
        what.append("place")
    return tuple(what)


def _weights(
    before: pd.DataFrame, after: pd.DataFrame
) -> tuple[dict[int, tuple[float, float]], tuple[list[int], list[int]]]:
    first, second = (rows.groupby("episode_index")["weight"].mean() / rows["weight"].max() for rows in (before, after))
    both = first.index.intersection(second.index)
    changed = {
        int(episode): (float(first[episode]), float(second[episode]))
        for episode in both
        if abs(first[episode] - second[episode]) > SAME_WEIGHT
    }
    alone = [one.index.difference(other.index).tolist() for one, other in ((first, second), (second, first))]
    return changed, (alone[0], alone[1])
