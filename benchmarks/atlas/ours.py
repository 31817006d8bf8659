"""The detector of this package as a tool of the atlas."""

from __future__ import annotations

import numpy as np

from benchmarks.atlas.metrics import Judgement
from benchmarks.atlas.planted import ACTION, STATE, Planted
from hf_ptr.detection.detect import detect

OURS = "hf-ptr"
# The same findings, with notes counted as faults.
WITH_NOTES = "hf-ptr with notes"


def judge(planted: Planted) -> dict[str, Judgement]:
    """The episodes with a finding of severity `fault`, and those with any finding; ranked by probability."""
    table = planted.table
    found = detect(table, state_feature=STATE, action_feature=ACTION)
    positions = {episode: position for position, episode in enumerate(table.episode_index.tolist())}
    evidence = dict(enumerate(found.frame_evidence))
    judgements = {}
    for tool, severities in ((OURS, ("fault",)), (WITH_NOTES, ("fault", "note"))):
        flagged = np.zeros(table.num_episodes, dtype=bool)
        places: dict[int, np.ndarray] = {}
        for finding in found.findings:
            if finding.severity in severities:
                position = positions[finding.episode_index]
                flagged[position] = True
                place = places.setdefault(position, np.zeros(int(table.lengths[position]), dtype=bool))
                place[finding.first_frame : finding.last_frame + 1] = True
        judgements[tool] = Judgement(flagged, found.episode_probability, places, evidence)
    return judgements
