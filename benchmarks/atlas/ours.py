"""The detector of this package as a tool of the atlas."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.metrics import Judgement
from benchmarks.atlas.planted import ACTION, STATE, Planted
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.signals import Signals


def judge(planted: Planted) -> Judgement:
    """The episodes with a finding of severity `fault`, ranked by the least probability of anything measured."""
    table = planted.table
    detector = Detector(Signals.of_table(table, STATE, ACTION), all_checks())
    flagged, score = np.zeros(table.num_episodes, dtype=bool), np.zeros(table.num_episodes)
    places = {}
    for number, (view, measured) in enumerate(zip(detector.views, detector.measured, strict=True)):
        hits = [hit for hit in detector.hits(view, measured) if hit.check.severity == "fault"]
        flagged[number] = bool(hits)
        score[number] = -detector.least_p(view, measured)
        places[number] = np.zeros(len(view.episode), dtype=bool)
        for hit in hits:
            places[number][hit.found.first : hit.found.stop] = True
    return Judgement(flagged, score, places)
