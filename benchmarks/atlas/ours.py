"""The detector of this package as a tool of the atlas."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from benchmarks.atlas.metrics import Judgement
from benchmarks.atlas.planted import ACTION, PART, STATE, Planted
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.detect import detect

OURS = "hf-ptr"
# The same findings, with notes counted as faults.
WITH_NOTES = "hf-ptr with notes"
OWN = (OURS, WITH_NOTES)
# By fault of the atlas, the plant of the power card that has the same kind and amount.
PROMISES = {
    "swapped": "actions of another episode",
    "noise 0.1": "noise of 0.1 standard deviations on the commands",
    "state noise 0.2": "noise of 0.2 standard deviations on the state",
    "late 6": "commands 6 frames late",
    "early 6": "commands 6 frames early",
    "late 3": "commands 3 frames late",
    "early 3": "commands 3 frames early",
    "reversed": "actions reversed in time",
    "flipped axis": "one dimension inverted",
    "gain 0.5": "all commands with gain 0.5",
    "gain 2": "all commands with gain 2",
    "gain 0.5 one": "one dimension with gain 0.5",
    "offset 0.5": "one dimension shifted by 0.5 standard deviations",
    "exchanged": "two dimensions exchanged",
    "dead": "one dimension dead",
    "action spikes 1": "three spikes of one standard deviation in the commands",
    "state spikes 1": "three spikes of one standard deviation in the state",
    "doubled": "every frame twice",
    "idle tail 3": "a rest of 3 s at the end",
    "duplicate": "a copy of another episode",
}


def judge(planted: Planted, power: bool = True) -> dict[str, Judgement]:
    """
    The episodes with a finding of severity `fault`, and those with any finding; ranked by probability.

    Args:
        planted: the dataset with a fault.
        power: whether to look up the promised power, for which the dataset's power card is measured once.
    """
    table = planted.table
    found = detect(table, state_feature=STATE, action_feature=ACTION, power=False)
    promised = None
    if power and planted.fault in PROMISES:
        promised = promises(planted.original).get((PROMISES[planted.fault], planted.part == PART))
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
        judgements[tool] = Judgement(flagged, found.episode_evidence, places, evidence, promised)
    return judgements


@lru_cache(maxsize=1)
def promises(table: EpisodeTable) -> dict[tuple[str, bool], float | None]:
    """The power card of a dataset: by plant and whether it is in a part, the probability that it would be found."""
    card = detect(table, state_feature=STATE, action_feature=ACTION).power
    return {} if card is None else {(power.fault, power.part): power.probability for power in card.powers}
