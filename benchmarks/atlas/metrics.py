"""The figures of a cell: found carriers, false alarms, ranking and place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.atlas.planted import Planted
from hf_ptr.metrics.statistics import auroc

# Lengths of a matched pair differ by at most this share of the longer.
MATCHED = 0.1


@dataclass(frozen=True)
class Judgement:
    """
    A tool's answer about a dataset of E episodes.

    Attributes:
        flagged: `(E,)` bool, episodes that it calls faulty; None for a tool that only ranks.
        score: `(E,)`, larger is worse; None for a tool without a ranking. NaN where an episode has no score.
        places: by position of an episode, `(T,)` bool, the frames that it calls faulty.
        evidence: by position of an episode, `(T,)`, larger is worse.
        power: probability with which the tool said it would find this fault, or None.
    """

    flagged: np.ndarray | None
    score: np.ndarray | None = None
    places: dict[int, np.ndarray] = field(default_factory=dict)
    evidence: dict[int, np.ndarray] = field(default_factory=dict)
    power: float | None = None


def figures(planted: Planted, judgement: Judgement, harmless: bool) -> dict[str, float | None]:
    """
    The figures of a cell, None where undefined.

    `recall` is the share of the carriers that is flagged, `false_alarms` that of the other episodes. Where the
    planted peculiarity is harmless, `recall` is undefined and `false_alarms` is the share of its carriers. `iou` is a
    mean over the carriers that are flagged, `auroc_frames` over all.
    """
    carriers, flagged, score = planted.carriers, judgement.flagged, judgement.score
    found: dict[str, float | None] = dict.fromkeys(
        ("recall", "false_alarms", "auroc", "auroc_length_matched", "auroc_frames", "iou")
    )
    if flagged is not None:
        sound = carriers if harmless else planted.sound
        found["false_alarms"] = float(flagged[sound].mean())
        if not harmless and carriers.any():
            found["recall"] = float(flagged[carriers].mean())
    if score is not None:
        # An episode without a score stands behind all others.
        score = np.where(np.isnan(score), -np.inf, score)
        found["auroc"] = auroc(score[carriers], score[planted.sound])
        found["auroc_length_matched"] = _matched(score, planted)
    places, frames = [], []
    for number, faulty in planted.frames.items():
        if flagged is not None and flagged[number] and number in judgement.places:
            place = judgement.places[number]
            places.append((place & faulty).sum() / (place | faulty).sum())
        if number in judgement.evidence and faulty.any() and not faulty.all():
            evidence = judgement.evidence[number]
            frames.append(auroc(evidence[faulty], evidence[~faulty]))
    found["iou"] = float(np.mean(places)) if places else None
    found["auroc_frames"] = float(np.mean(frames)) if frames else None
    return found


def _matched(score: np.ndarray, planted: Planted) -> float | None:
    """Probability that a carrier's score is above that of a sound episode of about its length, ties counted as 1/2."""
    lengths, carriers, sound = planted.table.lengths, planted.carriers, planted.sound
    bad, good = lengths[carriers][:, None], lengths[sound][None]
    pairs = np.abs(bad - good) <= MATCHED * np.maximum(bad, good)
    if not pairs.any():
        return None
    above = (score[carriers][:, None] > score[sound]) + 0.5 * (score[carriers][:, None] == score[sound])
    return float(above[pairs].mean())
